"""The trials that the doctor runs in a child process: `python -m kdcache.doctor.trials NAME ARGUMENTS...`.

Each trial loads only what it tries, and what it returns is printed as JSON. An error is printed as a failure; what
kills the process speaks for itself.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from kdcache.doctor.device_trials import compute, compute_on_gpus, decode
from kdcache.doctor.place_trials import account, anything, cache, data, folder, weights, writing

TRIALS: dict[str, Callable[..., dict[str, Any]]] = {
    trial.__name__: trial
    for trial in (compute, compute_on_gpus, decode, account, folder, anything, data, cache, writing, weights)
}


def outcome_of(name: str, *arguments: str) -> dict[str, Any]:
    """Return the result of a trial, as the fields of a `kdcache.doctor.child.Outcome`."""
    from kdcache.errors import KdcacheError, reason

    try:
        return {"values": TRIALS[name](*arguments)}
    except KdcacheError as error:
        return {"failure": str(error), "ending": "refusal"}
    except OSError as error:
        return {"failure": reason(error), "errno": error.errno}
    except Exception as error:
        return {"failure": f"{type(error).__name__}: {reason(error)}"}


def main(name: str, *arguments: str) -> None:
    """Print the result of a trial as one JSON object, and nothing else: stdout is reserved for it."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    outcome = outcome_of(name, *arguments)
    with out:
        json.dump(outcome, out)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""`kdcache doctor`: checks whether kdcache can run on this machine.

This process uses neither PyTorch, DALI, Zarr nor a mount: everything that can crash or hang runs in a child process.
"""

from collections.abc import Generator, Iterator
from typing import TypeVar

from kdcache.doctor.child import Outcome, attempt
from kdcache.doctor.findings import Finding, failed, fault, note, ok
from kdcache.doctor.machine import (
    granted_cores,
    judge_driver,
    judge_gpus,
    judge_threads,
    look_at_shared_memory,
    look_for_gpus,
    usable,
)
from kdcache.doctor.options import DoctorOptions
from kdcache.doctor.places import look_at_account, look_at_cache, look_at_data, look_at_folder, look_at_weights
from kdcache.doctor.software import install, look_at_software
from kdcache.errors import reason
from kdcache.runtime import account

Result = TypeVar("Result")

#: Levels of 255 by which DALI's pixels may differ from Pillow's on average; resizing alone gives 0.2.
DIFFERENCE = 1.0


def examine(data: str | None = None, cache: str | None = None, limit: float = DoctorOptions.limit) -> Iterator[Finding]:
    """Yield one finding after the other; kdcache can run if none is a fault.

    Args:
        data, cache: shards and cache of a later `dump-logits` or `train`; None checks their defaults, where shards
            may be missing.
        limit: seconds for each trial.
    """
    yield from _whole("packages", look_at_software())
    gpus = (yield from _whole("PyTorch", _compute(limit))) or 0
    yield from _whole("DALI", _decode(gpus, limit))
    yield from _whole("shared memory", look_at_shared_memory(gpus))
    yield from _whole("account", look_at_account(account.NOTE, limit))
    yield from _whole("data", look_at_data(data or "./data", data is not None, limit))
    yield from _whole("cache", look_at_cache(cache or "./cache", limit))
    yield from _whole("runs", look_at_folder("runs", "runs", "--out names another folder.", limit))
    yield from _whole("weights", look_at_weights(limit))


def _whole(subject: str, findings: Generator[Finding, None, Result]) -> Generator[Finding, None, Result | None]:
    """Yield findings and return their result; an unexpected error becomes a finding, so that later checks still run."""
    try:
        return (yield from findings)
    except Exception as error:
        yield note(
            subject,
            f"It could not be checked completely ({type(error).__name__}: {reason(error)}).",
            "The doctor is at fault here: report it with this line, and run the job.",
        )
        return None


def _compute(limit: float) -> Generator[Finding, None, int]:
    """Check PyTorch, threads, driver and GPUs; return the number of usable GPUs."""
    outcome = attempt("compute", limit=limit)
    if outcome.failure is not None:
        yield failed("PyTorch", "It cannot be used", outcome, install("torch", again=True))
        return 0
    computed = outcome.values
    yield ok("PyTorch", f"{computed['torch']} computes on the CPU")
    yield judge_threads(computed, granted_cores())
    yield judge_driver(look_for_gpus(limit), computed)
    if not computed["available"]:
        return 0
    tried = attempt("compute_on_gpus", limit=limit)
    yield judge_gpus(tried)
    return usable(tried)


def _decode(gpus: int, limit: float) -> Generator[Finding, None, None]:
    for where in ("cpu", "gpu") if gpus else ("cpu",):
        yield judge_decoding(where, attempt("decode", where, limit=limit))


def judge_decoding(where: str, outcome: Outcome) -> Finding:
    """Return the finding for the trial `decode`, on the "cpu" or the "gpu"."""
    subject = f"DALI on the {where.upper()}"
    other = "--renderer pillow" if where == "cpu" else "--decode cpu"
    if outcome.failure is not None:
        again = install("nvidia-dali-cuda120", again=True)
        return failed(subject, "It cannot decode a JPEG", outcome, f"Until then use {other}, which is slower. {again}")
    if outcome.values["full"]:
        return note(subject, "It was not checked: the GPU's memory is full.", "Wait for, or end, what runs there.")
    difference = outcome.values["difference"]
    if difference > DIFFERENCE:
        return fault(
            subject,
            f"It decodes a JPEG, but {difference:.1f} of 255 levels away from Pillow.",
            f"Until then use {other}, which is slower. {install('nvidia-dali-cuda120', 'pillow', again=True)}",
        )
    version = outcome.values["version"].split()[1]
    return ok(subject, f"{version} decodes a JPEG, {difference:.2f} of 255 levels from Pillow")

"""`kdcache doctor`: whether the main job can run on this machine, thing by thing.

Nothing of PyTorch, DALI, Zarr or a mount is touched by this process: whatever can crash or hang is tried in another.
"""

from collections.abc import Iterator
from pathlib import Path

from kdcache.doctor.child import Outcome, attempt
from kdcache.doctor.findings import Finding, fault, note, ok
from kdcache.doctor.machine import (
    granted_cores,
    judge_driver,
    judge_gpus,
    judge_threads,
    look_at_shared_memory,
    look_for_gpus,
)
from kdcache.doctor.places import look_at_cache, look_at_data, look_at_folder
from kdcache.doctor.software import look_at_software

#: Seconds that each trial may take: importing PyTorch from a cold network disk takes a good part of it.
LIMIT = 120.0
#: Levels of 255 by which DALI's pixels may differ from Pillow's on average; resizing alone gives 0.2.
DIFFERENCE = 1.0


def examine(data: str | None = None, cache: str | None = None, limit: float = LIMIT) -> Iterator[Finding]:
    """One finding after the other, as they are made; the main job can run where none is a fault.

    Args:
        data, cache: what `dump-logits` and `train` would be given; None looks at their defaults, of which no shards
            need be there yet.
        limit: seconds for each trial.
    """
    yield from look_at_software()
    gpus = 0
    for finding, count in _compute(limit):
        gpus += count
        yield finding
    yield _decode("cpu", limit)
    if gpus:
        yield _decode("gpu", limit)
    yield from look_at_shared_memory(gpus)
    yield look_at_data(data or "./data", data is not None, limit)
    yield from look_at_cache(cache or "./cache", limit)
    yield from look_at_folder("runs", Path("runs"), "Give another folder to train with --out.", limit)
    yield from _weights(limit)


def _compute(limit: float) -> Iterator[tuple[Finding, int]]:
    """What PyTorch can do here, each finding with the number of usable GPUs that it tells of."""
    outcome = attempt("compute", limit=limit)
    if outcome.failure is not None:
        remedy = "Install the pinned version again: pip install --force-reinstall --constraint constraints.txt torch"
        yield fault("PyTorch", f"It cannot be used: {outcome.failure}.", remedy), 0
        return
    computed = outcome.answer
    yield ok("PyTorch", f"{computed['torch']} computes on the CPU"), 0
    yield judge_threads(computed, granted_cores()), 0
    yield judge_driver(look_for_gpus(limit), computed), 0
    if computed["available"]:
        tried = attempt("compute_on_gpus", limit=limit)
        yield judge_gpus(tried), len(tried.answer.get("gpus", ()))


def _decode(where: str, limit: float) -> Finding:
    return judge_decoding(where, attempt("decode", where, limit=limit))


def judge_decoding(where: str, outcome: Outcome) -> Finding:
    """What is to be said of the trial `decode`, on the "cpu" or the "gpu"."""
    subject = f"DALI on the {where.upper()}"
    other = "--renderer pillow" if where == "cpu" else "--decode cpu"
    if outcome.failure is not None:
        return fault(
            subject,
            f"It cannot decode a JPEG: {outcome.failure.rstrip('.')}.",
            f"Install nvidia-dali-cuda120 again in the version of constraints.txt; until then use {other}, "
            "which is slower.",
        )
    if outcome.answer["full"]:
        return note(subject, "It was not tried: the GPU's memory is full.", "Wait for, or end, what runs there.")
    difference = outcome.answer["difference"]
    if difference > DIFFERENCE:
        return fault(
            subject,
            f"It decodes a JPEG, but {difference:.1f} of 255 levels away from Pillow.",
            f"Install the versions of constraints.txt; until then use {other}.",
        )
    version = outcome.answer["version"].split()[1]
    return ok(subject, f"{version} decodes a JPEG, {difference:.2f} of 255 levels from Pillow")


def _weights(limit: float) -> Iterator[Finding]:
    remedy = "Set HF_HOME to a folder that can be written, or give weights with --weights FILE."
    outcome = attempt("weights", limit=limit)
    if outcome.failure is not None:
        yield note("weights", f"The hub's client cannot be used: {outcome.failure}.", remedy)
    elif outcome.answer["offline"]:
        yield ok("weights", f"from {outcome.answer['path']} alone: HF_HUB_OFFLINE is set")
    else:
        yield from look_at_folder("weights", Path(outcome.answer["path"]), remedy, limit)

"""The three commands of kdcache from end to end, and the same in fp16."""

import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import kdcache
from gpu.data import FEWEST_VIEWS, Workplace
from gpu.page import Line, Table, cause
from gpu.setting import Setting
from kdcache.runtime.device import resolve_precision
from kdcache.runtime.progress import silent
from kdcache.training.logs import METRICS
from kdcache.training.metrics import read_metrics

#: Targets that the teacher computes again.
_VERIFIED = 256
#: Steps from which on a training that works has a lower loss than in its first epoch, whatever was drawn.
_MANY_STEPS = 200


def jobs(setting: Setting) -> Iterator[Table]:
    """`dump-logits`, `verify` with the teacher, `train` in bf16, and `evaluate`, each on what the one before made."""
    with tempfile.TemporaryDirectory() as folder:
        place = Workplace.create(Path(folder), setting)
        chosen = resolve_precision("auto", setting.device)
        precision = "bf16" if chosen == "bf16" or not setting.on_gpu else chosen
        steps = {
            "dump-logits": lambda: dumped(place, None),
            "verify, with the teacher": lambda: verified(place),
            f"train, {setting.steps} steps in {precision}": lambda: trained(place, precision, setting.steps),
            "evaluate": lambda: evaluated(place),
        }
        yield from told("From end to end", steps)


def fp16(setting: Setting) -> Iterator[Table]:
    """A dump and a short training in fp16, with its scaler of gradients; in bf16 where there is no GPU."""
    precision = "fp16" if setting.on_gpu else "bf16"
    with tempfile.TemporaryDirectory() as folder:
        place = Workplace.create(Path(folder), setting)
        steps = {
            "dump-logits": lambda: dumped(place, precision),
            "train": lambda: trained(place, precision, 2 * place.steps_per_epoch),
        }
        yield from told(f"In {precision}", steps)


def told(title: str, steps: dict[str, Callable[[], str]]) -> Iterator[Table]:
    """Each step as a line; the first that fails ends it, as those after it need what it makes."""
    lines: list[Line] = []
    for what, step in steps.items():
        try:
            lines.append(Line((what, step()), True))
        except Exception as error:
            lines.append(Line((what, cause(error)), False))
        yield Table(title, ("command", "result"), tuple(lines))
        if not lines[-1].holds:
            return


def dumped(place: Workplace, precision: str | None) -> str:
    """Fill the cache."""
    report = place.dump("cache", views=FEWEST_VIEWS if place.setting.is_tiny else 2 * FEWEST_VIEWS, precision=precision)
    return f"{report.images_per_s or 0:,.0f} images/s"


def verified(place: Workplace) -> str:
    """Compare the cache with the teacher, run again in the same way."""
    setting = place.setting
    report = kdcache.verify(
        str(place.folder / "cache"),
        data=place.data,
        teacher=setting.teacher,
        weights=place.weights,
        samples=min(_VERIFIED, setting.samples),
        device=place.device,
        decode=setting.decode,
        progress=silent,
    )
    if not report.whole:
        raise ArithmeticError(" ".join(report.lines()))
    return "the teacher gives the same targets again"


def trained(place: Workplace, precision: str, steps: int) -> str:
    """Train from the cache; the loss must be a number, and fall in a training of many steps."""
    epochs = max(2, steps // place.steps_per_epoch)
    report = place.train("run", precision=precision, epochs=epochs)
    losses = [float(row["loss"] or math.nan) for row in read_metrics(report.folder / METRICS)]
    if not all(map(math.isfinite, losses)):
        raise ArithmeticError(f"losses of the epochs: {losses}")
    if steps >= _MANY_STEPS and losses[-1] >= losses[0]:
        raise ArithmeticError(
            f"the loss has not fallen: {losses[0]:.4f} in the first epoch, {losses[-1]:.4f} in the last"
        )
    return f"{report.images_per_s or 0:,.0f} images/s; loss {losses[0]:.4f}, then {losses[-1]:.4f}"


def evaluated(place: Workplace) -> str:
    """Score the run folder on its own images."""
    setting = place.setting
    scores = kdcache.evaluate(
        str(place.folder / "run"), place.data, device=place.device, batch_size=setting.batch, progress=silent
    )
    if not math.isfinite(scores.loss):
        raise ArithmeticError(f"the loss is {scores.loss}")
    return f"top-1 {scores.top1:.3f}, loss {scores.loss:.3f}"

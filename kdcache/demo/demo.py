"""`kdcache demo`: the quick start on real images, small enough for two CPU cores, with a table of the results.

In this setting distillation has a clear gain: the teacher was trained on all 60,000 training images of Fashion-MNIST,
and the students see 6,000 of them. `docs/demo.md` explains how it was chosen, and on which test images.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from kdcache.data.importers.fashion_mnist import Split, import_fashion_mnist
from kdcache.data.shards import CLASSES, INCOMPLETE
from kdcache.demo.options import DemoOptions
from kdcache.dumping.dump import dump
from kdcache.dumping.options import DumpOptions
from kdcache.dumping.report import DumpReport
from kdcache.errors import RunError
from kdcache.evaluation.evaluate import EvaluateOptions, evaluate
from kdcache.evaluation.report import Scores
from kdcache.evaluation.scores import Interval, paired_bootstrap
from kdcache.io.atomic import PARTIAL_NAME, remove_known, replace_file
from kdcache.io.failures import cannot_write
from kdcache.io.folder_lock import hold_folder, is_lock_file, require_not_held_within
from kdcache.io.folders import open_folder
from kdcache.io.json_format import parse_json
from kdcache.io.reading import read_bytes
from kdcache.runtime.progress import Progress, logged
from kdcache.training.options import TrainOptions
from kdcache.training.train import TrainReport, train
from kdcache.version import __version__

TEACHER = "ese_vovnet19b_slim"
STUDENT = "test_resnet"
RECIPE = "fashion-mnist"
EPOCHS = 20
#: Epochs and images of a quick run, which takes every step; its scores have no meaning.
QUICK = (2, 512)
_SPLITS: tuple[Split, ...] = ("train", "test")
_MARK = ".kdcache-demo"
#: Paths below a demo's folder that a demo creates; the next demo removes only these.
_KNOWN = re.compile(
    r"data(/(train|test)(/.*)?)?|cache\.zarr(/.*)?|runs(/(from-cache|alone|live)(/.*)?)?",
    re.DOTALL,
)


@dataclass(frozen=True)
class DemoRow:
    """One line of the table: a model's score, and the images per second of its stage."""

    name: str
    top1: float
    images_per_s: float | None
    bytes_per_view: float | None
    folder: str


@dataclass(frozen=True)
class DemoReport:
    """The results of a demo.

    Attributes:
        rows: teacher, student alone, distilled live, distilled from the cache.
        gain: gain in top-1 of the student distilled from the cache over the student alone, in percentage points, with
            its interval over the test images (`paired_bootstrap`).
        live_gap: gain of the student distilled from the cache over the one distilled live.
        stages: seconds of each stage.
    """

    rows: tuple[DemoRow, ...]
    test_images: int
    gain: Interval
    live_gap: Interval
    stages: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the results as plain values."""
        return asdict(self)

    def summary(self) -> list[str]:
        """Return the gains as sentences."""
        return [
            f"Distilled from the cache against alone: {_points(self.gain)} (paired, {self.test_images:,} test images, "
            "one seed).",
            f"Distilled from the cache against live: {_points(self.live_gap)}.",
        ]


def demo(
    out: Path,
    progress: Progress = logged,
    *,
    seed: int = DemoOptions.seed,
    renderer: str = DemoOptions.renderer,
    epochs: int = EPOCHS,
    limit: int | None = None,
) -> DemoReport:
    """Run both stages and their baselines in the folder `out`.

    An interrupted demo with the same settings continues; steps done before have no speed in the table. Files of any
    other demo are removed first.

    Args:
        seed: seed of views and students.
        epochs: number of epochs.
        limit: number of training and of test images; None for all.

    Raises:
        RunError: `out` holds files of something else.
        FolderHeldError: another process writes `out` or a folder in it.
    """
    remedy = "Wait until it has ended, or give another --out."
    settings = {"kdcache": __version__, "seed": seed, "renderer": renderer, "epochs": epochs, "limit": limit}
    with _refusals(out):
        lock = hold_folder(out, f"The demo's folder {out}", remedy, progress.say)
    with lock:
        require_not_held_within(out, remedy, progress.say)
        if _enter(out, settings):
            progress.say(f"Continuing the demo that was interrupted in {out}; times cover only this run.")
        with resources.as_file(resources.files("kdcache.data.sample") / "teacher.safetensors") as weights:
            report = _Stages(out, progress, weights, seed, renderer, epochs, limit).run()
        _write_mark(out, settings, finished=True)
    return report


@dataclass(frozen=True)
class _Stages:
    """The stages of a demo, each of which adds its seconds to `seconds`.

    Attributes:
        weights: file of the teacher's weights.
        limit: number of training and of test images; None for all.
    """

    out: Path
    progress: Progress
    weights: Path
    seed: int
    renderer: str
    epochs: int
    limit: int | None
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self) -> DemoReport:
        """Run all stages, in the order of their table."""
        with self._timed("shards"):
            for split in _SPLITS:
                _import(Path(self._data(split)), split, self.limit, self.progress)
        with self._timed("dump-logits"):
            dumped = self._dump()
        cached = self._train("from-cache", "train from the cache")
        # The same views as those of the cache.
        alone = self._train("alone", "train alone", supervised=True, overrides=(f"views.seed={self.seed}",))
        live = self._train("live", "train with the teacher live", online_teacher=TEACHER, teacher_weights=self.weights)
        with self._timed("evaluate"):
            of_teacher = self._evaluate(TEACHER, self.weights)
            scores = {report.folder: self._evaluate(str(report.folder)) for report in (cached, alone, live)}

        def row(name: str, report: TrainReport, bytes_per_view: float | None = None) -> DemoRow:
            top1 = scores[report.folder].top1
            return DemoRow(name, top1, report.images_per_s, bytes_per_view, str(report.folder))

        return DemoReport(
            rows=(
                DemoRow(f"teacher ({TEACHER})", of_teacher.top1, dumped.images_per_s, None, self._cache),
                row("student alone", alone),
                row("distilled live", live),
                row("distilled from the cache", cached, dumped.bytes_per_view),
            ),
            test_images=of_teacher.samples,
            gain=self._gain(scores[cached.folder], scores[alone.folder]),
            live_gap=self._gain(scores[cached.folder], scores[live.folder]),
            stages=self.seconds,
        )

    @property
    def _cache(self) -> str:
        return str(self.out / "cache.zarr")

    def _data(self, split: Split) -> str:
        return str(self.out / "data" / split)

    def _dump(self) -> DumpReport:
        options = DumpOptions(
            teacher=TEACHER,
            data=self._data("train"),
            cache=self._cache,
            weights=self.weights,
            views=self.epochs,
            policy=RECIPE,
            seed=self.seed,
            device="cpu",
            renderer=self.renderer,
        )
        return dump(options, self.progress)

    def _train(self, folder: str, stage: str, **source: Any) -> TrainReport:
        """Train a student on the views of the cache; its targets come from there unless `source` says otherwise."""
        options = TrainOptions(
            student=STUDENT,
            data=self._data("train"),
            cache=self._cache,
            recipe=RECIPE,
            epochs=self.epochs,
            out=self.out / "runs" / folder,
            seed=self.seed,
            device="cpu",
            renderer=self.renderer,
        )
        with self._timed(stage):
            return train(replace(options, **source), self.progress)

    def _evaluate(self, model: str, weights: Path | None = None) -> Scores:
        return evaluate(EvaluateOptions(model, self._data("test"), weights=weights, device="cpu"), self.progress)

    def _gain(self, scores: Scores, reference: Scores) -> Interval:
        """Return the gain in top-1 over a reference on the same images, in percentage points."""
        gain = paired_bootstrap(scores.correct, reference.correct, seed=self.seed)
        return replace(gain, mean=100 * gain.mean, low=100 * gain.low, high=100 * gain.high)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - start


def _points(gain: Interval) -> str:
    return (
        f"{gain.mean:+.2f} points of top-1, {100 * gain.confidence:.0f} % interval {gain.low:+.2f} to {gain.high:+.2f}"
    )


def _enter(out: Path, settings: Mapping[str, object]) -> bool:
    """Prepare `out` for a demo with these settings; return whether an interrupted one continues there."""
    ours = (path for path in out.iterdir() if not (PARTIAL_NAME.fullmatch(path.name) or is_lock_file(path.name)))
    there = set(ours)
    with _refusals(out):
        _require_no_links(out)
    if there and out / _MARK not in there:
        raise RunError(f"{out} holds files that no demo wrote: give an empty or new folder with --out.")
    if there and _read_mark(out) == {**settings, "finished": False}:
        return True
    for key in ("data", "cache.zarr", "runs"):  # the mark stays, because removing may be interrupted as well
        with _refusals(out):
            remove_known(out, key, _KNOWN)
    _write_mark(out, settings, finished=False)
    return False


@contextmanager
def _refusals(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(cannot_write(out, error, "The demo continues where it stopped")) from error


def _require_no_links(out: Path) -> None:
    """Raise LinkError where one of the folders that a demo writes is a link: only `out` was given by the user."""
    for key in ("data/train", "data/test", "cache.zarr", "runs/from-cache", "runs/alone", "runs/live"):
        with suppress(FileNotFoundError):
            open_folder(out, key).close()


def _write_mark(out: Path, settings: Mapping[str, object], *, finished: bool) -> None:
    with _refusals(out):
        replace_file(out, _MARK, json.dumps({**settings, "finished": finished}).encode())


def _read_mark(out: Path) -> object:
    try:
        return parse_json(read_bytes(out / _MARK))
    except (OSError, ValueError):
        return None


def _import(folder: Path, split: Split, limit: int | None, progress: Progress) -> None:
    """Import a split, unless an interrupted demo has imported it."""
    if not (folder / CLASSES).exists() or (folder / INCOMPLETE).exists():
        import_fashion_mnist(folder, split=split, source="sample", limit=limit, progress=progress)

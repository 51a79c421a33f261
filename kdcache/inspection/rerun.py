"""Runs the teacher again, to check that a cache's targets belong to these images and these weights."""

from collections.abc import Iterator, Set
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from kdcache.cache.entry import Entry
from kdcache.cache.store import Cache
from kdcache.cache.stream import stream_targets
from kdcache.cache.verify import Finding
from kdcache.data.index import open_index
from kdcache.data.reader import SampleReader
from kdcache.errors import CorruptError, IdentityError, ModelError, UnknownModelError, UsageError
from kdcache.inspection.options import VerifySettings
from kdcache.inspection.sampling import spread_batches
from kdcache.loader.live_teacher import LiveTeacher, WantedTeacher, open_live_module, open_live_teacher, teachers_of
from kdcache.loader.opening import OpenViews, entry_name, stored_views, with_lost_of
from kdcache.loader.provenance import imports_of
from kdcache.loader.teacher_views import teacher_labels
from kdcache.models.hub import pretrained_classes
from kdcache.models.names import architecture, module_of
from kdcache.models.run_weights import imports_of_run
from kdcache.models.source import model_source
from kdcache.models.teacher_module import TeacherModule
from kdcache.render.opening import open_renderer
from kdcache.runtime.device import resolve_device, use_all_cores
from kdcache.runtime.formatting import format_count
from kdcache.runtime.imports import import_modules, naming_imports
from kdcache.runtime.progress import Progress
from kdcache.targets.error import coded, divergence
from kdcache.views.stream import stream_views
from kdcache.views.viewset import RowIndices, RowRange

#: Factor by which the limit for a single target exceeds that for the mean.
WORST = 100.0


@dataclass(frozen=True)
class Compared:
    """How much was compared: targets, and blocks and views with at least one of them."""

    targets: int
    blocks: int
    views: int
    recorded_targets: int
    recorded_blocks: int
    recorded_views: int

    def lines(self) -> list[str]:
        """Return a sentence about targets that were not compared; none if all were."""
        targets, blocks = self.recorded_targets - self.targets, self.recorded_blocks - self.blocks
        if not targets:
            return []
        among = f", among them all of {format_count(blocks, 'block')}," if blocks else ""
        rest = f"The other {format_count(targets, 'target')}{among} {'was' if targets == 1 else 'were'}"
        return [f"{rest} not compared with the teacher's outputs; --samples sets the number."]


@dataclass(frozen=True)
class Comparison:
    """Cached targets compared with the teacher's outputs now.

    KL divergences are from the teacher's output now, in nats: to the cached target (`kl`), and to the same output after
    encoding and decoding (`encoding`), which is the error of the encoding alone.

    Attributes:
        samples: number of targets compared.
        coverage: numbers of compared and recorded targets, blocks and views.
        top1: share of targets whose likeliest class is the same.
        kl, encoding: means.
        worst_kl, worst_encoding: maxima over single targets.
        excess: largest difference of the two for one target.
        limit: largest accepted excess of the mean over the encoding's error; for a single target, `WORST` times that.
    """

    samples: int
    coverage: Compared
    top1: float
    kl: float
    worst_kl: float
    encoding: float
    worst_encoding: float
    excess: float
    limit: float

    @property
    def agrees(self) -> bool:
        """Whether the cached targets match the teacher's outputs within the limit."""
        return self.kl - self.encoding <= self.limit and self.excess <= WORST * self.limit

    def lines(self) -> list[str]:
        """Return the comparison as plain lines."""
        verdict = f"The compared targets {'match' if self.agrees else 'do NOT match'} the teacher's outputs"
        seen = self.coverage
        return [
            f"{self.samples:,} of {format_count(seen.recorded_targets, 'target')} computed again, from "
            f"{seen.blocks:,} of {format_count(seen.recorded_blocks, 'block')} and {seen.views:,} of "
            f"{format_count(seen.recorded_views, 'view')}: "
            f"top-1 agrees for {self.top1:.2%}; mean KL {self.kl:.5f}, of which encoding {self.encoding:.5f}; worst "
            f"{self.worst_kl:.4f}, of encoding alone {self.worst_encoding:.4f}.",
            *seen.lines(),
            f"{verdict} (limit: {self.limit:g} nats over encoding in the mean, {WORST * self.limit:g} for one target).",
        ]

    def to_json(self) -> dict[str, Any]:
        """Return all numbers and the verdict as JSON values."""
        return {**asdict(self), "agrees": self.agrees}


@dataclass(frozen=True)
class RerunOptions:
    """The options of a comparison: the entry or model `teacher`, on `data`; see `VerifyOptions`.

    Attributes:
        module: the teacher where it is a module of the caller's; `teacher` is then the name of its entry, or its own.
        imports: modules that are imported first.
    """

    data: str
    teacher: str
    weights: Path | None = None
    samples: int = VerifySettings.samples
    max_kl: float = VerifySettings.max_kl
    seed: int = VerifySettings.seed
    device: str = VerifySettings.device
    renderer: str = VerifySettings.renderer
    decode: str = VerifySettings.decode
    module: TeacherModule | None = None
    imports: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rerun:
    """Cache, entry, views and live teacher of a comparison."""

    options: RerunOptions
    cache: Cache
    entry: Entry
    opened: OpenViews
    live: LiveTeacher
    device: torch.device


def prepare_rerun(cache: Cache, options: RerunOptions, progress: Progress) -> Rerun:
    """Open data and teacher.

    Raises:
        UsageError: the cache holds no such teacher.
        KdcacheError: data, weights or teacher differ from the cache's.
    """
    import_modules(options.imports)
    device = resolve_device(options.device)
    use_all_cores()
    entry = _entry(cache, options)
    with naming_imports(lambda: _made_with(entry, options)):
        return _prepared(cache, entry, options, device, progress)


def _made_with(entry: Entry, options: RerunOptions) -> dict[str, tuple[str, ...]]:
    """Return the imports of the entry, and of a run that is given as its teacher."""
    paths = [Path(options.teacher), *([options.weights] if options.weights is not None else [])]
    own = {f"The teacher {entry.identity.name} in the cache": imports_of(entry)}
    return own | {f"The run {path}": imports_of_run(path) for path in paths}


def _prepared(cache: Cache, entry: Entry, options: RerunOptions, device: torch.device, progress: Progress) -> Rerun:
    if options.module is not None:
        opened = stored_views(cache, open_index(options.data, progress=progress))
        live = open_live_module(options.module, entry.identity, cache, opened, device)
        if entry.codec.needs_features:
            _ = live.teacher.num_features  # refuses a module whose head was not given
        return Rerun(options, cache, entry, opened, live, device)
    _require_no_module(entry)
    model, pretrained = _model(options, entry)
    if pretrained:
        _require_as_many_classes(model, entry)
    opened = stored_views(cache, open_index(options.data, progress=progress))
    try:
        wanted = WantedTeacher(model, options.weights, entry.identity.name)
        live = open_live_teacher(wanted, cache, opened, device, progress)
    except ModelError as error:
        if not pretrained or isinstance(error, UnknownModelError):
            raise
        raise ModelError(
            f"If {entry.identity.name} was dumped from a run, or with --weights, give the same again: --teacher RUN, "
            f"or --weights FILE. Without them timm's pretrained weights of {model} are meant. {error}"
        ) from error
    return Rerun(options, cache, entry, opened, live, device)


def rerun(
    prepared: Rerun, without: Set[tuple[str, int, int]], progress: Progress
) -> tuple[Comparison | None, list[Finding]]:
    """Render random batches of the dump again, run the teacher on them, and compare.

    The batches are those of the dump, so that nothing differs on the machine that dumped the cache. Returns the
    comparison, which is None if nothing could be compared, and a finding for each block that does not fit the labels.

    Args:
        without: teacher, view and number of blocks that are known to be damaged.

    Raises:
        UsageError: the cache holds no targets of this teacher, or only damaged ones.
        KdcacheError: images or targets cannot be read.
    """
    options, entry, opened, live = prepared.options, prepared.entry, prepared.opened, prepared.live
    recorded, sound = _blocks(entry, without)
    row_ranges = spread_batches(entry.layout, entry.identity.batch_size, sound, options.samples, options.seed)
    rows = sum(row_range.stop - row_range.start for row_range in row_ranges)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    samples: list[np.ndarray] = []
    compared: list[RowRange] = []
    misfits: dict[tuple[int, int], Finding] = {}
    with (
        open_renderer(
            options.renderer,
            size=live.teacher.size,
            max_batch=live.teacher.batch_size,
            device=prepared.device,
            decode=options.decode,
        ) as renderer,
        closing(SampleReader(opened.view_set.index)) as reader,
        closing(stream_views(opened.view_set, reader, renderer, row_ranges)) as stream,
        closing(stream_targets(entry, _wanted(row_ranges))) as stored,
        progress.task(f"{entry.identity.name} again", total=rows, unit="targets") as task,
    ):
        for row_range, views, targets in zip(row_ranges, stream, stored, strict=True):
            again = live.teacher.compute_output(views.pixels, features=entry.codec.needs_features)
            output = again.log_probs.cpu()
            labels = teacher_labels(views, entry.identity.label_space)
            try:
                found = targets.with_labels(labels).log_probs(num_classes=output.shape[1])
            except CorruptError as error:
                block = row_range.start // entry.layout.block_rows
                misfits.setdefault((row_range.view, block), _misfit(entry, row_range.view, block, error))
                continue
            same = output.argmax(1) == found.argmax(1)
            own = divergence(output, coded(entry.codec, output, labels, again.features))
            parts.append((same, divergence(output, found), own))
            samples.append(views.rows.samples)
            compared.append(row_range)
            task.advance(len(output))
    known = _known(prepared, samples)
    if not bool(known.any()):
        return None, list(misfits.values())
    top1, kl, own = (torch.cat(column)[known] for column in zip(*parts, strict=True))
    comparison = Comparison(
        samples=len(top1),
        coverage=_coverage(entry, recorded, compared),
        top1=float(top1.double().mean()),
        kl=float(kl.mean()),
        worst_kl=float(kl.max()),
        encoding=float(own.mean()),
        worst_encoding=float(own.max()),
        excess=float((kl - own).max()),
        limit=options.max_kl,
    )
    return comparison, list(misfits.values())


def _known(prepared: Rerun, batches: list[np.ndarray]) -> Bool[Tensor, "b"]:
    """Return whether each compared row is of a pair without a lost sample, whose images the dump has seen for sure.

    To be called when all targets have been read: a dump that runs meanwhile notes a sample as lost before it records
    a block with targets of its stand-in image.

    Args:
        batches: samples of each batch.
    """
    view_set = with_lost_of(prepared.opened, prepared.cache).view_set
    return torch.from_numpy(np.concatenate([np.empty(0, bool), *(~view_set.holds_lost(rows) for rows in batches)]))


def _misfit(entry: Entry, view: int, block: int, error: CorruptError) -> Finding:
    name = entry.identity.name
    problem = f"Targets of {name} in view {view}, block {block} do not fit the data's labels: {error}"
    return Finding(problem, name, view, block)


def _entry(cache: Cache, options: RerunOptions) -> Entry:
    teacher, names = options.teacher, cache.names()
    for name in (teacher, entry_name(teacher)):
        if name in names:
            return cache.entry(name)
    there = ", ".join(names) or "none"
    try:
        alike = teachers_of(cache, architecture(teacher) if options.module is None else options.module.architecture)
    except ModelError:
        alike = []
    if len(alike) != 1 and options.module is not None:
        raise UsageError(
            f"The cache {cache.location} holds {there}, and not one entry called {teacher!r}: give the name that the "
            "module's entry has there."
        )
    if len(alike) != 1:
        raise UsageError(
            f"The cache {cache.location} holds no teacher {teacher!r}; it holds {there}. Name one of these with "
            "--teacher, and its weights with --weights: a checkpoint, a run, or RUN@epoch=N; without --weights, timm's "
            "pretrained weights are used."
        )
    return cache.entry(alike[0].name)


def _require_no_module(entry: Entry) -> None:
    """Raise UsageError for an entry that only the program which has its module can make again."""
    made = module_of(entry.identity.architecture)
    if made is None:
        return
    name, version = made
    raise UsageError(
        f"{entry.identity.name} was dumped from a module that Python gave, {name} of version {version}, and a command "
        "has no such module: compare the targets in Python, with kdcache.verify(cache, data=..., "
        f"teacher=kdcache.TeacherModule(module, name={name!r}, version={version!r}, ...)). Without a teacher, verify "
        "compares all bytes with what was written."
    )


def _model(options: RerunOptions, entry: Entry) -> tuple[str, bool]:
    """Return the model to run, and whether timm's weights are used; an entry's name may differ from its model's."""
    try:
        source = model_source(options.teacher)
    except ModelError:
        if options.weights is None and options.teacher != entry.identity.name:
            raise  # such as a run that does not exist any more
        return entry.identity.architecture, options.weights is None
    return options.teacher, source.weights is None and options.weights is None


def _require_as_many_classes(model: str, entry: Entry) -> None:
    """Raise IdentityError if timm's pretrained weights cannot be those of an entry, before they are downloaded."""
    classes, identity = pretrained_classes(model), entry.identity
    if classes is None or classes == identity.num_classes:
        return
    raise IdentityError(
        f"{identity.name} has {identity.num_classes:,} classes in the cache, and timm's pretrained weights of {model} "
        f"have {classes:,}: it was dumped from other weights. Give the same again: --teacher RUN, or --weights FILE.",
        field="num_classes",
    )


def _blocks(entry: Entry, without: Set[tuple[str, int, int]]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return view and block of all recorded blocks, and of the undamaged ones, in the order of the cache.

    Raises UsageError if nothing is recorded, or everything is damaged.
    """
    name = entry.identity.name
    recorded = [(view, block) for view in entry.views() for block in sorted(entry.surely_listed(view))]
    sound = [(view, block) for view, block in recorded if (name, view, block) not in without]
    if recorded and not sound:
        raise UsageError(f"All blocks of {name} are damaged: run the same dump-logits again after --repair.")
    if not sound:
        raise UsageError(f"The cache holds no targets of {name} yet: run the same dump-logits again.")
    return recorded, sound


def _coverage(entry: Entry, recorded: list[tuple[int, int]], compared: list[RowRange]) -> Compared:
    ranges = [entry.layout.block_range(block) for _, block in recorded]
    return Compared(
        targets=sum(row_range.stop - row_range.start for row_range in compared),
        blocks=len({(row_range.view, row_range.start // entry.layout.block_rows) for row_range in compared}),
        views=len({row_range.view for row_range in compared}),
        recorded_targets=sum(stop - start for start, stop in ranges),
        recorded_blocks=len(recorded),
        recorded_views=len({view for view, _ in recorded}),
    )


def _wanted(row_ranges: list[RowRange]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for row_range in row_ranges:
        indices = RowIndices.of(row_range)
        yield indices.view, indices.row

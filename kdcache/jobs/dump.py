"""`kdcache dump-logits`: run a teacher once over every view and keep its answers."""

import time
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from kdcache.cache.entry import BlockWriter, Entry
from kdcache.cache.identity import TeacherIdentity, require_same
from kdcache.cache.record import BlockRecord, Stored
from kdcache.cache.store import Cache, encoded_bytes
from kdcache.data.index import Index, open_index
from kdcache.data.shards import SampleReader
from kdcache.device import resolve_device, use_all_cores
from kdcache.errors import IdentityError, UsageError
from kdcache.jobs.answers import DEFAULT_BATCH, Answered, answer, block_batches, block_count
from kdcache.jobs.evaluate import require_same_classes
from kdcache.jobs.opening import DEFAULT_VIEWS, OpenViews, entry_name, refuse_several_processes, views_for_dump
from kdcache.jobs.provenance import provenance_of, warn_of_other_provenance
from kdcache.jobs.top1 import Top1
from kdcache.models.names import resolve_name
from kdcache.models.teachers import Teacher, load_teacher
from kdcache.progress import Progress, Task, silent
from kdcache.render.base import Renderer
from kdcache.render.opening import open_renderer
from kdcache.targets.base import Coding
from kdcache.targets.kinds import make_coding
from kdcache.views.stream import Views, stream_views
from kdcache.views.viewset import Span

DEFAULT_K = 128
DEFAULT_MIN_PROB = 0.0031
_DRY_RUN_BATCHES = 4


@dataclass(frozen=True)
class DumpRequest:
    """What `dump-logits` was asked for; None means the default, which the job says.

    Attributes:
        teacher: short name or timm name.
        data: folder of tars, or brace pattern.
        cache: path of the Zarr store; made when it is not there.
        weights: checkpoint of the teacher; without it, timm's pretrained weights.
        name: of the teacher's entry in the cache; by default `teacher`.
        views: how many views shall be there at the end.
        k, min_prob: `topk` keeps at most k classes with a probability over min_prob.
        targets: "topk" or "full".
        label_space: "teacher" if labels are the teacher's classes, else "none".
        policy: name or file; only for a new cache, or to check what an old one has.
        seed: of the view set.
        batch_size: the teacher's fixed batch shape; even.
    """

    teacher: str
    data: str
    cache: str
    weights: Path | None = None
    name: str | None = None
    views: int | None = None
    k: int | None = None
    min_prob: float | None = None
    targets: str = "topk"
    label_space: str = "teacher"
    policy: str | None = None
    seed: int | None = None
    batch_size: int | None = None
    device: str = "auto"
    precision: str | None = None
    renderer: str = "dali"
    decode: str = "auto"
    dry_run: bool = False


@dataclass(frozen=True)
class DumpReport:
    """What a dump did, or would do.

    Attributes:
        samples: in the data set.
        views: in the cache at the end.
        written: blocks written by this run, of `blocks` in all.
        bytes_per_view: of the answers to one sample in one view, on disk, records included.
        images_per_s: that this run answered; None if there was nothing left to do.
        top1: share of the views in this run's first block whose top-1 class is the label; None without labels.
    """

    cache: str
    teacher: str
    samples: int
    views: int
    written: int
    blocks: int
    bytes_per_view: float
    images_per_s: float | None
    top1: float | None
    dry_run: bool

    def lines(self) -> list[str]:
        """The report as plain lines."""
        total = self.bytes_per_view * self.samples * self.views
        size = f"{self.bytes_per_view:.1f} bytes a view, {_readable(total)} in all"
        what = f"{self.samples:,} samples x {self.views} views of {self.teacher}"
        if self.dry_run:
            assert self.images_per_s is not None
            hours = self.samples * self.views / self.images_per_s / 3600
            return [
                f"Dry run: {what}: about {size}, in {hours:,.1f} hours at the {self.images_per_s:,.0f} images/s of its "
                f"first batches. Nothing was written to {self.cache}."
            ]
        return [f"{self.cache} holds {what}: {size}; {self.written} of {self.blocks} blocks written by this run."]


def dump(request: DumpRequest, progress: Progress = silent) -> DumpReport:
    """Make every block of the first V views that is not in the cache yet.

    Killed at any time and started again it goes on with the first block that is missing; the cache ends with the same
    bytes as that of an uninterrupted run.

    Raises:
        KdcacheError: anything that a user can mend; what was written before stays.
    """
    refuse_several_processes("dump-logits")
    device = resolve_device(request.device)
    use_all_cores()
    resolve_name(request.teacher)  # a wrong name is told before an index of millions is built
    index = open_index(request.data, progress=progress)
    opened = views_for_dump(request.cache, index, request.policy, request.seed, progress)
    view_set = opened.view_set
    batch_size = _even(request.batch_size or min(DEFAULT_BATCH, opened.identity.block_rows))
    teacher = load_teacher(
        request.teacher,
        request.weights,
        device=device,
        precision=request.precision or "auto",
        batch_size=batch_size,
    )
    progress.say(
        f"{teacher.name} ({teacher.architecture}, {teacher.num_classes} classes) answers at {teacher.size} pixels in "
        f"{teacher.precision}, in batches of {teacher.batch_size}."
    )
    _check_classes(index, teacher, request.label_space)
    coding = _coding(request, teacher.num_classes)
    identity = teacher_identity(teacher, coding, request.name or entry_name(request.teacher), request.label_space)
    if Cache.exists(request.cache):
        stored = Cache.open(request.cache).teachers().get(identity.name)
        if stored is not None:
            require_same(stored, identity, f"The teacher {identity.name} in {request.cache}")
    views = _whole_groups(request.views, view_set.policy.repeats)
    if request.views is None:
        progress.say(f"{views} views, one for each epoch of the default recipe; --views says otherwise.")

    with (
        open_renderer(
            request.renderer,
            size=teacher.size,
            max_batch=batch_size,
            device=device,
            decode=request.decode,
        ) as renderer,
        closing(SampleReader(index)) as reader,
    ):
        source = _Source(opened, reader, renderer, teacher, coding, request.label_space)
        if request.dry_run:
            return _dry_run(request, source, identity.name, views)
        cache = (
            Cache.open(request.cache, read_only=False)
            if Cache.exists(request.cache)
            else Cache.create(request.cache, opened.identity, view_set.windows)
        )
        entry = cache.add_teacher(identity, coding)
        return _fill(request, source, entry, views, progress)


@dataclass(frozen=True)
class _Source:
    """Everything that answers come from."""

    opened: OpenViews
    reader: SampleReader
    renderer: Renderer
    teacher: Teacher
    coding: Coding
    label_space: str

    @property
    def samples(self) -> int:
        return len(self.opened.view_set)

    @property
    def block_rows(self) -> int:
        return self.opened.identity.block_rows

    def batches(self, view: int, block: int) -> list[Span]:
        return block_batches(
            view,
            block,
            samples=self.samples,
            block_rows=self.block_rows,
            batch_size=self.teacher.batch_size,
        )

    def answers(self, spans: Iterable[Span]) -> Generator[tuple[Views, Answered], None, None]:
        with closing(stream_views(self.opened.view_set, self.reader, self.renderer, spans)) as stream:
            for views in stream:
                yield views, answer(self.teacher, self.coding, views, self.label_space)


def _fill(request: DumpRequest, source: _Source, entry: Entry, views: int, progress: Progress) -> DumpReport:
    samples = source.samples
    blocks = block_count(samples, source.block_rows)
    missing = [(view, block) for view in range(views) for block in sorted(set(range(blocks)) - entry.recorded(view))]
    rows_left = sum(_rows(block, samples, source.block_rows) for _, block in missing)
    provenance = provenance_of(source.renderer, source.teacher)
    warn_of_other_provenance(entry, provenance, views, progress)
    top1 = Top1()
    start = time.perf_counter()
    with progress.task(
        f"{request.teacher} over {samples:,} samples x {views} views",
        total=samples * views,
        done=samples * views - rows_left,
    ) as task:
        # One stream over all missing blocks: rendering does not pause at a block's end.
        answers = source.answers(span for view, block in missing for span in source.batches(view, block))
        with closing(answers):
            for number, (view, block) in enumerate(missing):
                first = number == 0
                _write_block(
                    entry.open_block(view, block),
                    islice(answers, len(source.batches(view, block))),
                    provenance,
                    task,
                    top1 if first else None,
                )
                if first:
                    top1.say(source.teacher.num_classes, request.label_space, progress)
    seconds = time.perf_counter() - start
    return DumpReport(
        cache=request.cache,
        teacher=entry.identity.name,
        samples=samples,
        views=views,
        written=len(missing),
        blocks=blocks * views,
        bytes_per_view=_stored_bytes(entry, views) / (samples * views),
        images_per_s=rows_left / seconds if missing else None,
        top1=top1.share if request.label_space == "teacher" else None,
        dry_run=False,
    )


def _write_block(
    writer: BlockWriter,
    answers: Iterable[tuple[Views, Answered]],
    provenance: dict[str, str],
    task: Task,
    top1: "Top1 | None",
) -> None:
    """Write a block as its answers come, so that no more than a chunk of them is held."""
    for views, answered in answers:
        writer.append(answered.targets)
        if top1 is not None:
            top1.count(views, answered)
        task.advance(len(answered.targets))
    writer.finish(provenance)


def _dry_run(request: DumpRequest, source: _Source, name: str, views: int) -> DumpReport:
    """Answer a few batches, code them as they would be stored, and count the bytes."""
    start = time.perf_counter()
    top1 = Top1()
    parts = []
    for batch_views, answered in source.answers(source.batches(0, 0)[:_DRY_RUN_BATCHES]):
        top1.count(batch_views, answered)
        parts.append(answered.targets)
    targets = type(parts[0]).concat(parts)
    chunks = encoded_bytes(source.coding, targets)
    record = BlockRecord(
        {f"{array}/0": Stored(0, length) for array, length in chunks.items()},
        provenance_of(source.renderer, source.teacher),
    )
    per_view = sum(chunks.values()) / len(targets)
    per_view += len(record.to_bytes()) / min(source.block_rows, source.samples)
    return DumpReport(
        cache=request.cache,
        teacher=name,
        samples=source.samples,
        views=views,
        written=0,
        blocks=block_count(source.samples, source.block_rows) * views,
        bytes_per_view=per_view,
        images_per_s=len(targets) / (time.perf_counter() - start),
        top1=top1.share if request.label_space == "teacher" else None,
        dry_run=True,
    )


def teacher_identity(teacher: Teacher, coding: Coding, name: str, label_space: str) -> TeacherIdentity:
    """What a teacher's answers depend on."""
    return TeacherIdentity(
        name=name,
        architecture=teacher.architecture,
        weights=teacher.weight_hash,
        mean=teacher.mean,
        std=teacher.std,
        size=teacher.size,
        precision=teacher.precision,
        batch_size=teacher.batch_size,
        targets=coding.identity(),
        num_classes=teacher.num_classes,
        label_space=label_space,
    )


def _check_classes(index: Index, teacher: Teacher, label_space: str) -> None:
    if label_space == "none":
        return
    require_same_classes(index.class_names, teacher.class_names, f"the teacher {teacher.name}")
    if index.num_classes == teacher.num_classes:
        return
    raise IdentityError(
        f"The data has {index.num_classes} classes, the teacher {teacher.num_classes}: its answers are not about these "
        "labels. Use --label-space none to distil its own classes, a teacher trained on these labels, or name all "
        "classes in a classes.json beside the shards if some have no sample here.",
        field="num_classes",
    )


def _coding(request: DumpRequest, num_classes: int) -> Coding:
    if request.targets == "full":
        if request.k is not None or request.min_prob is not None:
            raise UsageError("--k and --min-prob belong to --targets topk; full targets keep every class.")
        return make_coding("full", num_classes)
    k = DEFAULT_K if request.k is None else request.k
    min_prob = DEFAULT_MIN_PROB if request.min_prob is None else request.min_prob
    return make_coding("topk", num_classes, k=min(k, num_classes), min_prob=min_prob)


def _stored_bytes(entry: Entry, views: int) -> int:
    return sum(sum(entry.stored_bytes(view).values()) for view in range(views))


def _whole_groups(views: int | None, repeats: int) -> int:
    """How many views there shall be: views that share an order are dumped together."""
    if views is None:
        return -(-DEFAULT_VIEWS // repeats) * repeats
    if views < 1 or views % repeats:
        fewer, more = views // repeats * repeats, (views // repeats + 1) * repeats
        raise UsageError(
            f"--views is {views}, and the policy repeats each order {repeats} times: give a multiple of {repeats}, "
            f"such as {fewer or more}."
        )
    return views


def _even(batch_size: int) -> int:
    if batch_size < 2 or batch_size % 2:
        raise UsageError(f"--batch-size is {batch_size}: give an even number, because neighbouring rows are mixed.")
    return batch_size


def _rows(block: int, samples: int, block_rows: int) -> int:
    return min(block_rows, samples - block * block_rows)


def _readable(count: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"

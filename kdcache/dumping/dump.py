"""`kdcache dump-logits`: run a teacher once over every view and keep its answers."""

import time
from contextlib import closing
from dataclasses import dataclass, replace

import torch

from kdcache.cache.entry import Entry
from kdcache.cache.identity import TeacherIdentity, require_same
from kdcache.cache.store import Cache
from kdcache.data.classes import require_same_classes
from kdcache.data.index import Index, open_index
from kdcache.data.reader import SampleReader
from kdcache.data.shards import CLASSES
from kdcache.dumping.calibration import begin_entry
from kdcache.dumping.choice import coding_for, coding_of, objectives_called, require_no_labels
from kdcache.dumping.dry_run import Prediction, predict
from kdcache.dumping.options import DumpOptions, require_one_choice
from kdcache.dumping.waiting import Waiting
from kdcache.dumping.worker import DumpWorker, MissingBlocks, Source
from kdcache.errors import IdentityError, UsageError
from kdcache.io.limits import MAX_BATCH, MAX_CLASSES, MAX_SIZE, MAX_VIEWS
from kdcache.io.plain_values import shown
from kdcache.loader.opening import DEFAULT_VIEWS, entry_name, views_as_evaluated, views_for_dump
from kdcache.loader.provenance import provenance_of, warn_of_other_provenance
from kdcache.loader.teacher_views import DEFAULT_BATCH, block_count
from kdcache.models.source import ModelSource, model_source
from kdcache.models.teachers import Teacher, load_teacher
from kdcache.objectives.registry import AnyObjective
from kdcache.render.opening import open_renderer, renderer_version
from kdcache.runtime.device import resolve_device, use_all_cores
from kdcache.runtime.distributed import join_processes
from kdcache.runtime.formatting import format_bytes, format_count, format_duration
from kdcache.runtime.progress import Progress, logged, silent
from kdcache.runtime.ranks import Ranks
from kdcache.runtime.signals import last_act
from kdcache.targets.base import TargetCodec
from kdcache.targets.kinds import DEFAULT_KIND
from kdcache.views.policy import Policy


@dataclass(frozen=True)
class DumpReport:
    """What a dump did, or would do.

    Attributes:
        samples: in the data set.
        views: that the cache holds whole at the end, which may be more than were asked for; of a dry run, those.
        written: blocks written by this run, of `blocks` that were asked for.
        bytes_per_view: of the answers to one sample in one view, on disk, records included.
        images_per_s: that this run answered; None if there was nothing left to do.
        top1: share of the views in this run's first blocks (one a process) whose top-1 class is the label; None
            without labels.
        kl: of a dry run, the mean KL divergence in nats of stored answers from the teacher's, in its first batch.
        once_bytes, tried: of a dry run, the bytes of tables that are stored once, and the views that it looked at.
        to_come: of a dry run, the answers that the cache does not have yet.
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
    kl: float | None = None
    once_bytes: int = 0
    tried: int = 0
    to_come: int = 0

    def lines(self) -> list[str]:
        """The report as plain lines."""
        total = self.bytes_per_view * self.samples * self.views
        size = f"{self.bytes_per_view:,.1f} bytes a view, {format_bytes(total)} in all"
        what = f"{self.samples:,} samples x {format_count(self.views, 'view')} of {self.teacher}"
        if self.dry_run:
            assert self.images_per_s is not None
            rate = f"{self.images_per_s:,.0f}" if self.images_per_s >= 10 else f"{self.images_per_s:.2g}"
            pace = f"in {format_duration(self.to_come / self.images_per_s)} at {rate} images/s"
            if self.to_come == 0:
                pace = "all of it there already"
            elif self.to_come < self.samples * self.views:
                some = format_bytes(self.bytes_per_view * self.to_come)
                pace = f"of which {self.to_come:,} answers are still to come, about {some} {pace}"
            once = f", and {format_bytes(self.once_bytes)} once for its tables" if self.once_bytes else ""
            return [
                f"Dry run: {what}: about {size}{once}, {pace}, as "
                f"{self.tried:,} views showed. What is stored differs from the answers by a KL of {self.kl:.3g} nats "
                f"in the mean. Nothing was written to {self.cache}."
            ]
        if self.images_per_s is None:
            return [f"{self.cache} holds {what} already: {size}. Nothing was left for this run to do."]
        return [f"{self.cache} holds {what}: {size}; {self.written} of {self.blocks} blocks written by this run."]


def dump(options: DumpOptions, progress: Progress = logged) -> DumpReport:
    """Make every block of the first V views that is not in the cache yet.

    Killed at any time and started again it goes on with the first block that is missing; the cache ends with the same
    bytes as that of an uninterrupted run. Under torchrun the processes share the missing blocks, and so do any that
    are started on the same cache by themselves; each returns when all blocks are there. Rank 0 tells the progress,
    and the report is of all ranks.

    Raises:
        KdcacheError: anything that a user can mend; what was written before stays.
    """
    require_one_choice(
        options.objectives, targets=options.targets, k=options.k, min_prob=options.min_prob, dtype=options.dtype
    )
    _require_sane(options)
    ranks = Ranks.from_environment()
    progress = progress if ranks.is_main else silent
    device = resolve_device(options.device)
    use_all_cores()
    # A wrong name, or a renderer that cannot work here, is told before an index of millions is built.
    model = model_source(options.teacher, options.weights)
    objectives = _objectives(options, progress)
    renderer_version(options.renderer, device=device, decode=options.decode)
    progress.say(f"Opening the data, {options.data}.")
    index = open_index(options.data, progress=progress)
    opened = views_for_dump(options.cache, index, options.policy, options.seed, progress)
    batch_size = _even(options.batch_size or min(DEFAULT_BATCH, opened.identity.block_rows))
    name = options.name or entry_name(options.teacher)
    progress.say(f"Loading the teacher, {_words(options.teacher, model)}.")
    teacher = load_teacher(
        model.name,
        model.weights,
        label=model.label,
        device=device,
        precision=options.precision or "auto",
        batch_size=batch_size,
        size=options.size,
    )
    kind = "" if teacher.architecture == name else f"{teacher.architecture}, "
    progress.say(
        f"{name} ({kind}{teacher.num_classes:,} classes) answers at {teacher.size} pixels in {teacher.precision}, in "
        f"batches of {teacher.batch_size}."
    )
    opened = views_as_evaluated(opened, teacher.card, options.policy, progress)
    view_set = opened.view_set
    _check_classes(index, teacher, options.label_space)
    codec = coding_for(teacher, objectives, progress) if objectives else _codec(options, teacher)
    stored, lost = None, {}
    if Cache.exists(options.cache):
        there = Cache.open(options.cache)
        stored = there.teacher(name)
        lost = {} if codec.fixed_tables else there.lost_tables(name)  # they are made again
        codec = codec if codec.fixed_tables or lost else there.with_stored_tables(codec, name)
    identity = teacher_identity(teacher, codec, name, options.label_space)
    if stored is not None:
        targets = identity.targets | {table: stored.targets[table] for table in lost}
        require_same(stored, replace(identity, targets=targets), f"The teacher {name} in {options.cache}")
    views = _whole_groups(options.views, view_set.policy)
    if view_set.policy.is_fixed:
        if views > view_set.policy.repeats:
            progress.warn(f"The policy draws nothing: all {views} views are the same, and one would do (--views 1).")
    elif options.views is None:
        progress.say(f"{views} views, one for each epoch of the default recipe; --views says otherwise.")

    with (
        open_renderer(
            options.renderer,
            size=teacher.size,
            max_batch=batch_size,
            device=device,
            decode=options.decode,
        ) as renderer,
        closing(SampleReader(index)) as reader,
    ):
        source = Source(opened, reader, renderer, teacher, codec, options.label_space)
        if options.dry_run:
            return _predicted(options, predict(source, progress), source, name, views, ranks)
        cache = Cache.ensure(options.cache, opened.identity, view_set.windows)
        if cache.format_warning is not None:
            progress.warn(cache.format_warning)
        if len(index.lost):
            progress.say(
                f"{format_count(len(index.lost), 'sample')} of {len(index):,} "
                f"{'is' if len(index.lost) == 1 else 'are'} "
                "lost: answers to a grey image keep their places, and trainings pass over them."
            )
        return _fill(options, source, cache, identity, views, ranks, progress)


def _fill(
    options: DumpOptions,
    source: Source,
    cache: Cache,
    identity: TeacherIdentity,
    views: int,
    ranks: Ranks,
    progress: Progress,
) -> DumpReport:
    samples, name = source.samples, identity.name
    provenance = provenance_of(source.renderer, source.teacher)
    index = source.opened.view_set.index
    lost = cache.add_lost([index.key(row) for row in index.lost.tolist()])
    start = time.perf_counter()
    with cache.claims() as claims, last_act(claims.close):
        begun = begin_entry(source, cache, identity, claims, progress)
        entry = begun.entry
        warn_of_other_provenance(entry, provenance, views, progress)
        missing = MissingBlocks(entry, views, claims, begun=bool(begun.answers))
        told = progress if missing.rows else silent
        with told.task(
            f"{name} over {samples:,} samples x {format_count(views, 'view')}",
            total=samples * views,
            done=samples * views - missing.rows,
        ) as task:
            waiting = Waiting(claims, progress)
            alone = ranks.world_size == 1
            worker = DumpWorker(
                source, entry, missing, provenance, progress, task, waiting, begun.answers, begun.top1, alone, lost
            )
            worker.run()
    counts = torch.tensor([worker.blocks, worker.rows, worker.top1.right, worker.top1.seen])
    # Only now: until here no process waits for another, and one that is killed stops none.
    with join_processes(torch.device("cpu")) as processes:
        blocks, rows, right, seen = processes.all_reduce_sum(counts).tolist()
    return DumpReport(
        cache=options.cache,
        teacher=name,
        samples=samples,
        views=len(entry.whole_views()),
        written=blocks,
        blocks=entry.layout.blocks * views,
        bytes_per_view=_stored_bytes(entry, views) / (samples * views),
        images_per_s=rows / (time.perf_counter() - start) if rows else None,
        top1=right / seen if seen and options.label_space == "teacher" else None,
        dry_run=False,
    )


def _predicted(
    options: DumpOptions, prediction: Prediction, source: Source, name: str, views: int, ranks: Ranks
) -> DumpReport:
    return DumpReport(
        cache=options.cache,
        teacher=name,
        samples=source.samples,
        views=views,
        written=0,
        blocks=block_count(source.samples, source.block_rows) * views,
        bytes_per_view=prediction.bytes_per_view,
        images_per_s=prediction.images_per_s * ranks.world_size,
        top1=prediction.top1 if options.label_space == "teacher" else None,
        dry_run=True,
        kl=prediction.kl,
        once_bytes=prediction.once_bytes,
        tried=prediction.rows,
        to_come=source.samples * views - _rows_there(options.cache, name, views),
    )


def teacher_identity(teacher: Teacher, codec: TargetCodec, name: str, label_space: str) -> TeacherIdentity:
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
        targets=codec.identity(),
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
        f"The data has {index.num_classes:,} classes, the teacher {teacher.num_classes:,}: its answers are not about "
        "these labels. Use --label-space none to distil its own classes, or a teacher trained on these labels. If the "
        f"labels are the teacher's and some have no sample here, list the names of all {teacher.num_classes:,} in the "
        f"order of the labels in {CLASSES} beside the shards, a JSON list, which kdcache import writes.",
        field="num_classes",
    )


def _objectives(options: DumpOptions, progress: Progress) -> tuple[AnyObjective, ...]:
    if options.objectives is None:
        return ()
    objectives = objectives_called(options.objectives)
    if options.label_space == "none":
        require_no_labels(objectives, progress)
    return objectives


def _codec(options: DumpOptions, teacher: Teacher) -> TargetCodec:
    kind = options.targets or DEFAULT_KIND
    return coding_of(teacher, kind, k=options.k, min_prob=options.min_prob, dtype=options.dtype)


def _rows_there(path: str, name: str, views: int) -> int:
    """Answers of the first views that a cache has, if there is one, and a teacher of this name in it."""
    if not Cache.exists(path) or (cache := Cache.open(path)).teacher(name) is None:
        return 0
    entry = cache.entry(name, strict=False, tables=False)
    ranges = [entry.layout.block_range(block) for view in range(views) for block in entry.recorded(view)]
    return sum(stop - start for start, stop in ranges)


def _stored_bytes(entry: Entry, views: int) -> int:
    return sum(sum(entry.stored_bytes(view).values()) for view in range(views))


def _words(teacher: str, model: ModelSource) -> str:
    """Where a teacher comes from; a folder that is one has its weights in it."""
    if model.name is None:
        return teacher
    return f"{teacher}, {model.weights or 'with its pretrained weights'}"


def _whole_groups(views: int | None, policy: Policy) -> int:
    """How many views there shall be: views that share an order are dumped together."""
    repeats = policy.repeats
    if views is None:
        return repeats if policy.is_fixed else -(-DEFAULT_VIEWS // repeats) * repeats
    if views < 1 or views % repeats:
        below, above = views // repeats * repeats, (views // repeats + 1) * repeats
        raise UsageError(
            f"--views is {views}, and the policy repeats each order {repeats} times: give a multiple of {repeats}, "
            f"such as {f'{below} or {above}' if below > 0 else max(above, repeats)}."
        )
    return views


def _require_sane(options: DumpOptions) -> None:
    """Raise UsageError for a number of which nothing could ever come to an end."""
    for option, value, most in (
        ("--views", options.views, MAX_VIEWS),
        ("--batch-size", options.batch_size, MAX_BATCH),
        ("--size", options.size, MAX_SIZE),
        ("--k", options.k, MAX_CLASSES),
    ):
        if value is not None and value > most:
            raise UsageError(f"{option} is {shown(value)}: give at most {most:,}.")


def _even(batch_size: int) -> int:
    if batch_size < 2 or batch_size % 2:
        raise UsageError(f"--batch-size is {batch_size}: give an even number, because neighbouring rows are mixed.")
    return batch_size

"""`kdcache dump-logits`: run a teacher once over every view and store its targets."""

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch

from kdcache.cache.entry import Entry
from kdcache.cache.identity import TeacherIdentity, require_same
from kdcache.cache.store import Cache
from kdcache.data.classes import require_same_classes
from kdcache.data.index import Index, open_index
from kdcache.data.reader import SampleReader
from kdcache.data.shards import CLASSES
from kdcache.dumping.calibration import start_entry
from kdcache.dumping.choice import (
    codec_for,
    codec_of,
    parse_objectives,
    require_no_labels,
)
from kdcache.dumping.dry_run import Prediction, predict
from kdcache.dumping.options import DumpOptions, require_one_choice, require_sane
from kdcache.dumping.report import DumpReport
from kdcache.dumping.waiting import Waiting
from kdcache.dumping.worker import DumpWorker, MissingBlocks, Source
from kdcache.errors import IdentityError, UsageError
from kdcache.loader.opening import DEFAULT_VIEWS, OpenViews, entry_name, views_as_evaluated, views_for_dump
from kdcache.loader.provenance import imports_in, provenance_of, warn_of_other_provenance
from kdcache.loader.teacher_views import DEFAULT_BATCH, block_count
from kdcache.models.compiled import require_backend
from kdcache.models.run_weights import imports_of_run
from kdcache.models.source import ModelSource, model_source
from kdcache.models.teacher_module import TeacherModule, run_as_teacher
from kdcache.models.teachers import Teacher, describe_compiled, load_teacher
from kdcache.objectives.registry import AnyObjective
from kdcache.render.opening import open_renderer, renderer_version
from kdcache.runtime.device import resolve_device, use_all_cores
from kdcache.runtime.distributed import join_processes
from kdcache.runtime.energy import open_energy_meter
from kdcache.runtime.formatting import format_count
from kdcache.runtime.imports import import_modules, naming_imports
from kdcache.runtime.progress import Progress, logged, silent
from kdcache.runtime.ranks import Ranks
from kdcache.runtime.signals import last_act
from kdcache.targets.base import TargetCodec
from kdcache.targets.kinds import DEFAULT_KIND
from kdcache.views.policy import Policy


def dump(options: DumpOptions, progress: Progress = logged, own: TeacherModule | None = None) -> DumpReport:
    """Compute every block of the first V views that the cache does not hold yet.

    If the process is killed and started again, it continues with the first missing block, and the finished cache has
    the same bytes as that of an uninterrupted run. Processes under torchrun share the missing blocks, and so do others
    that are started on the same cache; each returns when all blocks are recorded. Rank 0 reports the progress, and the
    returned report covers all ranks.

    Args:
        options: what is asked for.
        progress: receives messages and tasks.
        own: the teacher where it is a module of the caller's; `options.teacher` is its name then.

    Raises:
        KdcacheError: any error that a user can resolve; blocks written before stay.
    """
    import_modules(options.imports)
    with naming_imports(lambda: _made_with(options)):
        return _dump(options, progress, own)


def _dump(options: DumpOptions, progress: Progress, own: TeacherModule | None) -> DumpReport:
    require_one_choice(
        options.objectives, targets=options.targets, k=options.k, min_prob=options.min_prob, dtype=options.dtype
    )
    require_sane(options)
    if own is not None:
        _require_for_module(options, own)
    ranks = Ranks.from_environment()
    progress = progress if ranks.is_main else silent
    device = resolve_device(options.device)
    use_all_cores()
    # A wrong name, or a renderer that cannot work here, is reported before an index of millions is built.
    model = own or model_source(options.teacher, options.weights)
    objectives = _objectives(options, progress)
    renderer_version(options.renderer, device=device, decode=options.decode)
    if options.compile is not None:
        require_backend(options.compile, "--compile")
    progress.say(f"Opening the data, {options.data}.")
    index = open_index(options.data, progress=progress)
    opened = views_for_dump(options.cache, index, options.policy, options.seed, progress)
    name = options.name or (own.name if own is not None else entry_name(options.teacher))
    with closing(opened.view_set):
        # A thread computes the order of the first view while the teacher is loaded.
        opened.view_set.prepare_order(_first_missing_view(options.cache, name))
        batch_size = _even(options.batch_size or min(DEFAULT_BATCH, opened.identity.block_rows))
        teacher = _load(model, options, device, batch_size, name, progress)
        opened = views_as_evaluated(opened, teacher.card, options.policy, progress)
        _check_classes(index, teacher, options.label_space)
        identity, codec = _identify(options, teacher, objectives, name, progress)
        views = _views(options, opened.view_set.policy, progress)
        with (
            open_renderer(
                options.renderer, size=teacher.size, max_batch=batch_size, device=device, decode=options.decode
            ) as renderer,
            closing(SampleReader(index)) as reader,
        ):
            source = Source(opened, reader, renderer, teacher, codec, options.label_space, options.imports)
            if options.dry_run:
                return _predicted(options, predict(source, progress), source, name, views, ranks)
            return _fill(options, source, _open_cache(options, opened, progress), identity, views, ranks, progress)


def _first_missing_view(location: str, name: str) -> int:
    """Return the first view that a cache does not hold whole of a teacher; 0 without cache or teacher."""
    if not Cache.exists(location) or (cache := Cache.open(location)).teacher(name) is None:
        return 0
    return cache.entry(name, strict=False, tables=False).complete_views()


def _identify(
    options: DumpOptions, teacher: Teacher, objectives: tuple[AnyObjective, ...], name: str, progress: Progress
) -> tuple[TeacherIdentity, TargetCodec]:
    """Return the identity of the entry that is dumped to, and its codec with the tables that the cache holds of it.

    Raises:
        IdentityError: the cache holds an entry of this name that differs; names the field.
    """
    codec = codec_for(teacher, objectives, progress) if objectives else _codec(options, teacher)
    stored, lost = None, {}
    if Cache.exists(options.cache):
        existing = Cache.open(options.cache)
        stored = existing.teacher(name)
        lost = {} if codec.fixed_tables else existing.lost_tables(name)  # they are computed again
        codec = codec if codec.fixed_tables or lost else existing.with_stored_tables(codec, name)
    identity = teacher_identity(teacher, codec, name, options.label_space)
    if stored is not None:
        targets = identity.targets | {table: stored.targets[table] for table in lost}
        require_same(stored, replace(identity, targets=targets), f"The teacher {name} in {options.cache}")
    return identity, codec


def _views(options: DumpOptions, policy: Policy, progress: Progress) -> int:
    """Return the number of views to dump, and say what a user may not expect of it."""
    views = _whole_groups(options.views, policy)
    if policy.is_fixed:
        if views > policy.repeats:
            progress.warn(f"The policy draws nothing at random: all {views} views are the same. --views 1 is enough.")
    elif options.views is None:
        progress.say(f"{views} views, one for each epoch of the default recipe; --views changes it.")
    return views


def _open_cache(options: DumpOptions, opened: OpenViews, progress: Progress) -> Cache:
    """Open the cache, or create it, and say what is wrong with it or the data."""
    cache = Cache.ensure(options.cache, opened.identity, opened.view_set.windows)
    if cache.format_warning is not None:
        progress.warn(cache.format_warning)
    samples, lost = len(opened.view_set.index), len(opened.view_set.index.lost)
    if lost:
        progress.say(
            f"{format_count(lost, 'sample')} of {samples:,} {'is' if lost == 1 else 'are'} lost: a grey image takes "
            "the place of each, and training skips them."
        )
    return cache


def _made_with(options: DumpOptions) -> dict[str, tuple[str, ...]]:
    """Return the imports of the run that is the teacher or has its weights, and of the entry that is dumped to."""
    runs = (Path(options.teacher), *([] if options.weights is None else [options.weights]))
    made = {f"The run {run}": imports_of_run(run) for run in runs}
    return made | imports_in(options.cache, options.name or entry_name(options.teacher))


def _load(
    model: ModelSource | TeacherModule,
    options: DumpOptions,
    device: torch.device,
    batch_size: int,
    name: str,
    progress: Progress,
) -> Teacher:
    progress.say(f"Loading the teacher, {_describe_source(options.teacher, model)}.")
    precision = options.precision or "auto"
    if isinstance(model, TeacherModule):
        teacher = run_as_teacher(model, device=device, precision=precision, batch_size=batch_size)
    else:
        teacher = load_teacher(
            model.name,
            model.weights,
            label=model.label,
            device=device,
            precision=precision,
            batch_size=batch_size,
            size=options.size,
        )
    teacher.compile(options.compile)
    kind = "" if teacher.architecture == name else f"{teacher.architecture}, "
    progress.say(
        f"{name} ({kind}{teacher.num_classes:,} classes) runs at {teacher.size} pixels in {teacher.precision}, in "
        f"batches of {teacher.batch_size}{describe_compiled(teacher)}."
    )
    return teacher


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
    provenance = provenance_of(source.renderer, source.teacher, source.imports)
    index = source.opened.view_set.index
    lost = cache.add_lost([index.key(row) for row in index.lost.tolist()])
    start = time.perf_counter()
    energy = open_energy_meter(source.renderer.device, counts_processors=ranks.local_rank == 0)
    with cache.claims() as claims, last_act(claims.close):
        started = start_entry(source, cache, identity, claims, progress)
        entry = started.entry
        warn_of_other_provenance(entry, provenance, views, progress)
        missing = MissingBlocks(entry, views, claims, first_is_held=bool(started.outputs))
        shown_progress = progress if missing.rows else silent
        with shown_progress.task(
            f"{name} over {samples:,} samples x {format_count(views, 'view')}",
            total=samples * views,
            done=samples * views - missing.rows,
        ) as task:
            waiting = Waiting(claims, progress)
            alone = ranks.world_size == 1
            worker = DumpWorker(
                source, entry, missing, provenance, progress, task, waiting, started.outputs, started.top1, alone, lost
            )
            worker.run()
    counts = torch.tensor([worker.blocks, worker.rows, worker.top1.right, worker.top1.seen])
    # Processes join only now: until here none waits for another, so that one that is killed stops no other.
    with join_processes(torch.device("cpu")) as processes:
        joules = processes.sum_if_all_know(energy.joules())
        blocks, rows, right, seen = processes.all_reduce_sum(counts).tolist()
    seconds = time.perf_counter() - start
    return DumpReport(
        cache=options.cache,
        teacher=name,
        samples=samples,
        views=len(entry.whole_views()),
        written=blocks,
        blocks=entry.layout.blocks * views,
        bytes_per_view=_stored_bytes(entry, views) / (samples * views),
        images_per_s=rows / seconds if rows else None,
        top1=right / seen if seen and options.label_space == "teacher" else None,
        dry_run=False,
        rows=rows,
        seconds=seconds if rows else None,
        joules=joules if rows else None,
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
    """Return the identity of a teacher's entry: everything that its targets depend on."""
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
        f"The data has {index.num_classes:,} classes, the teacher {teacher.num_classes:,}: its outputs are not "
        "about these labels. Use --label-space none to distil its own classes, or a teacher trained on these labels. "
        f"If the labels are the teacher's and some have no sample, list the names of all {teacher.num_classes:,} "
        f"classes, in the order of the labels, as a JSON list in {CLASSES} beside the shards, as kdcache import does.",
        field="num_classes",
    )


def _objectives(options: DumpOptions, progress: Progress) -> tuple[AnyObjective, ...]:
    if options.objectives is None:
        return ()
    objectives = parse_objectives(options.objectives)
    if options.label_space == "none":
        require_no_labels(objectives, progress)
    return objectives


def _codec(options: DumpOptions, teacher: Teacher) -> TargetCodec:
    kind = options.targets or DEFAULT_KIND
    return codec_of(teacher, kind, k=options.k, min_prob=options.min_prob, dtype=options.dtype)


def _rows_there(path: str, name: str, views: int) -> int:
    """Return the number of rows in the first views that a cache holds of a teacher; 0 without cache or teacher."""
    if not Cache.exists(path) or (cache := Cache.open(path)).teacher(name) is None:
        return 0
    entry = cache.entry(name, strict=False, tables=False)
    ranges = [entry.layout.block_range(block) for view in range(views) for block in entry.recorded(view)]
    return sum(stop - start for start, stop in ranges)


def _stored_bytes(entry: Entry, views: int) -> int:
    return sum(sum(entry.stored_bytes(view).values()) for view in range(views))


def _describe_source(teacher: str, model: ModelSource | TeacherModule) -> str:
    """Return a teacher's name and the source of its weights; a folder contains its own weights."""
    if isinstance(model, TeacherModule):
        return f"{model.name}, a module of version {model.version}"
    if model.name is None:
        return teacher
    return f"{teacher}, {model.weights or 'with its pretrained weights'}"


def _whole_groups(views: int | None, policy: Policy) -> int:
    """Return the number of views to dump: views that share an order are dumped together."""
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


def _require_for_module(options: DumpOptions, own: TeacherModule) -> None:
    """Refuse options of a teacher that is given by name."""
    for option, value, instead in (
        ("weights", options.weights, "the module has its own weights"),
        ("size", options.size, f"the module says the size of its images, image_size={own.image_size}"),
    ):
        if value is not None:
            raise UsageError(f"{option} belongs to a teacher that is given by name: leave it out, {instead}.")


def _even(batch_size: int) -> int:
    if batch_size < 2 or batch_size % 2:
        raise UsageError(f"--batch-size is {batch_size}: give an even number, because neighbouring rows are mixed.")
    return batch_size

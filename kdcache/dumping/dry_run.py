"""Prediction of the size and duration of a dump, from a few of its batches."""

import time
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from math import log2

from kdcache.cache.chunk_files import index_length
from kdcache.cache.record import BlockId, BlockRecord, Stored
from kdcache.cache.zarr_form import ZarrChunk, encoded_bytes
from kdcache.dumping.calibration import calibration_batches, wants_order, with_order
from kdcache.dumping.pipeline import TeacherBatch
from kdcache.dumping.top1 import Top1
from kdcache.dumping.worker import Source
from kdcache.loader.provenance import provenance_of
from kdcache.loader.teacher_views import block_count
from kdcache.runtime.progress import Progress
from kdcache.targets.base import TargetCodec, Targets

#: Batches before the timing starts: the first includes the warm-up of kernels, and the next were rendered meanwhile.
WARM_UP = 6
#: Least number of batches that are timed.
TIMED = 8
#: Rows that are encoded, beside those that a class order is learned from; and the limit of their bytes in memory.
SEEN = 4096
MAX_BYTES = 2**28
#: Seconds of timed batches after which the dry run ends.
MAX_SECONDS = 60.0


@dataclass(frozen=True)
class Prediction:
    """Measurements over the first `rows` rows.

    Attributes:
        bytes_per_view: bytes on disk for one sample in one view, records included.
        once_bytes: bytes of tables, which are stored once.
        images_per_s: images that one process computes and stores per second.
        top1: share of views whose likeliest class is the label; None without labels.
        kl: mean KL divergence of the targets from the teacher's outputs, in nats, over the first batch.
    """

    rows: int
    bytes_per_view: float
    once_bytes: int
    images_per_s: float
    top1: float | None
    kl: float


def predict(source: Source, progress: Progress) -> Prediction:
    """Compute, encode and time the first batches to predict bytes and speed of a dump; nothing is written."""
    run = _run_sample(source, progress)
    parts = [batch.targets for batch in run.outputs]
    targets = type(parts[0]).concat(parts)
    start = time.perf_counter()
    encoded_bytes(source.codec, targets)
    storing, computing = (time.perf_counter() - start) / len(targets), 1 / run.rate
    # A dump stores while the teacher computes; on the CPU both take turns on the same cores.
    each = max(storing, computing) if source.teacher.device.type == "cuda" else storing + computing
    codec, per_view = _with_tables(source, targets)
    tables = codec.tables()
    loss = run.outputs[0].loss
    return Prediction(
        rows=len(targets),
        bytes_per_view=per_view + _record_bytes(source, codec),
        once_bytes=sum(len(ZarrChunk(codec.table_specs()[name]).encode(tables[name])) for name in tables),
        images_per_s=1 / each,
        top1=run.top1.share,
        kl=loss(codec) if loss is not None else 0.0,
    )


@dataclass(frozen=True)
class _SampleRun:
    """Outputs for the first rows, the count of right ones, and the images per second."""

    outputs: list[TeacherBatch]
    top1: Top1
    rate: float


def _run_sample(source: Source, progress: Progress) -> _SampleRun:
    """Return the outputs for the first rows, as many as are wanted and time allows.

    The stream covers more rows than are used: so rendering continues behind the last one, as it does in a dump.
    """
    most = _rows_wanted(source)
    blocks = range(block_count(source.samples, source.block_rows))
    row_ranges = chain.from_iterable(source.batches(0, block) for block in blocks)
    outputs: list[TeacherBatch] = []
    rows, clock = [0], [time.perf_counter()]
    top1 = Top1()
    with (
        progress.task("a dry run", total=min(most, source.samples)) as task,
        closing(source.outputs(row_ranges)) as stream,
    ):
        for batch in stream:
            top1.count(batch)
            outputs.append(batch)
            rows.append(rows[-1] + len(batch.targets))
            clock.append(time.perf_counter())
            task.advance(len(batch.targets))
            timed = len(outputs) - WARM_UP
            if timed >= TIMED and (rows[-1] >= most or clock[-1] - clock[WARM_UP] >= MAX_SECONDS):
                break
    begin = WARM_UP if len(outputs) >= 2 * WARM_UP else min(1, len(outputs) - 1)
    return _SampleRun(outputs, top1, (rows[-1] - rows[begin]) / (clock[-1] - clock[begin]))


def _rows_wanted(source: Source) -> int:
    """Return the number of rows for a class order and for measuring its effect, limited by `MAX_BYTES`."""
    wanted = SEEN
    if wants_order(source.codec):
        wanted += sum(row_range.stop - row_range.start for row_range in calibration_batches(source))
    each = sum(spec.nbytes for spec in source.codec.arrays(1).values())
    return max(2 * source.teacher.batch_size, min(wanted, MAX_BYTES // each))


def _with_tables(source: Source, targets: Targets) -> tuple[TargetCodec, float]:
    """Return the codec with the tables that a dump would give it, and its bytes per view.

    An order encodes the rows that it was learned from better than others. If there are too few rows for the whole
    calibration and others besides, one order is learned from half of them and one from three quarters. The last quarter
    is encoded with both, and the gain between the two is assumed to continue with each doubling of the rows.
    """
    codec = source.codec
    if not wants_order(codec):
        return codec, _bytes_per_view(source, codec, targets)
    calibration = sum(row_range.stop - row_range.start for row_range in calibration_batches(source))
    count = len(targets)
    if count >= min(calibration + SEEN // 2, source.samples) and calibration < count:
        codec = with_order(source, [targets[:calibration]])
        return codec, _bytes_per_view(source, codec, targets[calibration:])
    whole = with_order(source, [targets])
    fewer, more = count // 2, count * 3 // 4
    if fewer == 0 or more == count:
        return whole, _bytes_per_view(source, whole, targets)
    others = targets[more:]
    half, most = (_bytes_per_view(source, with_order(source, [targets[:rows]]), others) for rows in (fewer, more))
    gain = max(0.0, (half - most) / log2(more / fewer))
    least = _bytes_per_view(source, whole, others)
    return whole, max(least, most - gain * log2(max(1.0, calibration / more)))


def _bytes_per_view(source: Source, codec: TargetCodec, targets: Targets) -> float:
    """Return the bytes of all arrays per row, in chunks of their final size.

    A chunk has a constant overhead. It is included by encoding chunks of the final size if there are enough rows, else
    it is estimated by encoding the rows together and in halves.
    """
    rows, chunk = len(targets), min(codec.chunk_rows(source.block_rows), source.samples)
    if chunk <= rows:
        whole = [targets[start : start + chunk] for start in range(0, rows - chunk + 1, chunk)]
        each = sum(_coded_bytes(codec, part) for part in whole) / len(whole)
        chunks, left = divmod(source.samples, chunk)
        last = _coded_bytes(codec, targets[:left]) if left else 0
        return (chunks * each + last) / source.samples
    together = _coded_bytes(codec, targets)
    if rows < 2:
        return float(together)
    halves = _coded_bytes(codec, targets[: rows // 2]) + _coded_bytes(codec, targets[rows // 2 :])
    once = max(0, halves - together)
    return (together - once) / rows + once / chunk


def _coded_bytes(codec: TargetCodec, targets: Targets) -> int:
    return sum(encoded_bytes(codec, targets).values())


def _record_bytes(source: Source, codec: TargetCodec) -> float:
    """Return the bytes of all blocks' records and of their files' indices, per row of a view."""
    whole, rest = divmod(source.samples, source.block_rows)
    together = whole * _beside_chunks(source, codec, source.block_rows) if whole else 0
    return (together + (_beside_chunks(source, codec, rest) if rest else 0)) / source.samples


def _beside_chunks(source: Source, codec: TargetCodec, rows: int) -> int:
    """Return the bytes of the record and of the files' indices of a block of `rows` rows."""
    chunk_rows, file_rows = codec.chunk_rows(source.block_rows), codec.file_rows(source.block_rows)
    indices = -(-rows // file_rows) * len(codec.arrays(1)) * index_length(file_rows // chunk_rows)
    some = Stored(2**31, min(2**20, 8 * rows))
    chunks = {f"{array}/{number}": some for array in codec.arrays(1) for number in range(-(-rows // chunk_rows))}
    digest = source.opened.identity.digest  # has the length of a teacher's digest, which is not known yet
    block_id = BlockId(digest, digest, view=100, block=0)
    record = BlockRecord(chunks, provenance_of(source.renderer, source.teacher, source.imports), 0.0123, block_id)
    return len(record.to_bytes()) + indices

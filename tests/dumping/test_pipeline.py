"""The teacher computes ahead of the writer, by no more than a block, and the host waits once for each batch."""

import threading
from contextlib import closing
from threading import Event

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kdcache.cache.entry import BlockWriter
from kdcache.cache.store import Cache
from kdcache.data.index import open_index
from kdcache.data.reader import SampleReader
from kdcache.dumping import pipeline
from kdcache.dumping.dump import dump
from kdcache.dumping.pipeline import BlockTurns, launch, launch_ahead, queue_depth
from kdcache.errors import ModelError
from kdcache.loader.opening import stored_views
from kdcache.models.teachers import Teacher, load_teacher
from kdcache.render.opening import open_renderer
from kdcache.runtime.transfer import HostCopies
from kdcache.targets.kinds import codec_for_teacher
from kdcache.views.stream import stream_views
from kdcache.views.viewset import RowRange
from support.small_job import MODEL, SAMPLES, dump_request, tree_bytes

LIMIT = 60  # seconds; a guard against hanging
BATCH, BLOCK = 8, 32

#: Operations of torch that make the host wait for a device.
WAITS = {
    *("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.equal", "aten.is_nonzero"),
    *("aten._unique2", "aten.unique_dim", "aten.item", "aten.repeat_interleave"),
}


def steps(numbers, blocks=(), turns=lambda: True):
    """What is done, in order."""
    done = []

    def wait_for_turn():
        done.append("turn")
        return turns()

    for number in launch_ahead(
        numbers,
        lambda number: done.append(f"launch {number}") or number,
        lambda number: done.append(f"read {number}") or number,
        begins_block=lambda number: number in blocks,
        wait_for_turn=wait_for_turn,
    ):
        done.append(f"yield {number}")
    return done


def test_the_next_batch_is_launched_before_one_is_read():
    assert steps(range(3)) == [
        *("launch 0", "launch 1", "read 0", "yield 0", "launch 2", "read 1", "yield 1", "read 2", "yield 2"),
    ]


def test_before_a_block_is_begun_all_of_the_one_before_has_been_handed_over():
    assert steps(range(4), {0, 2}) == [
        *("turn", "launch 0", "launch 1", "read 0", "yield 0", "read 1", "yield 1"),
        *("turn", "launch 2", "launch 3", "read 2", "yield 2", "read 3", "yield 3"),
    ]


def test_no_block_is_begun_after_the_end():
    turns = iter([True, False])
    done = steps(range(4), {0, 2}, lambda: next(turns))
    assert done[-3:] == ["read 1", "yield 1", "turn"]


def test_a_block_waits_for_the_one_before_or_for_the_end():
    turns, begun = BlockTurns(may_begin=True), []
    thread = threading.Thread(target=lambda: begun.extend(iter(turns.wait, False)), daemon=True)
    thread.start()
    turns.finished()
    turns.close()
    thread.join(LIMIT)
    assert not thread.is_alive()
    assert len(begun) <= 2


@pytest.fixture(scope="module")
def views(job):
    """One batch of views of the job."""
    cache, index = Cache.open(job.cache), open_index(job.data)
    view_set = stored_views(cache, index).view_set
    with open_renderer("pillow", size=32, max_batch=BATCH) as renderer, closing(SampleReader(index)) as reader:
        (made,) = stream_views(view_set, reader, renderer, [RowRange(0, 0, BATCH)])
    return made


class Watched(TorchDispatchMode):
    """Notes which operations of torch are called."""

    def __init__(self):
        super().__init__()
        self.called = set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.called.add(str(function.overloadpacket))
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("kind", ["topk", "full", "embedding"])
def test_a_batch_is_launched_without_a_wait_and_read_after_one(job, views, monkeypatch, kind):
    teacher = load_teacher(MODEL, job.weights, device=torch.device("cpu"), precision="fp32", batch_size=BATCH)
    codec = codec_for_teacher(kind, teacher.num_classes, teacher.linear_head)
    launch(teacher, codec, views, "teacher").read()  # what is kept for later batches is copied with the first
    waits, wait = [], HostCopies.wait
    monkeypatch.setattr(HostCopies, "wait", lambda copies: waits.append(copies) or wait(copies))
    with Watched() as watched:
        launched = launch(teacher, codec, views, "teacher")
    assert "aten.convolution" in watched.called
    assert not watched.called & WAITS
    assert waits == []
    with Watched() as watched:
        batch = launched.read()
    assert watched.called & WAITS, "the operations that wait have other names now"
    assert len(batch.targets) == BATCH
    assert len(waits) == 1


def request(job, cache, **choice):
    settings = {"views": 1, "batch_size": BATCH, "renderer": "pillow"} | choice
    return dump_request(job.data, cache, job.weights, job.policy, **settings)


def test_the_teacher_computes_while_a_block_is_written_and_begins_no_other(job, tmp_path, monkeypatch, launched_rows):
    """The writer waits for the last batch of its block to be launched, and before its record for the teacher's wait."""
    asked, append, finish, wait = threading.Semaphore(0), BlockWriter.append, BlockWriter.finish, BlockTurns.wait
    launched, compute_output, finished = threading.Semaphore(0), Teacher.compute_output, []

    def counted(teacher, *arguments, **choice):
        launched.release()
        return compute_output(teacher, *arguments, **choice)

    def waiting(turns):
        asked.release()
        return wait(turns)

    def append_late(writer, targets):
        if writer._missing == BLOCK:
            for _ in range(BLOCK // BATCH):
                assert launched.acquire(timeout=LIMIT), "the teacher waits for the writer"
        append(writer, targets)

    def finish_late(writer, *arguments):
        finished.append(sum(launched_rows))
        if finished[-1] < SAMPLES:
            for _ in range(2 if len(finished) == 1 else 1):  # the first block has its turn at once
                assert asked.acquire(timeout=LIMIT), "the teacher does not wait for its turn"
            assert sum(launched_rows) == BLOCK * len(finished)
        finish(writer, *arguments)

    monkeypatch.setattr(Teacher, "compute_output", counted)
    monkeypatch.setattr(BlockTurns, "wait", waiting)
    monkeypatch.setattr(BlockWriter, "append", append_late)
    monkeypatch.setattr(BlockWriter, "finish", finish_late)
    dump(request(job, tmp_path / "cache"))
    assert finished == [32, 64, 96, 128, SAMPLES]
    assert Cache.open(tmp_path / "cache").entry(MODEL).complete_views() == 1


def teacher_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "kdcache-teacher"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("no room")], ids=["signal", "error"])
def test_a_dump_that_ends_while_the_teacher_waits_for_its_turn_ends(job, tmp_path, monkeypatch, error):
    waits, wait = Event(), BlockTurns.wait

    def waiting(turns):
        if teachers_seen:
            waits.set()
        teachers_seen.append(turns)
        return wait(turns)

    def finish(writer, *arguments):
        assert waits.wait(LIMIT)
        assert teacher_threads() == ["kdcache-teacher"]
        raise error

    teachers_seen = []
    with monkeypatch.context() as patch:
        patch.setattr(BlockTurns, "wait", waiting)
        patch.setattr(BlockWriter, "finish", finish)
        with pytest.raises(type(error) if isinstance(error, Exception) else error):
            dump(request(job, tmp_path / "cache"))
    assert teacher_threads() == []
    assert not list((tmp_path / "cache").glob(".partial/*")), "a claim was not given back"
    dump(request(job, tmp_path / "cache"))
    dump(request(job, tmp_path / "whole"))
    assert tree_bytes(tmp_path / "cache") == tree_bytes(tmp_path / "whole")


def test_outputs_that_are_no_log_probabilities_end_the_dump_before_their_block_is_recorded(job, tmp_path, monkeypatch):
    launch_batch, launched = pipeline.launch, []

    def spoilt(*arguments, **choice):
        batch = launch_batch(*arguments, **choice)
        launched.append(batch)
        if len(launched) == 6:  # the second batch of the second block
            log_probs, is_sound, *rest = batch.copies.wait()
            return pipeline.LaunchedBatch(
                batch.codec, HostCopies((log_probs, ~is_sound, *rest)), batch.labels, batch.main_label, batch.measure
            )
        return batch

    monkeypatch.setattr("kdcache.dumping.worker.launch", spoilt)
    with pytest.raises(ModelError, match=r"are not log-probabilities: they hold NaN or infinity, or do not sum to 1\."):
        dump(request(job, tmp_path / "cache"))
    assert Cache.open(tmp_path / "cache").entry(MODEL).listed(0) == {0}
    assert teacher_threads() == []


def test_as_many_batches_wait_as_one_chunk_has():
    codec = codec_for_teacher("topk", 1000, lambda: pytest.fail("asked for the classifier"))
    rows = codec.chunk_rows(131072)
    assert 1 < rows < 131072
    assert queue_depth(codec, 131072, 128) == rows // 128
    assert queue_depth(codec, 32, 32) == 2

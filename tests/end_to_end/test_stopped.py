"""Dumps, copies and repairs that die before any one operation of the store: the next start ends with the same bytes."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdcache.cache.objects import ObjectFiles
from kdcache.cache.store import Cache
from kdcache.cache.zarr_form import ZarrChunk
from kdcache.dumping.dump import dump
from kdcache.dumping.options import DumpOptions
from kdcache.dumping.report import DumpReport
from kdcache.inspection.copy import CopyOptions, copy_cache
from kdcache.inspection.verify import VerifyOptions, verify
from kdcache.models.card import ModelCard
from kdcache.models.network import Network
from kdcache.models.teachers import Teacher, TeacherOutput
from kdcache.targets.base import ArraySpec, TargetCodec
from kdcache.targets.error import coded
from kdcache.views.stream import Views, stream_views
from kdcache.views.viewset import RowRange
from support.instants import (
    MEMORY,
    Bucket,
    HastyDisk,
    Instant,
    Instants,
    in_bucket,
    noting_bucket,
    noting_folder,
    on_disk,
)
from support.small_cache import FULL, TOPK, fill, open_entry, small_chunks, tree
from support.small_job import CLASSES, MODEL, SIZE, make_data, make_policy

VIEWS, SAMPLES, BLOCK_ROWS, BATCH = 2, 7, 4, 2

CARD = ModelCard(
    architecture=MODEL,
    num_classes=CLASSES,
    input_size=(3, SIZE, SIZE),
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
    interpolation="bicubic",
    crop_pct=1.0,
)


class Colours(nn.Module):
    """A model that knows an image by its mean colour."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, CLASSES)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def get_classifier(self) -> nn.Linear:
        return self.fc

    def forward(self, pixels: Tensor) -> Tensor:
        return self.fc(pixels.mean((2, 3)))


class Counting(Teacher):
    """Counts the rows that it computes."""

    rows = 0

    def compute_output(self, pixels: Tensor, **choice: Any) -> TeacherOutput:
        self.rows += len(pixels)
        return super().compute_output(pixels, **choice)


class Remembered:
    """Makes views, losses and the bytes of chunks once: hundreds of starts ask for the same."""

    def __init__(self) -> None:
        self._views: dict[RowRange, Views] = {}
        self._coded: dict[tuple[bytes, bytes], Tensor] = {}
        self._chunks: dict[tuple[ArraySpec, bytes], bytes] = {}

    def stream(self, *sources: Any) -> Generator[Views, None, None]:
        *sources, wanted = sources
        for row_range in wanted:
            if row_range not in self._views:
                (self._views[row_range],) = stream_views(*sources, [row_range])
            yield self._views[row_range]

    def coded(self, codec: TargetCodec, log_probs: Tensor, labels: Tensor, *features: Any) -> Tensor:
        key = log_probs.numpy().tobytes(), labels.numpy().tobytes()
        if key not in self._coded:
            self._coded[key] = coded(codec, log_probs, labels, *features)
        return self._coded[key]

    def encode(self, codec: ZarrChunk, values: np.ndarray) -> bytes:
        key = codec.spec, values.tobytes()
        if key not in self._chunks:
            self._chunks[key] = encode(codec, values)
        return self._chunks[key]


encode = ZarrChunk.encode


@dataclass(frozen=True)
class Small:
    """The smallest dump that has everything: claims, an order of classes, two blocks in each of two views."""

    data: str
    policy: str
    teacher: Counting
    remembered: Remembered

    @contextmanager
    def quickly(self) -> Iterator[None]:
        """Dumps meanwhile remember what was made for others; none of them has a thread of its own for its images."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("kdcache.dumping.worker.stream_views", self.remembered.stream)
            patch.setattr("kdcache.dumping.pipeline.coded", self.remembered.coded)
            patch.setattr(ZarrChunk, "encode", lambda codec, values: self.remembered.encode(codec, values))
            yield

    def dump(self, cache: Path | str) -> DumpReport:
        request = DumpOptions(
            teacher=MODEL,
            data=self.data,
            cache=str(cache),
            policy=self.policy,
            views=VIEWS,
            targets="topk",
            renderer="pillow",
            batch_size=BATCH,
            device="cpu",
        )
        return dump(request)


@pytest.fixture(scope="module", autouse=True)
def several_in_a_file() -> Iterator[None]:
    """A file has two chunks, which is more to go wrong than one."""
    with small_chunks(TargetCodec):
        yield


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    root = tmp_path_factory.mktemp("small")
    teacher = Counting(
        Network(Colours(), CARD), name=MODEL, device=torch.device("cpu"), precision="fp32", batch_size=BATCH
    )
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDCACHE_THREADS", "1")  # for two rows, others would be waited for
        patch.setattr("kdcache.loader.opening.default_block_rows", lambda samples: BLOCK_ROWS)
        patch.setattr("kdcache.dumping.calibration.calibration_rows", lambda classes: BATCH)  # half of the first block
        patch.setattr("kdcache.dumping.dump.load_teacher", lambda *_, **__: teacher)
        data = make_data(root / "data", shards=1, images=SAMPLES)
        yield Small(data, make_policy(root / "policy.json"), teacher, Remembered())
    torch.set_num_threads(threads)


def require_readable(cache: Path | str) -> set[tuple[str, int, int]]:
    """Whatever a cache claims to hold is there; gives teacher, view and block of that."""
    found: set[tuple[str, int, int]] = set()
    if not Cache.exists(cache):
        return found
    opened = Cache.open(cache)
    assert len(opened.windows) == opened.view_set.samples
    for name in opened.names():
        entry = opened.entry(name)
        for view in entry.views():
            assert entry.recorded(view) == entry.listed(view)
            for block in entry.listed(view):
                found.add((name, view, block))
                entry.check_bytes(view, block)
    return found


def dump_again(small: Small, cache: Path | str, instant: Instant) -> None:
    """What is recorded is not made again, and no more than one block of what was computed is lost."""
    rows = [min(BLOCK_ROWS, SAMPLES - block * BLOCK_ROWS) for _, _, block in require_readable(cache)]
    before = small.teacher.rows
    small.dump(cache)
    assert small.teacher.rows - before == VIEWS * SAMPLES - sum(rows), instant.where
    assert instant.done - sum(rows) <= BLOCK_ROWS, instant.where


def test_a_dump_that_dies_before_any_operation_of_a_disk(small: Small, tmp_path: Path) -> None:
    whole, start = tmp_path / "whole", small.teacher.rows
    instants = Instants(lambda: small.teacher.rows - start)
    with noting_folder(whole, instants):
        small.dump(whole)
    expected = tree(whole)
    assert f"open .partial/claim-{MODEL}-1-1" in instants.operations, "claims count, too"
    with on_disk(HastyDisk()), small.quickly():
        for number, instant in enumerate(instants):
            cache = instant.lay_out(tmp_path / str(number))
            dump_again(small, cache, instant)
            assert tree(cache) == expected, instant.where


def test_a_dump_that_dies_before_any_operation_of_an_object_store(small: Small) -> None:
    whole, start = Bucket(), small.teacher.rows
    instants = Instants(lambda: small.teacher.rows - start)
    with noting_bucket(whole, instants):
        small.dump(MEMORY)
    expected = whole.objects()
    assert f"delete .partial/claim-{MODEL}-1-1" in instants.operations, "claims count, too"
    for instant in instants:
        bucket = Bucket(instant.files)
        with in_bucket(bucket), small.quickly():
            dump_again(small, MEMORY, instant)
            forget_the_dead()
        assert bucket.objects() == expected, instant.where


def forget_the_dead() -> None:
    """Claims and trials of the dead stay in an object store until they are old, and the next start clears them away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdcache.cache.objects.LEFT_OVER", timedelta(0))
        ObjectFiles(MEMORY).prepare()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two teachers, one with a table; two blocks of each."""
    path = tmp_path_factory.mktemp("source") / "cache"
    with on_disk(HastyDisk()):
        fill(open_entry(path, TOPK, samples=6), 1)
        fill(open_entry(path, FULL, samples=6, name="other"), 1)
    return path


def copy_again(source: Path, target: Path | str, instant: Instant) -> None:
    """What is recorded is not copied again."""
    there = require_readable(target)
    report = copy_cache(CopyOptions(str(source), str(target)))
    assert report.copied == report.blocks - len(there), instant.where


def test_a_copy_that_dies_before_any_operation_of_a_disk(source: Path, tmp_path: Path) -> None:
    instants = Instants()
    with noting_folder(tmp_path / "whole", instants):
        copy_cache(CopyOptions(str(source), str(tmp_path / "whole")))
    expected = tree(tmp_path / "whole")
    assert expected == tree(source)
    with on_disk(HastyDisk()):
        for number, instant in enumerate(instants):
            target = instant.lay_out(tmp_path / str(number))
            copy_again(source, target, instant)
            assert tree(target) == expected, instant.where


def test_a_copy_that_dies_before_any_operation_of_an_object_store(source: Path) -> None:
    whole, instants = Bucket(), Instants()
    with noting_bucket(whole, instants):
        copy_cache(CopyOptions(str(source), MEMORY))
    expected = whole.objects()
    for instant in instants:
        bucket = Bucket(instant.files)
        with in_bucket(bucket):
            copy_again(source, MEMORY, instant)
            forget_the_dead()
        assert bucket.objects() == expected, instant.where


TEACHER = f"teachers/{MODEL}"
#: A byte of each is wrong: what repair writes again, and what it drops.
WRITTEN_AGAIN = (f"{TEACHER}/zarr.json", f"{TEACHER}/level/zarr.json", "teachers/zarr.json")
DROPPED = (f"{TEACHER}/order/c/0/0", f"{TEACHER}/top/c/0/1", f"{TEACHER}/records/1/0.json")


def test_a_repair_that_dies_before_any_operation_of_a_disk(small: Small, tmp_path: Path) -> None:
    """Another repair, and the same dump, put right what is left."""
    damaged, instants = tmp_path / "damaged", Instants()
    with on_disk(HastyDisk()), small.quickly():
        small.dump(damaged)
    expected = tree(damaged)
    for key in (*WRITTEN_AGAIN, *DROPPED):
        data = (damaged / key).read_bytes()
        (damaged / key).write_bytes(b"?" + data[1:])
    with noting_folder(damaged, instants):
        report = verify(VerifyOptions(str(damaged), repair=True))
    assert report.repairs is not None
    assert sorted(report.repairs.rewritten) == sorted(WRITTEN_AGAIN)
    assert len(report.repairs.dropped) == len(DROPPED)
    with on_disk(HastyDisk()), small.quickly():
        for number, instant in enumerate(instants):
            cache = instant.lay_out(tmp_path / str(number))
            verify(VerifyOptions(str(cache), repair=True))
            small.dump(cache)
            assert tree(cache) == expected, instant.where

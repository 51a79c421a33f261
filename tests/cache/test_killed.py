"""A dump that is stopped between any two operations of the disk, and started again, ends with the same bytes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kdcache.cache.store import Cache
from kdcache.errors import CacheError, IdentityError
from kdcache.io.disk import Disk
from kdcache.io.folders import Location
from kdcache.targets.base import TargetCodec
from support.disks import Killed, WatchedDisk
from support.instants import HastyDisk, Instants, NotingDisk
from support.small_cache import CLASSES, EMBEDDING, FULL, TOPK, fill, open_entry, small_chunks, tree
from support.targets_contract import random_order

ORDER = "teachers/teacher/order/c/0/0"


def dump(path: Path, codec: TargetCodec, samples: int, disk: Disk) -> None:
    fill(open_entry(path, codec, disk, samples), views=1)


@pytest.fixture
def several_in_a_file() -> Iterator[None]:
    """Of `FULL`, a file has two chunks."""
    with small_chunks():
        yield


def assert_everything_recorded_can_be_read(path: Path) -> None:
    """Whatever claims to be there is there."""
    if not Cache.exists(path):
        return
    cache = Cache.open(path)
    assert len(cache.windows) == cache.view_set.samples
    for name in cache.names():
        entry = cache.entry(name)
        for block in entry.listed(0):
            assert block in entry.recorded(0)
            entry.read_block(0, block)


@pytest.mark.usefixtures("several_in_a_file")
@pytest.mark.parametrize(
    ("codec", "samples"), [(FULL, 6), (TOPK, 4), (EMBEDDING, 4)], ids=["two blocks", "five arrays", "a classifier"]
)
def test_stopped_anywhere_it_finishes_with_the_same_bytes(tmp_path: Path, codec: TargetCodec, samples: int) -> None:
    instants = Instants()
    dump(tmp_path / "whole", codec, samples, NotingDisk(tmp_path / "whole", instants))
    expected = tree(tmp_path / "whole")
    for number, instant in enumerate(instants):
        path = instant.lay_out(tmp_path / str(number))
        assert_everything_recorded_can_be_read(path)
        dump(path, codec, samples, HastyDisk())
        assert tree(path) == expected, instant.where


def test_what_a_dump_of_other_weights_left_is_no_part_of_the_next(tmp_path: Path) -> None:
    """Stopped anywhere before it has an entry, its order of classes is written over; after that its name is taken."""
    dump(tmp_path / "whole", TOPK, 4, WatchedDisk())
    other = replace(TOPK, order=random_order(CLASSES, seed=1))
    refused = written_over = 0
    operation, stopped = 0, True
    while stopped:
        path, disk = tmp_path / str(operation), WatchedDisk(operation)
        try:
            open_entry(path, other, disk, 4, weights="others")
            stopped = False
        except Killed:
            written_over += (path / ORDER).exists() and not (path / "teachers/teacher/zarr.json").exists()
        if (path / "teachers/teacher/zarr.json").exists():
            with pytest.raises(IdentityError, match="weights"):
                dump(path, TOPK, 4, WatchedDisk())
            refused += 1
        else:
            dump(path, TOPK, 4, WatchedDisk())
            assert tree(path) == tree(tmp_path / "whole"), f"stopped at operation {operation}"
        operation += 1
    assert refused > 0
    assert written_over > 0


def test_a_full_disk_says_so_and_leaves_no_rubbish(tmp_path: Path) -> None:
    whole = WatchedDisk()
    dump(tmp_path / "whole", FULL, 4, whole)
    for operation, (name, file) in enumerate(whole.operations):
        # A claim is the lock of its file, which may be empty.
        if name not in ("create", "write") or file.name.startswith("claim-"):
            continue
        path = tmp_path / str(operation)
        with pytest.raises(CacheError, match=r"No space left on device.*make room"):
            dump(path, FULL, 4, WatchedDisk(operation, WatchedDisk.run_full))
        assert not list(path.glob(".partial/*"))
        dump(path, FULL, 4, WatchedDisk())
        assert tree(path) == tree(tmp_path / "whole")


class Ordered(WatchedDisk):
    """Looks, when a record gets its name, whether all that it speaks of would survive a power failure."""

    records = 0

    def link(self, source: Location, target: Location) -> None:
        if "records" in target.path.parts:
            self.records += 1
            teacher = target.path.parents[2]
            view, block = target.folder.path.name, int(target.path.stem)
            files = [path for path in teacher.glob(f"*/c/{view}/**/*") if path.is_file()]
            chunks = [path for path in files if str(block) in path.relative_to(teacher).parts[3:]]
            assert chunks
            arrays = {chunk.relative_to(teacher).parts[0] for chunk in chunks}
            metas = [teacher / name / "zarr.json" for name in arrays]
            for path in [*chunks, *metas, teacher / "zarr.json", teacher.parents[1] / "zarr.json"]:
                assert path not in self._unflushed_data
                assert not {path, *path.parents} & self._unflushed_names, f"{path} could be lost, its record not"
            assert source.path not in self._unflushed_data
        super().link(source, target)


@pytest.mark.usefixtures("several_in_a_file")
@pytest.mark.parametrize(
    ("codec", "place"), [(FULL, "cache"), (TOPK, "cache"), (FULL, "new/folders/cache")], ids=["full", "topk", "nested"]
)
def test_a_record_gets_its_name_after_all_that_it_speaks_of_is_flushed(
    tmp_path: Path, codec: TargetCodec, place: str
) -> None:
    disk = Ordered()
    dump(tmp_path / place, codec, 11, disk)
    assert disk.records == 3
    left = [path for path in disk._unflushed_names if ".partial" not in path.parts]
    assert not left, "the last record itself could be lost"

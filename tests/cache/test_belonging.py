"""Whatever lies in another's place is named: exchanged files and records, of blocks, entries and caches."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcache.cache.entry import Entry
from kdcache.cache.identity import ViewSetIdentity, windows_checksum
from kdcache.cache.layout import record_key
from kdcache.cache.store import Cache
from kdcache.cache.stream import stream_targets
from kdcache.errors import CacheError, CorruptError
from kdcache.inspection.copy import CopyOptions, copy_cache
from kdcache.inspection.inspect import InspectOptions, inspect
from kdcache.targets.embedding import EmbeddingCodec
from kdcache.targets.head import Head
from support.damage import look
from support.small_cache import CLASSES, EMBEDDING, PROVENANCE, WINDOWS, identity_of, kept, tree, view_set_of

#: Every cache has two entries with as many views of two blocks.
VIEWS, BLOCKS, SAMPLES = 2, 2, 7
HERE = view_set_of(SAMPLES)
NAMES = ("teacher", "second")
#: The block that is harmed in every case: view and number.
HARMED = (1, 1)
#: With which block it is exchanged: cache, entry, view and number.
OTHERS = {
    "view": ("here", "teacher", 0, 1),
    "block": ("here", "teacher", 1, 0),
    "entry": ("here", "second", 1, 1),
    "seed": ("seed", "teacher", 1, 1),
    "policy": ("policy", "teacher", 1, 1),
    "weights": ("weights", "teacher", 1, 1),
    "weights and seed": ("weights and seed", "teacher", 0, 1),
}
#: What its record is said to be then.
SAID = {
    "view": "is that of view 0, block 1:",
    "block": "is that of view 1, block 0:",
    "entry": "is that of view 1, block 1 of teacher 'second':",
    "seed": "is that of view 1, block 1 of the same teacher in another cache, of other data, policy or seed:",
    "policy": "is that of view 1, block 1 of the same teacher in another cache, of other data, policy or seed:",
    "weights": "is that of view 1, block 1 of a teacher that this cache does not hold:",
    "weights and seed": "is that of view 0, block 1 of a teacher that this cache does not hold in another cache, of",
}
CASES = [
    *(("files", other) for other in ("view", "block", "entry", "seed")),
    *(("record", other) for other in ("view", "block", "entry", "seed", "weights")),
    *(("both", other) for other in OTHERS),
]


def coding_of(number: int) -> EmbeddingCodec:
    """Each with a classifier of its own, which is stored once."""
    return replace(EMBEDDING, head=Head.of((1 + number) * torch.eye(CLASSES), torch.zeros(CLASSES)))


def dump(path: Path, view_set: ViewSetIdentity = HERE, weights: str = "0123", targets: int = 0) -> None:
    """Make what a cache lacks; the targets of its teachers are different ones for different numbers `targets`."""
    cache = Cache.ensure(path, view_set, WINDOWS[:SAMPLES])
    for number, name in enumerate(NAMES):
        codec = coding_of(number)
        entry = cache.add_teacher(identity_of(codec, name, weights=f"{weights}-{number}"), codec)
        complete(entry, targets + VIEWS * number)


def complete(entry: Entry, targets: int) -> None:
    """Write the blocks that are missing."""
    for view in range(VIEWS):
        for block in sorted(set(range(entry.layout.blocks)) - entry.recorded(view)):
            start, stop = entry.layout.block_range(block)
            entry.write_block(view, block, kept(entry.codec, view + targets, start, stop), PROVENANCE)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache, and others that differ from it in one thing each, or two."""
    root = tmp_path_factory.mktemp("made")
    dump(root / "here")
    dump(root / "seed", replace(HERE, seed=8), targets=10)
    dump(root / "policy", replace(HERE, policy={"mixup": 0.2}), targets=20)
    dump(root / "weights", HERE, "89ab", targets=30)
    dump(root / "weights and seed", replace(HERE, seed=8), "89ab", targets=40)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy of them to harm."""
    return Path(shutil.copytree(made, tmp_path / "root"))


def paths(root: Path, place: tuple[str, str, int, int], what: str) -> list[Path]:
    """The files of a block, its record, or both."""
    cache, name, view, block = place
    entry = Cache.open(root / cache).entry(name)
    keys = [file.key for file in entry.block_files(view, block)] if what != "record" else []
    return [root / cache / key for key in keys + ([record_key(name, view, block)] if what != "files" else [])]


def swap(ones: list[Path], others: list[Path]) -> None:
    """Exchange the bytes of files, some of which differ."""
    first, second = ([path.read_bytes() for path in paths] for paths in (ones, others))
    assert first != second
    for path, data in zip([*others, *ones], [*first, *second], strict=True):
        path.write_bytes(data)


def read(entry: Entry, view: int, block: int) -> None:
    """What a training does."""
    rows = np.arange(*entry.layout.block_range(block))
    list(stream_targets(entry, [(np.full_like(rows, view), rows)]))


@pytest.mark.parametrize(("what", "other"), CASES)
def test_what_was_exchanged_is_named_by_all_and_put_right_by_repair_and_the_same_dump(
    root: Path, tmp_path: Path, what: str, other: str
) -> None:
    path, before = root / "here", tree(root / "here")
    exchanged = [("here", "teacher", *HARMED), OTHERS[other]]
    swap(*(paths(root, place, what) for place in exchanged))
    harmed = {(name, view, block) for cache, name, view, block in exchanged if cache == "here"}

    found = look(path)
    assert {(finding.teacher, finding.view, finding.block) for finding in found.findings} == harmed
    assert found.lines()[-1].startswith(f"{path} is NOT whole: ")
    (ours,) = (part for part in found.findings if (part.teacher, part.view, part.block) == ("teacher", *HARMED))
    assert f"Run `kdcache verify {path} --repair`" in ours.remedy
    if what != "files":
        assert f"The record of view 1, block 1 of teacher 'teacher' ({path}/teachers" in ours.problem
        assert SAID[other] in ours.problem
        assert "what lies there is not used" in ours.problem

    cache = Cache.open(path)
    for name in NAMES:
        entry = cache.entry(name)
        for view in range(VIEWS):
            bad = {block for block in range(entry.layout.blocks) if (name, view, block) in harmed}
            assert entry.listed(view) == {0, 1}
            assert what == "files" or entry.recorded(view) == {0, 1} - bad
            for block in range(entry.layout.blocks):
                if block not in bad:
                    read(entry, view, block)
                    continue
                with pytest.raises(CorruptError) as raised:
                    read(entry, view, block)
                assert raised.value.problem in {finding.problem for finding in found.findings}

    copied = copy_cache(CopyOptions(str(path), str(tmp_path / "copy")))
    assert (copied.copied, len(copied.problems)) == (2 * VIEWS * BLOCKS - len(harmed), len(harmed))
    assert ours.problem in " ".join(copied.problems)
    assert look(tmp_path / "copy").whole

    seen = {teacher.identity["name"]: teacher for teacher in inspect(InspectOptions(str(path))).teachers}
    damaged = {(name, view, block) for name in seen for view, bad in seen[name].damaged.items() for block in bad}
    assert damaged == harmed

    repaired = look(path, repair=True)
    assert repaired.dropped == len(harmed)
    dump(path)
    assert tree(path) == before


@pytest.mark.parametrize("name", ["teacher", "second"])
def test_the_same_dump_alone_makes_a_block_in_a_wrong_place_anew(root: Path, name: str) -> None:
    path, before = root / "here", tree(root / "here")
    swap(*(paths(root, ("here", name, view, 1), "both") for view in (0, 1)))
    dump(path)
    assert tree(path) == before


def replaced_folder(root: Path, source: str) -> None:
    shutil.rmtree(root / "here/teachers/teacher")
    shutil.copytree(root / source / "teachers/teacher", root / "here/teachers/teacher")


def replaced_file(root: Path, source: str, key: str) -> None:
    shutil.copy(root / source / key, root / "here" / key)


def replaced_blocks(root: Path, source: str) -> None:
    """All of an entry but its identity and its table."""
    for folder in (root / source / "teachers/teacher").iterdir():
        if folder.is_dir() and folder.name != "head":
            shutil.copytree(folder, root / "here/teachers/teacher" / folder.name, dirs_exist_ok=True)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda root: replaced_folder(root, "seed"), "here/zarr.json was replaced"),
        (lambda root: replaced_folder(root, "weights and seed"), "here/zarr.json was replaced"),
        (lambda root: replaced_blocks(root, "weights"), "here/teachers/teacher/zarr.json was replaced"),
        (lambda root: replaced_blocks(root, "seed"), "here/zarr.json was replaced"),
        (lambda root: replaced_file(root, "seed", "zarr.json"), "here/zarr.json was replaced"),
        (lambda root: replaced_file(root, "policy", "zarr.json"), "here/zarr.json was replaced"),
        (
            lambda root: replaced_file(root, "weights", "teachers/teacher/zarr.json"),
            "here/teachers/teacher/zarr.json was replaced",
        ),
    ],
)
def test_an_entry_of_which_nothing_is_its_own_is_refused_and_nothing_of_it_is_dropped(
    root: Path, tmp_path: Path, harm: Callable[[Path], None], says: str
) -> None:
    """It is rather one file that is wrong than all of them, and what is dropped may have taken a month to make."""
    path = root / "here"
    harm(root)
    before = tree(path)
    report = look(path, repair=True)
    ours = next(finding for finding in report.findings if finding.teacher == "teacher")
    assert "None of the records of teacher 'teacher' is its own: that of view 0, block 0 (" in ours.problem
    assert says in ours.problem
    assert "--repair drops none of them" in ours.problem
    assert "restore that file from a copy" in ours.remedy or "restore that file from a copy" in ours.problem
    assert report.dropped == 0
    assert report.lines()[-1].startswith(f"{path} is NOT whole: ")
    assert tree(path) == before

    cache = Cache.open(path)
    identity = cache.teacher("teacher")
    assert identity is not None
    with pytest.raises(CorruptError, match="None of the records of teacher 'teacher' is its own"):
        cache.entry("teacher")
    codec = coding_of(0)
    with pytest.raises(CorruptError, match="None of the records of teacher 'teacher' is its own"):
        Cache.open(path, read_only=False).add_teacher(identity, codec)
    assert "is its own" in inspect(InspectOptions(str(path))).problems["teacher"]
    try:
        assert "is its own" in copy_cache(CopyOptions(str(path), str(tmp_path / "copy"))).left_out["teacher"]
    except CacheError as error:  # of both teachers
        assert "is its own" in str(error)  # noqa: PT017
    assert {key: data for key, data in tree(path).items() if ".partial" not in key} == before


def test_a_table_is_not_dropped_where_the_identity_that_it_does_not_fit_is_the_wrong_one(root: Path) -> None:
    """`second` has another table and other weights; under its name it is as sound as `teacher` under its own."""
    path = root / "here"
    other, codec = Cache.create(root / "other", HERE, WINDOWS[:SAMPLES]), coding_of(5)
    complete(other.add_teacher(identity_of(codec, weights="cdef"), codec), 50)
    replaced_file(root, "other", "teachers/teacher/zarr.json")
    before = tree(path)
    report = look(path, repair=True)
    assert tree(path) == before
    assert [finding.repair for finding in report.findings] == [None]
    with pytest.raises(CorruptError, match="is its own"):
        Cache.open(path, read_only=False).add_teacher(identity_of(codec, weights="cdef"), codec)
    assert {key: data for key, data in tree(path).items() if ".partial" not in key} == before


@pytest.mark.parametrize("key", ["windows/c/0", "teachers/teacher/head/c/0/0"])
def test_what_is_stored_once_belongs_to_one_cache_or_entry(root: Path, key: str) -> None:
    """By the checksum that an identity names; a foreign one is put right by the dump that has the right one."""
    path, before = root / "here", tree(root / "here")
    if key.startswith("windows"):
        windows = WINDOWS[1 : SAMPLES + 1]
        Cache.create(root / "other", replace(HERE, windows=windows_checksum(windows)), windows)
        swap([path / key], [root / "other" / key])
    else:
        swap([path / key], [path / key.replace("teachers/teacher", "teachers/second")])
    report = look(path, repair=True)
    assert all("its checksum does not fit" in finding.problem for finding in report.findings)
    assert {finding.teacher for finding in report.findings} == ({None} if "windows" in key else {"teacher", "second"})
    dump(path)
    assert tree(path) == before
    assert look(path).whole


def test_entries_of_the_same_teacher_hold_the_same_targets_whatever_their_names(tmp_path: Path) -> None:
    """A name identifies no targets: an entry that is renamed keeps its records."""
    cache = Cache.create(tmp_path, HERE, WINDOWS[:SAMPLES])
    for name in ("one", "two"):
        complete(cache.add_teacher(identity_of(EMBEDDING, name), EMBEDDING), 0)
    one, two = (tree(tmp_path / "teachers" / name) for name in ("one", "two"))
    assert {key for key in one if one[key] != two[key]} == {"zarr.json"}

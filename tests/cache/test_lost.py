"""The list of samples of which a cache may hold targets of a stand-in."""

import json

import numpy as np
import pytest

from kdcache.cache.layout import LOST
from kdcache.cache.store import Cache
from kdcache.errors import CorruptError
from kdcache.inspection.copy import CopyOptions, copy_cache
from kdcache.inspection.verify import VerifyOptions, verify
from support.small_cache import FULL, PROVENANCE, VIEW_SET, WINDOWS, fill, identity_of, kept, tree


@pytest.fixture
def cache(tmp_path):
    made = Cache.create(tmp_path / "cache", VIEW_SET, WINDOWS)
    fill(made.add_teacher(identity_of(FULL), FULL), views=1)
    return made


def test_whoever_adds_to_it_adds_to_what_others_have_written(cache, tmp_path):
    assert cache.lost() == frozenset()
    assert not (tmp_path / "cache" / LOST).exists()
    assert cache.add_lost([]) is None
    assert not (tmp_path / "cache" / LOST).exists()
    for keys in (["b", "ä/1"], ["a"], ["a", "b"]):
        cache.add_lost(keys)
    assert Cache.open(tmp_path / "cache").lost() == {"a", "b", "ä/1"}
    written = [path for path in (tmp_path / "cache" / LOST).iterdir() if path.name != "zarr.json"]
    assert sorted(json.loads(path.read_text())["keys"] for path in written) == [["a"], ["a", "b"], ["b", "ä/1"]]


@pytest.mark.parametrize("content", [b"", b"{}", b'{"keys": ["a"]}', b'{"keys": 1}'])
def test_one_that_is_altered_is_refused_by_name_and_found_by_verify(cache, tmp_path, content):
    cache.add_lost(["a", "b"])
    (file,) = (path for path in (tmp_path / "cache" / LOST).iterdir() if path.name != "zarr.json")
    file.write_bytes(content)
    with pytest.raises(CorruptError, match=rf"{file} was altered"):
        cache.lost()
    assert any(str(file) in finding.problem for finding in verify(VerifyOptions(str(tmp_path / "cache"))).findings)


def write_with_lost(entry, name, view=1):
    """The first block of a view, as a dump writes it while samples are lost."""
    start, stop = entry.layout.block_range(0)
    writer = entry.open_block(view, 0)
    writer.append(kept(entry.codec, view, start, stop))
    writer.finish(PROVENANCE, lost=name)


def test_a_copy_has_it_as_records_name_it(cache, tmp_path):
    for keys in (["a"], ["b"]):
        name = cache.add_lost(keys)
    write_with_lost(cache.entry("teacher"), name)
    copy_cache(CopyOptions(str(tmp_path / "cache"), str(tmp_path / "copy")))
    copy = Cache.open(tmp_path / "copy")
    assert copy.lost() == {"a", "b"}
    assert copy.entry("teacher").own_record(1, 0).lost == name
    assert tree(tmp_path / "copy" / LOST) == tree(tmp_path / "cache" / LOST)


def test_a_copy_knows_what_was_lost_to_a_dump_that_goes_on_meanwhile(cache, tmp_path, monkeypatch):
    """Blocks are listed first: what was computed for a stand-in in one that is listed was noted before."""
    add_teacher, entry = Cache.add_teacher, cache.entry("teacher")

    def dump_meanwhile(self, *arguments, **options):
        added = add_teacher(self, *arguments, **options)
        write_with_lost(entry, cache.add_lost(["a"]))
        return added

    monkeypatch.setattr(Cache, "add_teacher", dump_meanwhile)
    copy_cache(CopyOptions(str(tmp_path / "cache"), str(tmp_path / "copy")))
    assert Cache.open(tmp_path / "copy").lost() == {"a"}


def test_a_block_without_the_list_that_it_names_is_damaged_until_it_is_made_anew(cache, tmp_path):
    entry, name = cache.entry("teacher"), cache.add_lost(["a"])
    write_with_lost(entry, name)
    list_file = tmp_path / "cache" / LOST / f"{name}.json"
    list_file.unlink()
    entry = Cache.open(tmp_path / "cache", read_only=False).entry("teacher")
    for read in (lambda: entry.read_chunk(1, 0), lambda: entry.require_records([1]), lambda: entry.check_bytes(1, 0)):
        with pytest.raises(CorruptError, match=rf"{list_file} is missing, .* view 1, block 0 of teacher 'teacher'"):
            read()
    assert entry.recorded(1) == set()
    entry.require_records([0])
    report = verify(VerifyOptions(str(tmp_path / "cache"), repair=True))
    assert [(finding.view, finding.block) for finding in report.findings] == [(1, 0)]
    write_with_lost(entry, None)
    assert verify(VerifyOptions(str(tmp_path / "cache"))).findings == ()


def test_zarr_lists_the_cache_without_a_warning(cache, tmp_path, recwarn):
    import zarr

    cache.add_lost(["a"])
    cache.files.tidy()
    assert sorted(name for name, _ in zarr.open_group(tmp_path / "cache", mode="r").members()) == [
        "lost",
        "teachers",
        "windows",
    ]
    assert not [str(each.message) for each in recwarn.list]
    assert np.array_equal(cache.windows, Cache.open(tmp_path / "cache").windows)

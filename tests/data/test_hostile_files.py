"""Links and special files among shards, in indices and imports: nothing outside changes."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcache.data.importers.folder import import_folder
from kdcache.data.index import build_index, open_index
from kdcache.data.part import write_part
from kdcache.data.writer import NewSample, write_shards
from kdcache.demo.demo import _KNOWN, _enter
from kdcache.errors import ConfigError, DataError, KdcacheError, RunError
from kdcache.inspection.contact_sheet import Sheet, write_sheet
from kdcache.models.weights import read_card, read_weights
from kdcache.views.policies import load_policy
from support.links import Foreign, endless, fifo, too_long
from support.shards import encode_image, make_shards

PIXELS = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_shards(tmp_path_factory.mktemp("made") / "set", images=6, size=(8, 8), classes=2, shards=2)
    open_index(folder)
    return folder


@pytest.fixture
def shards(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "set"))


@pytest.fixture
def foreign(tmp_path: Path) -> Foreign:
    return Foreign(tmp_path / "foreign")


def write(out: Path) -> int:
    return write_shards(
        [NewSample("a", "png", encode_image(PIXELS, "png"), 0)], out, samples_per_shard=4, class_names=["zero"]
    )


@pytest.mark.parametrize("harm", [fifo, endless])
def test_a_shard_that_is_no_file_is_refused_at_once(shards: Path, harm: Callable[[Path], None]) -> None:
    harm(shards / "shard-000001.tar")
    with pytest.raises(DataError, match=r"shard-000001\.tar"):
        open_index(shards)


def test_shards_may_be_links_to_files(made: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    for path in [*made.glob("*.tar"), made / "classes.json"]:
        (tmp_path / "links" / path.name).symlink_to(path)
    assert open_index(tmp_path / "links").fingerprint == open_index(made).fingerprint


@pytest.mark.parametrize("harm", [fifo, endless, too_long])
def test_names_of_classes_in_no_file_are_refused_at_once(shards: Path, harm: Callable[[Path], None]) -> None:
    harm(shards / "classes.json")
    with pytest.raises(DataError, match=r"classes\.json cannot be read: it "):
        open_index(shards)


@pytest.mark.parametrize("harm", [fifo, endless, too_long])
@pytest.mark.parametrize("name", ["index.json", "label.npy", "key_bytes.npy"])
def test_an_index_of_which_a_part_is_no_file_is_built_again(
    shards: Path, name: str, harm: Callable[[Path], None]
) -> None:
    fingerprint = open_index(shards).fingerprint
    harm(shards / "kdcache-index" / name)
    assert open_index(shards).fingerprint == fingerprint
    assert (shards / "kdcache-index" / name).is_file()
    assert not (shards / "kdcache-index" / name).is_symlink()


@pytest.mark.parametrize("dtype", ["<f4", "|O"])
def test_a_column_of_another_kind_is_built_again(shards: Path, dtype: str) -> None:
    file = shards / "kdcache-index/label.npy"
    with file.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": (6,)})
        stream.write(bytes(6 * np.dtype(dtype).itemsize))
    assert open_index(shards).label.dtype == np.int32


def test_an_index_is_not_written_through_a_link(shards: Path, foreign: Foreign) -> None:
    shutil.rmtree(shards / "kdcache-index")
    (shards / "kdcache-index").symlink_to(foreign.path)
    with pytest.raises(DataError, match="kdcache-index is a symbolic link, which kdcache does not follow"):
        open_index(shards)
    foreign.assert_untouched()


def test_an_index_with_files_of_the_user_s_is_not_replaced(shards: Path) -> None:
    (shards / "kdcache-index/notes.txt").write_text("of the user's own")
    with pytest.raises(DataError, match=r"holds notes\.txt, which kdcache did not write"):
        build_index(shards)
    assert (shards / "kdcache-index/notes.txt").exists()


def test_only_left_overs_of_this_index_are_removed(shards: Path, foreign: Foreign) -> None:
    digits = "0123456789abcdef0123456789abcdef"
    ours = shards / f".kdcache-index.partial-{digits}"
    kept = [
        shards / f".kdcache-index-{digits}",
        shards / f".other.partial-{digits}",
        shards / ".kdcache-index-building-x",
    ]
    for path in (ours, *kept):
        path.mkdir()
        (path / "file").write_text("")
    (shards / f".kdcache-index.partial-{digits[::-1]}").symlink_to(foreign.path)
    build_index(shards)
    assert not ours.exists()
    assert not (shards / f".kdcache-index.partial-{digits[::-1]}").is_symlink()
    assert all((path / "file").exists() for path in kept)
    foreign.assert_untouched()


def test_a_part_is_not_written_through_a_link_or_over_files_of_the_user_s(
    shards: Path, tmp_path: Path, foreign: Foreign
) -> None:
    index = open_index(shards)
    write_part(index, 0.5, tmp_path / "part")
    (tmp_path / "part/notes.txt").write_text("of the user's own")
    with pytest.raises(DataError, match=r"holds notes\.txt"):
        write_part(index, 0.5, tmp_path / "part")
    (tmp_path / "link").symlink_to(tmp_path / "part")
    (tmp_path / "part/notes.txt").unlink()
    before = sorted(os.listdir(tmp_path / "part"))
    with pytest.raises(DataError, match="link is a symbolic link"):
        write_part(index, 0.5, tmp_path / "link")
    assert sorted(os.listdir(tmp_path / "part")) == before
    foreign.assert_untouched()


@pytest.mark.parametrize("name", ["shard-000000.tar.partial", "classes.json", "IMPORT-INCOMPLETE"])
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("target", ["precious.txt", "nothing yet"])
def test_an_import_writes_nothing_through_a_link(
    tmp_path: Path, foreign: Foreign, name: str, begun: bool, target: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if begun and name != "IMPORT-INCOMPLETE":
        (out / "IMPORT-INCOMPLETE").write_text("")
    (out / name).symlink_to(foreign.path / target)
    try:
        write(out)
        assert sorted(os.listdir(out)) == ["classes.json", "shard-000000.tar"]
        assert not (out / "classes.json").is_symlink()
    except DataError:
        assert not begun
    foreign.assert_untouched()


def test_an_import_that_begins_anew_removes_shards_of_its_own_naming_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    mine = ["shard-mine.tar.bak", "shard-1.tar.partial", "notes.txt"]
    for name in ["IMPORT-INCOMPLETE", "shard-000007.tar", "shard-000008.tar.partial", "classes.json", *mine]:
        (out / name).write_text("")
    write(out)
    assert sorted(os.listdir(out)) == sorted(["shard-000000.tar", "classes.json", *mine])


def test_the_folder_of_an_import_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    write(tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "disk")) == ["classes.json", "shard-000000.tar"]


@pytest.mark.parametrize("harm", [fifo, endless, too_long])
def test_an_image_that_is_no_file_is_refused_at_once(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    (tmp_path / "tree/cat").mkdir(parents=True)
    (tmp_path / "tree/cat/1.png").write_bytes(encode_image(PIXELS, "png"))
    harm(tmp_path / "tree/cat/2.png")
    with pytest.raises(DataError, match=r"2\.png"):
        import_folder(tmp_path / "tree", tmp_path / "out")


@pytest.mark.parametrize("harm", [fifo, endless, too_long])
def test_policies_and_cards_in_no_file_are_refused_at_once(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    for name in ("policy.yaml", "policy.json"):
        harm(tmp_path / name)
        with pytest.raises(ConfigError, match=name):
            load_policy(str(tmp_path / name))
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    harm(tmp_path / "config.json")
    if harm is too_long:
        with pytest.raises(KdcacheError, match=r"config\.json"):
            read_card(tmp_path)
    else:
        assert read_card(tmp_path) is None
    harm(tmp_path / "model.safetensors")
    with pytest.raises(KdcacheError, match=str(tmp_path)):
        read_weights(tmp_path / "model.safetensors")


def test_a_sheet_replaces_a_link_and_what_it_leads_to_stays(tmp_path: Path, foreign: Foreign) -> None:
    (tmp_path / "sheet.html").symlink_to(foreign.path / "precious.txt")
    write_sheet(Sheet(("title",), ("view",), ()), tmp_path / "sheet.html")
    assert not (tmp_path / "sheet.html").is_symlink()
    foreign.assert_untouched()


def test_the_next_demo_removes_what_a_demo_made_and_nothing_else(tmp_path: Path, foreign: Foreign) -> None:
    out = tmp_path / "demo"
    for name in (
        "data/train/x",
        "cache.zarr/zarr.json",
        "runs/alone/config.yaml",
        "runs/mine/config.yaml",
        "notes.txt",
    ):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("")
    (out / ".kdcache-demo").write_text(json.dumps({"finished": True}))
    assert not _enter(out, {"seed": 1})
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) == [
        ".kdcache-demo",
        "notes.txt",
        "runs/mine/config.yaml",
    ]
    (out / "runs/alone").symlink_to(foreign.path)
    with pytest.raises(RunError, match="alone is a symbolic link"):
        _enter(out, {"seed": 2})
    foreign.assert_untouched()
    assert not _KNOWN.fullmatch("runs/mine")

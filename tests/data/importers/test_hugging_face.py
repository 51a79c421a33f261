"""Data sets of the Hugging Face libraries, in the files that these write; pyarrow writes them here."""

import json
import sys

import pyarrow as pa
import pyarrow.parquet
import pytest

from kdcache.data.importers.hugging_face import import_hf
from kdcache.data.importers.resizing import Resizing
from kdcache.data.importers.shard_import import ImportOptions
from kdcache.data.index import open_index
from kdcache.errors import DataError, KdcacheError
from support.archives import decoded, photograph, shard_bytes
from support.imported import imported
from support.small_job import Heard

NAMES = ["zebra", "ape", "cat"]
FEATURES = {
    "image": {"_type": "Image"},
    "text": {"dtype": "string", "_type": "Value"},
    "label": {"names": NAMES, "_type": "ClassLabel"},
}
TABLE_OPTIONS = ImportOptions(samples_per_shard=3)


def table(start, stop, features=FEATURES, **columns):
    rows = range(start, stop)
    values = {
        "image": [{"bytes": photograph(n, "png" if n % 2 else "JPEG"), "path": f"{n}.x"} for n in rows],
        "text": [f"text {n}" for n in rows],
        "label": [n % 3 for n in rows],
    } | columns
    whole = pa.table({name: value for name, value in values.items() if value is not None})
    return whole.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})} if features else {}
    )


def saved(folder, split="train", stream=True, **choice):
    """What `Dataset.save_to_disk` writes: Arrow's format of streams, in several batches of rows."""
    folder.mkdir(parents=True)
    names = []
    for number, (start, stop) in enumerate([(0, 5), (5, 8)]):
        names.append(f"data-{number:05d}-of-00002.arrow")
        part = table(start, stop, **choice)
        make = pa.ipc.new_stream if stream else pa.ipc.new_file
        with make(str(folder / names[-1]), part.schema) as writer:
            writer.write_table(part, max_chunksize=2)
    state = {"_data_files": [{"filename": name} for name in names], "_split": split, "_format_type": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))
    return folder


def parquet(folder, split="train", count=2, **choice):
    folder.mkdir(parents=True, exist_ok=True)
    for number, (start, stop) in enumerate([(0, 5), (5, 8)]):
        if number < count:
            file = folder / f"{split}-{number:05d}-of-00002.parquet"
            pyarrow.parquet.write_table(table(start, stop, **choice), file, row_group_size=2)
    return folder


def expected(split="train"):
    return {f"{split}-{n:08d}": (photograph(n, "png" if n % 2 else "JPEG"), n % 3) for n in range(8)}


@pytest.mark.parametrize("stream", [True, False])
def test_a_folder_of_save_to_disk(tmp_path, stream):
    assert import_hf(saved(tmp_path / "in", stream=stream), tmp_path / "out", options=TABLE_OPTIONS) == 8
    assert imported(tmp_path / "out") == expected()
    assert open_index(tmp_path / "out").class_names == tuple(NAMES)


def test_a_split_of_a_data_set_of_several(tmp_path):
    for split in ("train", "test"):
        saved(tmp_path / "in" / split, split)
    (tmp_path / "in" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(KdcacheError, match=r"has the splits test, train\. Choose one with --split"):
        import_hf(tmp_path / "in", tmp_path / "out")
    with pytest.raises(KdcacheError, match="has no split val, but test, train"):
        import_hf(tmp_path / "in", tmp_path / "out", split="val")
    import_hf(tmp_path / "in", tmp_path / "out", split="test")
    assert imported(tmp_path / "out") == expected("test")


@pytest.mark.parametrize("place", ["", "data"])
def test_parquet_files_give_the_same_shards(tmp_path, place):
    parquet(tmp_path / "in" / place)
    assert import_hf(tmp_path / "in", tmp_path / "out", split="train", options=TABLE_OPTIONS) == 8
    import_hf(saved(tmp_path / "saved"), tmp_path / "other", options=TABLE_OPTIONS)
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "other")


def test_one_parquet_file_smaller_images_and_plain_bytes(tmp_path):
    images = [photograph(n) for n in range(5)]
    file = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table(0, 5, features=None, image=pa.array(images, pa.binary())), file)
    import_hf(file, tmp_path / "out", split="val")
    assert imported(tmp_path / "out") == {f"val-{n:08d}": (photograph(n), n % 3) for n in range(5)}
    assert open_index(tmp_path / "out").class_names is None
    import_hf(file, tmp_path / "small", options=ImportOptions(resizing=Resizing(24)))
    assert {decoded(data).size for data, _ in imported(tmp_path / "small").values()} == {(32, 24)}


def test_an_interrupted_import_copies_no_file_again(tmp_path, monkeypatch):
    src, copied = parquet(tmp_path / "in"), []
    from kdcache.data.importers import hugging_face

    copy, read = hugging_face._copied, hugging_face._Images.read
    monkeypatch.setattr(hugging_face, "_copied", lambda path, *rest: (copied.append(path.name), copy(path, *rest))[1])
    monkeypatch.setattr(hugging_face, "parquet_images", _noting(hugging_face.parquet_images, copied))

    def broken(samples, number):
        if number == 6:
            raise DataError("stopped")
        return read(samples, number)

    monkeypatch.setattr(hugging_face._Images, "read", broken)
    with pytest.raises(DataError, match="stopped"):
        import_hf(src, tmp_path / "out", options=TABLE_OPTIONS)
    assert sorted(path.name for path in (tmp_path / "out").glob(".source*")) == [
        ".source-000000.partial",
        ".source-000001.partial",
    ]
    assert sorted(name for name in copied if name.startswith("read ")) == [
        "read train-00000-of-00002.parquet",
        "read train-00001-of-00002.parquet",
    ]
    copied.clear()
    monkeypatch.setattr(hugging_face._Images, "read", read)
    import_hf(src, tmp_path / "out", options=TABLE_OPTIONS)
    assert not [name for name in copied if name.startswith("read ")]
    assert imported(tmp_path / "out") == expected()
    assert not [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".source")]


def _noting(function, names):
    def read(path, column):
        names.append(f"read {path.name}")
        yield from function(path, column)

    return read


def test_labels_as_names_take_a_list_of_classes(tmp_path):
    src = parquet(tmp_path / "in", features=None, label=None, count=1, kind=[NAMES[n % 3] for n in range(5)])
    (src / "train-00000-of-00002.parquet").rename(src / "all.parquet")
    (tmp_path / "classes.txt").write_text("\n".join(sorted(NAMES)))
    with pytest.raises(KdcacheError, match=r"no column is it \(of image, text, kind\)\. Choose one with --label"):
        import_hf(src, tmp_path / "out")
    with pytest.raises(DataError, match=r"of the class 'zebra', which is no number\. Give --classes"):
        import_hf(src, tmp_path / "out", label="kind")
    import_hf(src, tmp_path / "out", label="kind", classes=tmp_path / "classes.txt")
    assert [label for _, (_, label) in sorted(imported(tmp_path / "out").items())] == [2, 0, 1, 2, 0]
    assert open_index(tmp_path / "out").class_names == ("ape", "cat", "zebra")


def missing_file(at):
    return parquet(at, count=1)


def two_images(at):
    features = FEATURES | {"thumbnail": {"_type": "Image"}}
    return saved(at, features=features)


def cut(at):
    file = saved(at) / "data-00001-of-00002.arrow"
    file.write_bytes(file.read_bytes()[:-3000])
    return at


def selection(at):
    (saved(at) / "state.json").write_text('{"_data_files": [], "_indices_data_files": [{"filename": "i.arrow"}]}')
    return at


def elsewhere(at):
    (saved(at) / "state.json").write_text('{"_data_files": [{"filename": "../data.arrow"}]}')
    return at


def folder_with(at, name, data=b""):
    at.mkdir()
    (at / name).write_bytes(data)
    return at


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (missing_file, r"split train in .* 1 of 2 parquet files are there"),
        (lambda at: parquet(at, label=None), "no column is it"),
        (lambda at: parquet(at, count=1) and parquet(at, "test"), "has the splits test, train"),
        (cut, r"data-00001-of-00002\.arrow cannot be read by pyarrow.*copy the data"),
        (selection, "flatten_indices"),
        (elsewhere, "names no files of rows"),
        (lambda at: folder_with(at, "a.txt"), "holds no data set. Name a folder that `save_to_disk` wrote"),
        (lambda at: folder_with(at, "imagenet-train-00000-of-00009.arrow"), "download cache"),
        (lambda at: folder_with(at, "a.parquet", b"PAR1 and no more") / "a.parquet", "cannot be read by pyarrow"),
        (lambda at: folder_with(at, "a.csv") / "a.csv", "is no parquet file by its extension"),
        (lambda at: at / "missing", "Cannot read .*No such file"),
    ],
)
def test_what_is_no_whole_data_set_is_refused(tmp_path, make, message):
    with pytest.raises(KdcacheError, match=message):
        import_hf(make(tmp_path / "in"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"label": [-1] * 5}, r"Row 0 of .* has the label -1, as the hub marks"),
        ({"label": [0, 1, 3, 0, 0]}, r"Row 2 of .* has the label 3: labels go from 0 to 2"),
        ({"label": [0, 1, None, 0, 0]}, r"Row 2 of .* has no label"),
        ({"image": [{"bytes": None, "path": "/a.jpg"}] * 5}, r"holds the path of an image \(/a\.jpg\)"),
        ({"image": [{"bytes": b"<html>", "path": ""}] * 5}, r"Row . of .* cannot be read as an image"),
    ],
)
def test_rows_without_an_image_or_a_label_are_refused(tmp_path, column, message):
    file = tmp_path / "a.parquet"
    column = {name: pa.array(value, _BYTES if name == "image" else None) for name, value in column.items()}
    pyarrow.parquet.write_table(table(0, 5, **column), file)
    with pytest.raises(DataError, match=message):
        import_hf(file, tmp_path / "out")


_BYTES = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def test_without_pyarrow_it_is_told_what_to_install(tmp_path, monkeypatch):
    src = saved(tmp_path / "in")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pyarrow, which is not installed.*kdcache\[hf\]"):
        import_hf(src, tmp_path / "out", progress=Heard())

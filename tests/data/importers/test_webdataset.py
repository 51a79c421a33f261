"""Shards of other projects: images in any component, labels in JSON, as text, or as names of classes."""

import json

import pytest
import webdataset

from kdcache.data.importers.shard_import import ImportOptions
from kdcache.data.importers.webdataset import import_webdataset
from kdcache.data.index import open_index
from kdcache.errors import DataError, KdcacheError
from support.archives import photograph, shard_bytes, write_tar
from support.imported import imported
from support.small_job import Heard

NAMES = ["cat", "dog", "a fox"]


def shards(folder, components, count=7):
    """Two shards, with the components that a function gives for each number."""
    for shard in range(2):
        files = [
            (f"part/{number:04d}.{component}", data)
            for number in range(shard, count, 2)
            for component, data in components(number).items()
        ]
        write_tar(folder / f"{shard}.tar", files)
    return str(folder)


def in_json(number):
    told = {"width": 48, "annotation": {"class": number % 3}, "name": NAMES[number % 3], "none": None}
    return {"image.jpg": photograph(number), "json": json.dumps(told).encode(), "seg.npy": b"numbers"}


def expected(count=7):
    return {f"part/{number:04d}": (photograph(number), number % 3) for number in range(count)}


def class_list(folder, text=None):
    (folder / "classes.txt").write_text("\n".join(NAMES) + "\n\n" if text is None else text)
    return folder / "classes.txt"


def test_a_field_of_json(tmp_path):
    data, heard = shards(tmp_path / "in", in_json), Heard()
    options = ImportOptions(samples_per_shard=3)
    assert (
        import_webdataset(data, tmp_path / "out", label="json:annotation.class", options=options, progress=heard) == 7
    )
    assert imported(tmp_path / "out") == expected()
    assert any("7 seg.npy" in line for line in heard.said)
    read = webdataset.WebDataset(str(tmp_path / "out" / "shard-{000000..000002}.tar"), shardshuffle=False)
    assert {sample["__key__"]: (sample["jpg"], int(sample["cls"])) for sample in read} == expected()


def test_names_of_classes_in_json_and_as_text(tmp_path):
    classes = class_list(tmp_path)
    data = shards(tmp_path / "in", in_json)
    import_webdataset(data, tmp_path / "a", label="json:name", classes=classes)
    text = shards(
        tmp_path / "text", lambda n: {"jpg": photograph(n), "txt": f" {NAMES[n % 3]}\n".encode(), "mask.png": b"mask"}
    )
    import_webdataset(text, tmp_path / "b", image="jpg", label="txt", classes=classes)
    assert imported(tmp_path / "a") == imported(tmp_path / "b") == expected()
    assert open_index(tmp_path / "a").class_names == tuple(NAMES)
    assert shard_bytes(tmp_path / "a") == shard_bytes(tmp_path / "b")


def test_the_shards_own_list_of_classes_is_kept(tmp_path):
    data = shards(tmp_path / "in", lambda n: {"image.png": photograph(n, "png"), "cls": str(n % 3).encode()})
    (tmp_path / "in" / "classes.json").write_text(json.dumps(NAMES))
    import_webdataset(data, tmp_path / "out")
    assert open_index(tmp_path / "out").class_names == tuple(NAMES)
    assert {key: label for key, (_, label) in imported(tmp_path / "out").items()}["part/0005"] == 2


def test_a_name_that_is_a_number_is_a_name(tmp_path):
    data = shards(tmp_path / "in", lambda n: {"jpg": photograph(n), "txt": str(n % 3 + 1).encode()})
    import_webdataset(data, tmp_path / "out", label="txt", classes=class_list(tmp_path, "1\n2\n3\n"))
    assert imported(tmp_path / "out") == expected()


def test_without_labels(tmp_path):
    data = shards(tmp_path / "in", lambda n: {"img.jpg": photograph(n)})
    assert import_webdataset(data, tmp_path / "out", label=None) == 7
    assert len(open_index(tmp_path / "out", unlabelled=True)) == 7


def with_label(data):
    return lambda number: {"jpg": photograph(number), "json": data if number == 4 else b'{"label": 1}'}


@pytest.mark.parametrize(
    ("components", "choice", "message"),
    [
        (in_json, {}, r"part/0000 in .*0\.tar has no label: there is no part/0000\.cls; it has image\.jpg.*--label"),
        (in_json, {"label": "json"}, "write json:FIELD"),
        (in_json, {"label": "json:class"}, "has no field class: class is missing"),
        (in_json, {"label": "json:annotation.kind"}, "has no field annotation.kind: kind is missing"),
        (in_json, {"label": "json:name"}, "of the class 'cat', which is no number. Give --classes FILE"),
        (in_json, {"label": "json:none"}, "has the label None, which is neither"),
        (in_json, {"label": "json:width", "classes": "two\nnames"}, "has the label 48: labels go from 0 to 1"),
        (in_json, {"label": "json:name", "classes": "cat\ndog"}, "'a fox', which the list of classes does not have"),
        (in_json, {"label": "json:name", "classes": "cat\ndog\ncat"}, "names the class cat twice"),
        (in_json, {"label": "json:width", "image": "photo.jpg"}, "should have one image and has none"),
        (with_label(b'{"label": true}'), {"label": "json:label"}, "has the label True, which is neither"),
        (with_label(b'{"label": 1.0}'), {"label": "json:label"}, "has the label 1.0, which is neither"),
        (with_label(b'{"label": -1}'), {"label": "json:label"}, "has the label -1: labels go from 0"),
        (with_label(b"{"), {"label": "json:label"}, r"part/0004\.json in .*cannot be read"),
        (
            lambda n: {"a.jpg": photograph(n), "b.jpg": b"", "cls": b"0"},
            {},
            "should have one image and has a.jpg, b.jpg",
        ),
        (lambda n: {"jpg": b"<html>", "cls": b"0"}, {}, "cannot be read as an image"),
    ],
)
def test_labels_and_images_that_are_not_clear_are_refused(tmp_path, components, choice, message):
    data = shards(tmp_path / "in", components)
    if "classes" in choice:
        choice = choice | {"classes": class_list(tmp_path, choice["classes"])}
    with pytest.raises(KdcacheError, match=message):
        import_webdataset(data, tmp_path / "out", **choice)


def test_a_key_twice_and_shards_that_are_none(tmp_path):
    data = shards(tmp_path / "in", lambda n: {"jpg": photograph(n), "cls": b"1"})
    write_tar(tmp_path / "in" / "2.tar", [("part/0003.jpg", photograph(0)), ("part/0003.cls", b"0")])
    with pytest.raises(DataError, match="Two images have the key part/0003"):
        import_webdataset(data, tmp_path / "out")
    write_tar(tmp_path / "in" / "2.tar", [("new.jpg", photograph(0)), ("new.jpg", b""), ("new.cls", b"0")])
    with pytest.raises(DataError, match=r"new\.jpg is twice in .*2\.tar"):
        import_webdataset(data, tmp_path / "out")
    (tmp_path / "in" / "2.tar").write_bytes((tmp_path / "in" / "1.tar").read_bytes()[:-11000])
    with pytest.raises(DataError, match=r"2\.tar is cut short"):
        import_webdataset(data, tmp_path / "out")
    with pytest.raises(KdcacheError, match="not on a file system"):
        import_webdataset("s3://bucket/{0..1}.tar", tmp_path / "out")

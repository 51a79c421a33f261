"""CIFAR's binary files by the description on its page: labels, planes of colours, names."""

import pickle

import numpy as np
import pytest

from kdcache.data.importers.cifar import import_cifar
from kdcache.data.index import open_index
from kdcache.errors import DataError, UsageError
from support.archives import decoded, photograph, write_tar
from support.imported import imported
from support.small_job import Heard

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def pixels(number):
    """A photograph, [32, 32, 3]."""
    return np.asarray(decoded(photograph(number, "png", 32)).resize((32, 32)))


def record(number, *labels):
    """A record as the page describes it: the labels, then all of red, all of green, all of blue."""
    image = pixels(number)
    return bytes(labels) + b"".join(image[:, :, channel].tobytes() for channel in range(3))


def cifar_10():
    batches = [
        (f"data_batch_{n}.bin", b"".join(record(4 * n + k, (4 * n + k) % 10) for k in range(3))) for n in range(1, 6)
    ]
    names = ("\n".join(NAMES) + "\n\n").encode()
    return [
        *batches,
        ("test_batch.bin", record(1, 3) + record(2, 9)),
        ("batches.meta.txt", names),
        ("readme.html", b""),
    ]


def cifar_100():
    return [
        ("train.bin", b"".join(record(number, number, 90 + number) for number in range(5))),
        ("test.bin", record(6, 19, 99)),
        ("coarse_label_names.txt", "\n".join(f"group_{n}" for n in range(20)).encode()),
        ("fine_label_names.txt", "\n".join(f"class_{n}" for n in range(100)).encode()),
    ]


def archive(file, files, folder="cifar-10-batches-bin"):
    return write_tar(file, [(f"{folder}/{name}", data) for name, data in files])


def unpacked(folder, files):
    folder.mkdir(parents=True)
    for name, data in files:
        (folder / name).write_bytes(data)
    return folder


def check(found, key, number, label):
    data, told = found[key]
    assert told == label
    assert np.array_equal(np.asarray(decoded(data)), pixels(number))


@pytest.mark.parametrize("kind", ["archive", "folder", "folder above"])
def test_cifar_10(tmp_path, kind):
    if kind == "archive":
        src = archive(tmp_path / "cifar-10-binary.tar.gz", cifar_10())
    else:
        src = unpacked(tmp_path / "cifar-10-batches-bin", cifar_10())
    src, heard = (tmp_path if kind == "folder above" else src), Heard()
    assert import_cifar(src, tmp_path / "out", progress=heard) == 15
    found = imported(tmp_path / "out")
    assert open_index(tmp_path / "out").class_names == tuple(NAMES)
    check(found, "train-00000", 4, 4)
    check(found, "train-00004", 9, 9)
    check(found, "train-00014", 22, 2)
    assert any("holds 15 train images, and CIFAR-10 has 50,000" in line for line in heard.warned)


def test_the_test_split_and_coarse_labels_of_cifar_100(tmp_path):
    src = archive(tmp_path / "cifar-100-binary.tar.gz", cifar_100(), "cifar-100-binary")
    for labels, first, names in (("fine", 93, "class"), ("coarse", 3, "group")):
        out = tmp_path / labels
        assert import_cifar(src, out, labels=labels) == 5
        check(imported(out), "train-00003", 3, first)
        assert (open_index(out).class_names or ())[7] == f"{names}_7"
    assert import_cifar(src, tmp_path / "test", split="test") == 1
    check(imported(tmp_path / "test"), "test-00000", 6, 99)


def python_version():
    content = pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1]})
    return [("data_batch_1", content), ("test_batch", content), ("batches.meta", content)]


@pytest.mark.parametrize("folder", [False, True])
def test_the_pickled_version_is_refused_and_told_why(tmp_path, folder):
    if folder:
        src = unpacked(tmp_path / "cifar-10-batches-py", python_version())
    else:
        src = archive(tmp_path / "cifar-10-python.tar.gz", python_version(), "cifar-10-batches-py")
    with pytest.raises(
        DataError, match=r"are pickled\. Reading a pickle can run code.*Download the binary version.*cifar-10-binary"
    ):
        import_cifar(src, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def changed(name, data):
    return [(file, data if file == name else content) for file, content in cifar_10()]


def without(name):
    return [(file, content) for file, content in cifar_10() if file != name]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (changed("data_batch_2.bin", record(0, 1)[:-1]), r"data_batch_2\.bin in .* has 3,072 bytes.*cut short"),
        (changed("data_batch_2.bin", record(0, 10)), "has the label 10, and CIFAR-10 has 10 classes"),
        (without("data_batch_5.bin"), r"no data_batch_5\.bin"),
        (changed("batches.meta.txt", b"one\ntwo"), "names 2 classes, and CIFAR-10 has 10"),
        ([("data_batch_1.mat", b"")], "does not hold the binary version of CIFAR"),
        ([("a.jpg", b"")], "does not hold the binary version of CIFAR"),
    ],
)
def test_what_is_not_whole_or_something_else_is_refused(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        import_cifar(archive(tmp_path / "x.tar.gz", files), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_archive_is_refused(tmp_path):
    src = archive(tmp_path / "x.tar.gz", cifar_10())
    data = src.read_bytes()
    src.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="Download it again"):
        import_cifar(src, tmp_path / "out")
    src.write_bytes(data[: len(data) // 2] + bytes(8) + data[len(data) // 2 + 8 :])
    with pytest.raises(DataError, match=r"is damaged.*Download it again"):
        import_cifar(src, tmp_path / "out")
    src.write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match="is damaged, or no tar archive"):
        import_cifar(src, tmp_path / "out")


def test_cifar_10_has_no_coarse_labels(tmp_path):
    with pytest.raises(UsageError, match="CIFAR-10 has no coarse labels"):
        import_cifar(archive(tmp_path / "x.tar.gz", cifar_10()), tmp_path / "out", labels="coarse")

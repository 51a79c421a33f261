"""ImageNet as it is downloaded: labels, class names and images are those of the unpacked folders."""

import io
import tarfile

import numpy as np
import pytest
from scipy.io import savemat

from kdcache.data.importers.folder import import_folder
from kdcache.data.importers.imagenet import import_imagenet
from kdcache.data.importers.imagenet_labels import imagenet_classes
from kdcache.data.importers.shard_import import ImportOptions
from kdcache.data.index import open_index
from kdcache.errors import DataError, KdcacheError, UsageError
from support.archives import photograph, shard_bytes, tar_bytes, write_tar
from support.imported import imported
from support.small_job import Heard

CLASSES = ["n01440764", "n02084071", "n03888257"]
VAL = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 7)]
#: The class of each validation image, as places among the 1,000.
TRUTH = [5, 999, 0, 321, 5, 42]
PER_SHARD = ImportOptions(samples_per_shard=3)


def class_tar(wnid, count=3, start=0):
    return [(f"{wnid}_{number}.JPEG", photograph(start + number)) for number in range(count)]


def train_tar(file, classes=CLASSES):
    """A tar of a tar for each class, which do not come in the order of the classes."""
    tars = [(f"{wnid}.tar", tar_bytes(class_tar(wnid, start=3 * place))) for place, wnid in enumerate(classes)]
    return write_tar(file, reversed(tars))


def val_tar(file):
    return write_tar(file, [(f"./{name}", photograph(number)) for number, name in reversed(list(enumerate(VAL)))])


def devkit(file, truth=TRUTH, wnids=None):
    """The devkit, whose numbers of classes are in another order than the WordNet ids."""
    wnids = list(wnids or imagenet_classes())
    number_of = {int(place): number for number, place in enumerate(np.random.default_rng(0).permutation(len(wnids)), 1)}
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(number, wnids[place], f"the words of {place}", 0) for place, number in number_of.items()]
    rows = [*sorted(rows), (len(wnids) + 1, "n00001740", "entity", 3)]  # classes of classes come last
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": np.array(rows, kind)})
    text = "".join(f"{number_of[place]}\n" for place in truth).encode()
    data = "ILSVRC2012_devkit_t12/data"
    files = [(f"{data}/meta.mat", buffer.getvalue()), (f"{data}/ILSVRC2012_validation_ground_truth.txt", text)]
    return write_tar(file, files)


def test_the_train_archive_gives_the_shards_of_the_unpacked_folders(tmp_path):
    train = train_tar(tmp_path / "ILSVRC2012_img_train.tar")
    assert import_imagenet(train, tmp_path / "out", subset=True, options=PER_SHARD) == 9
    with tarfile.open(train) as tar:
        for member in tar:
            with tarfile.open(fileobj=tar.extractfile(member)) as inner:
                inner.extractall(tmp_path / "tree" / member.name.removesuffix(".tar"), filter="data")
    import_folder(tmp_path / "tree", tmp_path / "folder", samples_per_shard=3)
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "folder")
    assert open_index(tmp_path / "out").class_names == tuple(CLASSES)
    assert imported(tmp_path / "out")["n02084071/n02084071_1"] == (photograph(4), 1)


def test_the_classes_are_in_the_order_of_timms_weights(tmp_path, monkeypatch):
    assert len(imagenet_classes()) == 1000
    assert list(imagenet_classes()) == sorted(imagenet_classes())
    assert imagenet_classes()[207] == "n02099601", "the golden retriever"
    monkeypatch.setattr("kdcache.data.importers.imagenet_labels.imagenet_classes", lambda: tuple(CLASSES))
    assert import_imagenet(train_tar(tmp_path / "train.tar"), tmp_path / "out") == 9


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (
            CLASSES[:2],
            r"train\.tar does not have ImageNet-1k's 1,000 classes: 1 of them are missing, such as n03888257.*--subset",
        ),
        ([*CLASSES, "n99999999"], "classes: it has others, such as n99999999"),
    ],
)
def test_missing_and_foreign_classes_are_refused(tmp_path, classes, message, monkeypatch):
    monkeypatch.setattr("kdcache.data.importers.imagenet_labels.imagenet_classes", lambda: tuple(CLASSES))
    with pytest.raises(DataError, match=message):
        import_imagenet(train_tar(tmp_path / "train.tar", classes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("unpacked", [False, True])
def test_labels_of_the_devkit_are_translated(tmp_path, unpacked):
    kit = devkit(tmp_path / "ILSVRC2012_devkit_t12.tar.gz")
    if unpacked:
        with tarfile.open(kit) as tar:
            tar.extractall(tmp_path, filter="data")
        kit = tmp_path / "ILSVRC2012_devkit_t12"
    assert import_imagenet(val_tar(tmp_path / "val.tar"), tmp_path / "out", devkit=kit) == 6
    expected = {
        f"{imagenet_classes()[label]}/{name.removesuffix('.JPEG')}": (photograph(number), label)
        for number, (name, label) in enumerate(zip(VAL, TRUTH, strict=True))
    }
    assert imported(tmp_path / "out") == expected
    assert open_index(tmp_path / "out").class_names == imagenet_classes()


def wnid(place):
    return imagenet_classes()[TRUTH[place]]


@pytest.mark.parametrize(
    "lines",
    [
        lambda: [wnid(place) for place in range(6)],
        lambda: [f"{VAL[place]} {wnid(place)}" for place in (3, 1, 0, 2, 5, 4)],
        lambda: [f"{VAL[place]} {TRUTH[place]}" for place in (3, 1, 0, 2, 5, 4)],
        lambda: [str(label) for label in TRUTH],
        lambda: [
            "ImageId,PredictionString",
            *(f"{VAL[place].removesuffix('.JPEG')},{wnid(place)} 1 2 3 4 {wnid(place)} 5 6 7 8" for place in range(6)),
        ],
    ],
    ids=["wnids", "names and wnids", "names and numbers", "numbers", "Kaggle's"],
)
def test_lists_of_labels(tmp_path, lines):
    (tmp_path / "labels.txt").write_text("\n".join(lines()) + "\n")
    import_imagenet(val_tar(tmp_path / "val.tar"), tmp_path / "out", labels=tmp_path / "labels.txt")
    assert {key[10:]: label for key, (_, label) in imported(tmp_path / "out").items()} == {
        name.removesuffix(".JPEG"): label for name, label in zip(VAL, TRUTH, strict=True)
    }
    assert open_index(tmp_path / "out").num_classes == 1000


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1", "2", "3", "4", "5", "1000"], r"go from 1 to 1000.*ILSVRC2012_ID.*give --devkit"),
        (["1", "2", "3", "4", "5", "6"], r"Numbers from 1 are the devkit's"),
        (["0", "1", "2"], r"holds 6 images, and .*labels\.txt has 3 labels"),
        (["n01440764"] * 5 + ["n00000001"], "it has others, such as n00000001"),
        (["n01440764"] * 5 + ["7"], "names the class '7', which is neither|neither a WordNet id"),
        ([f"other_{number} n01440764" for number in range(6)], "no line for the image ILSVRC2012_val_00000001"),
        ([*(f"{name} 0" for name in VAL[:5]), VAL[5]], r"Line 6 of .* has no class"),
    ],
)
def test_lists_that_would_give_wrong_labels_are_refused(tmp_path, lines, message):
    (tmp_path / "labels.txt").write_text("\n".join(lines))
    with pytest.raises(DataError, match=message):
        import_imagenet(val_tar(tmp_path / "val.tar"), tmp_path / "out", labels=tmp_path / "labels.txt")


def test_a_devkit_of_other_images_is_refused(tmp_path):
    kit = devkit(tmp_path / "devkit.tar.gz", truth=TRUTH[:5])
    with pytest.raises(DataError, match=r"holds 6 images, and .*devkit\.tar\.gz has 5 labels"):
        import_imagenet(val_tar(tmp_path / "val.tar"), tmp_path / "out", devkit=kit)
    with pytest.raises(DataError, match="no ILSVRC2012_validation_ground_truth"):
        import_imagenet(val_tar(tmp_path / "val.tar"), tmp_path / "out", devkit=val_tar(tmp_path / "other.tar"))


def swapped(folder):
    tars = [("n01440764.tar", tar_bytes(class_tar("n02084071")))]
    return write_tar(folder / "x.tar", tars)


OTHERS = {
    "a set that is none": (lambda at: write_tar(at / "x.tar", [("readme.txt", b"hello")]), "no images and no archive"),
    "compressed": (lambda at: train_tar(at / "x.tar.gz"), r"x\.tar\.gz cannot be imported as ImageNet.*compressed"),
    "cut short": (lambda at: cut(train_tar(at / "x.tar")), "cannot be imported as ImageNet.*cut short"),
    "another class's images": (swapped, r"n02084071_0\.JPEG in n01440764\.tar in .*is an image of the class n02084071"),
    "no images": (
        lambda at: write_tar(at / "x.tar", [("n01440764.tar", tar_bytes([("a.txt", b"a")]))]),
        "is no image by its extension",
    ),
    "an empty class": (lambda at: write_tar(at / "x.tar", [("n01440764.tar", tar_bytes([]))]), "no image in n01440764"),
    "a class twice": (
        lambda at: write_tar(at / "x.tar", [("n01440764.tar", tar_bytes(class_tar("n01440764")))] * 2),
        r"holds n01440764\.tar twice",
    ),
    "a folder": (lambda at: at, "Cannot read .*it is a folder"),
    "nothing": (lambda at: at / "missing.tar", "Cannot read .*No such file"),
    "images of the validation set": (lambda at: val_tar(at / "x.tar"), "give --devkit"),
}


def cut(file):
    file.write_bytes(file.read_bytes()[:-12000])
    return file


@pytest.mark.parametrize("kind", OTHERS)
def test_tars_that_are_something_else_are_refused(tmp_path, kind):
    make, message = OTHERS[kind]
    with pytest.raises(KdcacheError, match=message):
        import_imagenet(make(tmp_path), tmp_path / "out", subset=True)
    assert not (tmp_path / "out").exists()


def test_options_that_do_not_belong_together(tmp_path):
    with pytest.raises(UsageError, match="leave out --devkit"):
        import_imagenet(train_tar(tmp_path / "x.tar"), tmp_path / "out", labels=tmp_path / "list", subset=True)
    with pytest.raises(UsageError, match="Give one of them"):
        import_imagenet(tmp_path / "x", tmp_path / "out", labels=tmp_path / "list", devkit=tmp_path / "kit")


def test_other_files_beside_the_classes_are_told(tmp_path):
    tars = [("n01440764.tar", tar_bytes(class_tar("n01440764"))), ("LICENSE", b"text")]
    heard = Heard()
    import_imagenet(write_tar(tmp_path / "x.tar", tars), tmp_path / "out", subset=True, progress=heard)
    assert any("1 other files" in line and "LICENSE" in line for line in heard.warned)


def test_without_scipy_the_list_of_labels_is_advised(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "scipy.io", None)
    kit = devkit(tmp_path / "devkit.tar.gz")
    with pytest.raises(DataError, match=r"kdcache\[imagenet\].*--labels"):
        import_imagenet(val_tar(tmp_path / "val.tar"), tmp_path / "out", devkit=kit)

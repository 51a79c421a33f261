"""What a training refuses of a cache, `open_cache` refuses too: the same error, in the words of Python."""

import json
import re
import shutil
from pathlib import Path

import pytest

import kdcache
from kdcache.cache.identity import seal
from kdcache.dumping.dump import dump
from kdcache.errors import CacheError, CorruptError, DataError, IdentityError, KdcacheError, UsageError
from kdcache.inspection.copy import CopyOptions, copy_cache
from kdcache.runtime.python_words import python_words
from kdcache.training.train import train
from support.shards import make_samples, write_set
from support.small_job import CLASSES, MODEL, SAMPLES, dump_request, make_data, make_teacher, train_request


@pytest.fixture(scope="module")
def several(job, tmp_path_factory) -> Path:
    """A cache of three teachers in two views, of which one has other classes."""
    root = tmp_path_factory.mktemp("refused")
    copy_cache(CopyOptions(str(job.cache), str(root / "cache"), "0:2"))
    choice = {"targets": "topk", "views": 1, "renderer": "pillow"}
    dump(dump_request(job.data, root / "cache", make_teacher(root / "a", seed=8), None, name="other", **choice))
    seven = make_teacher(root / "b", classes=7)
    dump(dump_request(job.data, root / "cache", seven, None, name="seven", label_space="none", **choice))
    return root / "cache"


class Case:
    """A cache and data of one test, which a fault may change."""

    def __init__(self, job, several: Path, folder: Path) -> None:
        self.several, self.folder = several, folder
        self.data, self.cache, self.full = job.data, folder / "cache", job.cache

    def copied(self) -> Path:
        """A cache of one teacher, to be damaged."""
        copy_cache(CopyOptions(str(self.full), str(self.cache), "0:2"))
        return self.cache

    def damaged(self, file: str) -> None:
        halve(self.copied() / file)


def halve(file: Path) -> None:
    """As a copy leaves it that ended early."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def other_data(case):
    case.copied()
    case.data = make_data(case.folder / "data", seed=1)


def fewer_samples(case):
    case.copied()
    case.data = make_data(case.folder / "data", images=99)


def other_order_of_classes(case):
    """The same images in the same shards, whose classes were numbered in another order."""
    case.copied()
    samples = make_samples(SAMPLES, (36, 44), CLASSES)
    renumbered = [sample._replace(label=(1, 0, 2, 3)[sample.label]) for sample in samples]
    case.data = str(write_set(case.folder / "data", renumbered, shards=3))


def no_shards(case):
    case.copied()
    case.data = str(case.folder / "none")


def part_of_the_views(case):
    copy_cache(CopyOptions(str(case.full), str(case.cache), "2:4"))


def unfinished_view(case):
    records = case.copied() / "teachers" / MODEL / "records"
    for view in ("0", "1"):
        sorted((records / view).glob("*.json"))[0].unlink()


def no_teacher(case):
    shutil.rmtree(case.copied() / "teachers" / MODEL)


def later_format(case):
    file = case.copied() / "zarr.json"
    content = json.loads(file.read_text())
    content["attributes"]["kdcache"] = seal({"format": 10_000, "all": "else"})
    file.write_text(json.dumps(content))


def use(several=False, **choice):
    def fault(case):
        if several:
            case.cache = case.several
        else:
            case.copied()
        return choice

    return fault


FAULTS = {
    "no cache": (lambda case: None, UsageError, "There is no cache at"),
    "other data": (other_data, IdentityError, "other images or labels than the cache"),
    "fewer samples": (fewer_samples, IdentityError, "99 samples with fingerprint"),
    "another order of classes": (other_order_of_classes, IdentityError, "other images or labels than the cache"),
    "no shards": (no_shards, DataError, "none"),
    "no such entry": (use(teacher="x"), UsageError, "holds no teacher 'x'"),
    "no such entry among several": (use(several=True, teachers={MODEL: 1, "x": 2}), UsageError, "no teacher 'x'"),
    "nobody chosen of several": (use(several=True), UsageError, "choose one with teacher, or mix them with teachers"),
    "one and several": (use(teacher=MODEL, teachers={MODEL: 1}), UsageError, "give one of them"),
    "no weight": (use(teachers={MODEL: 0}), UsageError, "weight"),
    "teachers of other classes": (use(several=True, teachers={MODEL: 1, "seven": 1}), IdentityError, "num_classes 4"),
    "no teacher": (no_teacher, UsageError, "holds no teacher's targets yet"),
    "part of the views": (part_of_the_views, UsageError, "holds views 2-3, without 0"),
    "an unfinished view": (unfinished_view, UsageError, "no view in the cache that is complete"),
    "more views than there are": (use(views=3), UsageError, "3"),
    "a later format": (later_format, CacheError, "format 10000"),
    "damaged cache": (lambda case: case.damaged("zarr.json"), CacheError, "zarr.json"),
    "damaged entry": (lambda case: case.damaged(f"teachers/{MODEL}/zarr.json"), CacheError, f"{MODEL}/zarr.json"),
    "damaged record": (lambda case: case.damaged(f"teachers/{MODEL}/records/1/1.json"), CorruptError, "records/1/1"),
}
#: Where the sentences differ: a command has another remedy, or another form of the argument.
OWN_SENTENCE = {"no cache", "no weight", "more views than there are"}


def as_options(choice):
    """The arguments of `open_cache` as those of a training."""
    options = dict(choice)
    if "teachers" in options:
        options["teachers"] = ",".join(f"{name}={weight}" for name, weight in options["teachers"].items())
    if "views" in options:
        options["overrides"] = (f"views.count={options.pop('views')}",)
    return options


@pytest.mark.parametrize("name", FAULTS)
def test_open_cache_refuses_what_a_training_refuses(job, several, tmp_path, name):
    fault, error, message = FAULTS[name]
    case = Case(job, several, tmp_path)
    choice = fault(case) or {}
    with pytest.raises(KdcacheError) as of_training:
        train(
            train_request(case.data, tmp_path / "run", cache=str(case.cache), renderer="pillow", **as_options(choice))
        )
    with pytest.raises(error, match=re.escape(message)) as of_python:
        kdcache.open_cache(case.cache, data=case.data, **choice)
    assert type(of_python.value) is type(of_training.value)
    assert getattr(of_python.value, "field", None) == getattr(of_training.value, "field", None)
    if name not in OWN_SENTENCE:
        assert str(of_python.value) == python_words(str(of_training.value))
    # What is in backticks is a command, and has its own options.
    assert "--" not in re.sub(r"`[^`]*`( as before, with --views \d+)?", "", str(of_python.value))


def test_damaged_targets_are_refused_by_the_step_that_reads_them(job, several, tmp_path):
    case = Case(job, several, tmp_path)
    chunks = [file for file in (case.copied() / "teachers" / MODEL).glob("log_prob/c/**/*") if file.is_file()]
    assert chunks
    for chunk in chunks:
        halve(chunk)
    with pytest.raises(CorruptError) as of_training:
        train(train_request(case.data, tmp_path / "run", cache=str(case.cache), renderer="pillow"))
    dataset = kdcache.open_cache(case.cache, data=case.data)
    loader = dataset.loader(26, 1, image_size=32, device="cpu", renderer="pillow")
    with loader, pytest.raises(CorruptError) as of_python:
        next(iter(loader))
    assert str(of_python.value) == python_words(str(of_training.value))

"""Bad input gets a clear error that names what is wrong, where, and what to do, and loses nothing."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from kdcache.cache.store import Cache
from kdcache.data.index import open_index
from kdcache.data.part import write_part
from kdcache.dumping.dump import dump
from kdcache.errors import BrokenImageError, CacheError, DataError, KdcacheError, ModelError, RunError, UsageError
from kdcache.evaluation.evaluate import EvaluateOptions, evaluate
from kdcache.inspection.check import check
from kdcache.training.train import train
from support.command_line import kdcache
from support.images import png_that_dali_refuses
from support.shards import make_samples, write_set
from support.small_job import CLASSES, MODEL, dump_request, train_request, tree_bytes

IMAGES = 131


def samples(change=None, number=60):
    """The samples of a small data set, one of them changed."""
    out = make_samples(IMAGES, (36, 44), CLASSES, seed=0)
    if change is not None:
        out[number] = change(out[number])
    return out


def truncated(sample):
    return sample._replace(data=sample.data[: len(sample.data) // 2])


def damaged_png(sample):
    buffer = io.BytesIO()
    Image.open(io.BytesIO(sample.data)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    return sample._replace(data=bytes(data), ext="png")


def dali_only(sample):
    return sample._replace(data=png_that_dali_refuses(40, 36), ext="png")


@pytest.mark.parametrize("renderer", ["dali", "pillow"])
@pytest.mark.parametrize("change", [truncated, damaged_png])
def test_a_broken_image_is_named_and_the_blocks_before_it_stay(job, tmp_path, change, renderer):
    data = write_set(tmp_path / "data", samples(change), shards=3)
    request = dump_request(
        str(data), tmp_path / "cache", job.weights, job.policy, views=1, renderer=renderer, batch_size=2
    )
    with pytest.raises(BrokenImageError, match=r"img-00060 in .*shard-000001\.tar at byte \d+"):
        dump(request)
    entry = Cache.open(tmp_path / "cache").entry(MODEL)
    there = entry.recorded(0)
    assert there == set(range(len(there))), "blocks are written in order"
    with pytest.raises(BrokenImageError):
        dump(request)
    assert entry.recorded(0) == there


def test_a_broken_image_stops_a_training_that_can_go_on(job, tmp_path):
    data = write_set(tmp_path / "data", samples(truncated), shards=3)
    with pytest.raises(BrokenImageError, match=rf"img-00060.*`kdcache index {data} --check`"):
        train(train_request(str(data), tmp_path / "run", supervised=True, epochs=2))


def test_what_dali_alone_refuses_is_found_by_a_check_and_dropped_and_the_dump_then_works(job, tmp_path):
    data = write_set(tmp_path / "data", samples(dali_only), shards=3)
    request = dump_request(
        str(data), tmp_path / "cache", job.weights, job.policy, views=1, renderer="dali", batch_size=16
    )
    with pytest.raises(BrokenImageError, match=rf"img-00060 .*DALI cannot .*`kdcache index {data} --check`"):
        dump(request)
    assert [sample.key for sample in check(str(data), drop_bad=True).bad] == ["img-00060"]
    dump(replace(request, cache=str(tmp_path / "anew")))
    entry = Cache.open(tmp_path / "anew").entry(MODEL)
    assert len(open_index(str(data))) == IMAGES - 1
    assert entry.complete_views() == 1


def test_a_broken_image_of_a_part_says_what_to_check(tmp_path):
    data = write_set(tmp_path / "data", samples(truncated), shards=3)
    write_part(open_index(data), 1.0, tmp_path / "part")
    with pytest.raises(
        BrokenImageError,
        match=rf"img-00060 .* then take the part {tmp_path / 'part'} of .*`kdcache index {data} --check`",
    ):
        train(train_request(str(tmp_path / "part"), tmp_path / "run", supervised=True, epochs=2))


def test_a_broken_image_in_an_evaluation_is_named(trained_export, tmp_path):
    data = write_set(tmp_path / "data", samples(truncated), shards=2)
    with pytest.raises(BrokenImageError, match=rf"img-00060.*`kdcache index {data} --check`"):
        evaluate(EvaluateOptions(str(trained_export), str(data), device="cpu"))


@pytest.fixture(scope="module")
def trained_export(job):
    return job.weights.parent


def without_label(sample):
    return sample._replace(label=None)


def duplicate(sample):
    return sample._replace(key="img-00003")


def cut_short(folder: Path) -> None:
    shard = folder / "shard-000002.tar"
    shard.write_bytes(shard.read_bytes()[:-9000])


@pytest.mark.parametrize(
    ("change", "after", "message"),
    [
        (without_label, None, r"img-00060"),
        (duplicate, None, r"img-00003"),
        (None, cut_short, r"shard-000002\.tar"),
    ],
)
def test_data_that_cannot_be_indexed_changes_no_cache(job, tmp_path, change, after, message):
    data = write_set(tmp_path / "data", samples(change), shards=3)
    if after is not None:
        after(data)
    before = tree_bytes(job.cache)
    with pytest.raises(DataError, match=message):
        dump(dump_request(str(data), job.cache, job.weights, None))
    with pytest.raises(DataError, match=message):
        train(train_request(str(data), tmp_path / "run", cache=str(job.cache)))
    assert tree_bytes(job.cache) == before


def test_an_unknown_teacher_is_refused_with_the_nearest_names(job, tmp_path):
    request = dump_request(job.data, tmp_path / "cache", None, job.policy)
    with pytest.raises(ModelError, match="resnet50"):
        dump(replace(request, teacher="resnet5O"))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("number", [2**40, 10**400], ids=["large", "400 digits"])
@pytest.mark.parametrize("option", ["views", "batch_size", "size", "k"])
def test_a_number_of_which_nothing_comes_to_an_end_is_refused_before_the_data_is_opened(tmp_path, option, number):
    request = dump_request("nowhere", tmp_path / "cache", None, None, **{"targets": "topk", option: number})
    with pytest.raises(UsageError, match=rf"--{option.replace('_', '-')} is .*: give at most [\d,]+\.") as refused:
        dump(request)
    assert len(str(refused.value)) < 200


def test_names_from_files_and_arguments_cannot_steer_the_terminal(job, tmp_path):
    evil = "\x1b[31m\u202e\x9b\u200bx"
    data = tmp_path / f"data{evil}"
    data.mkdir()
    with tarfile.open(data / f"{evil}.tar", "w") as shard:
        label = tarfile.TarInfo(f"{evil}a.cls")
        label.size = len(evil.encode())
        shard.addfile(label, io.BytesIO(evil.encode()))
    policy = tmp_path / "policy.yaml"
    policy.write_text(r'"\e[31m\u202E\x9b\u200bx": 1')
    places = ("--data", job.data, "--cache", tmp_path / "cache")
    for arguments in (
        ("index", data),
        (*("dump-logits", "--teacher", MODEL, "--weights", job.weights, "--name", evil, "--device", "cpu"), *places),
        ("dump-logits", "--teacher", evil, *places),
        ("policies", policy),
        (evil,),
    ):
        done = kdcache(*arguments)
        told = done.stdout + done.stderr
        assert done.returncode in (1, 2)
        assert "Traceback" not in told
        assert "\\x1b[31m\\u202e\\x9b\\u200bx" in told
        assert all(char.isprintable() or char == "\n" for char in told)


def test_pretrained_weights_without_a_network_end_in_one_sentence(job, tmp_path):
    done = kdcache(
        "dump-logits", "--teacher", "resnet34", "--data", job.data, "--cache", tmp_path / "cache", "--device", "cpu"
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error:")
    assert "--weights" in done.stderr
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def unwritable(tmp_path):
    """A path that nobody can make a folder at, root included: its parent is a file."""
    (tmp_path / "file").write_text("in the way")
    return tmp_path / "file" / "below"


def test_a_cache_that_cannot_be_written_is_a_clear_error(job, unwritable):
    with pytest.raises(CacheError, match="below"):
        dump(dump_request(job.data, unwritable, job.weights, job.policy))


def test_a_run_folder_that_cannot_be_written_is_a_clear_error(job, unwritable):
    with pytest.raises(RunError, match=r"below.*--out"):
        train(train_request(job.data, unwritable, cache=str(job.cache), epochs=1))


def test_an_error_on_the_command_line_is_a_sentence_and_exit_code_1(job, tmp_path):
    done = kdcache(
        "train", "--student", MODEL, "--data", job.data, "--cache", tmp_path / "none", "--out", tmp_path / "run"
    )
    assert done.returncode in (1, 2)
    assert "no cache" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_error_of_these_is_one_of_ours(job, tmp_path):
    """A cache that is no cache."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "zarr.json").write_text("{}")
    with pytest.raises(KdcacheError):
        dump(dump_request(job.data, tmp_path / "cache", job.weights, None))
    with pytest.raises(KdcacheError):
        train(train_request(job.data, tmp_path / "run", cache=str(tmp_path / "cache")))

"""`verify` with a teacher: it knows its own targets, and nobody else's."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kdcache.cache.claims import LockedClaims, block_claim
from kdcache.cache.layout import record_key, table_key
from kdcache.cache.record import BlockRecord
from kdcache.cache.store import Cache
from kdcache.cache.verify import open_entry
from kdcache.dumping.dump import dump
from kdcache.errors import CorruptError, IdentityError, ModelError, UsageError
from kdcache.inspection.rerun import RerunOptions
from kdcache.inspection.verify import VerifyOptions, verify
from kdcache.training.train import train
from support.command_line import kdcache
from support.damage import forge_records
from support.small_job import (
    CLASSES,
    MODEL,
    SAMPLES,
    dump_request,
    make_data,
    make_teacher,
    train_request,
    tree_bytes,
)


def rerun_of(job, **choice) -> RerunOptions:
    settings = {"data": job.data, "teacher": MODEL, "weights": job.weights, "samples": 60, "device": "cpu"}
    return RerunOptions(**(settings | {"renderer": "pillow"} | choice))


@pytest.fixture(scope="module")
def topk(job, tmp_path_factory):
    """A cache of encoded targets, rendered with Pillow."""
    path = tmp_path_factory.mktemp("topk") / "cache"
    dump(dump_request(job.data, path, job.weights, job.policy, targets="topk", renderer="pillow", k=2))
    return path


def test_targets_made_again_on_this_machine_differ_by_encoding_alone(job, topk):
    report = verify(VerifyOptions(cache=str(topk), rerun=rerun_of(job)))
    found = report.comparison
    assert report.whole
    assert found.samples >= 60
    assert found.kl == pytest.approx(found.encoding, abs=1e-12)
    assert found.excess == pytest.approx(0, abs=1e-12)
    assert found.encoding > 0, "two of four classes are kept: codec loses something"
    assert found.top1 > 0.9, "but for near ties"
    assert found.lines()[-1].startswith("The compared targets match the teacher's outputs (")
    assert report.lines()[-1] == f"{topk} is whole: 10 blocks with {2 * SAMPLES} targets of {MODEL}."


def test_it_is_said_how_much_was_compared_and_how_much_was_not(job, topk):
    report = verify(VerifyOptions(cache=str(topk), rerun=rerun_of(job, samples=32)))
    first, second, _ = report.comparison.lines()
    assert first.startswith(f"32 of {2 * SAMPLES} targets computed again, from 2 of 10 blocks and 2 of 2 views: ")
    assert second.startswith(f"The other {2 * SAMPLES - 32} targets, among them all of 8 blocks, were not compared ")
    assert report.to_json()["comparison"]["coverage"]["recorded_blocks"] == 10


def test_all_targets_are_made_again_where_fewer_are_there(job, topk):
    found = verify(VerifyOptions(cache=str(topk), rerun=rerun_of(job, samples=10**6))).comparison
    assert found.samples == 2 * SAMPLES
    assert not any("not compared" in line for line in found.lines())


def test_another_renderer_is_within_the_limit(job):
    """The session's cache was rendered with DALI."""
    found = verify(VerifyOptions(cache=str(job.cache), rerun=rerun_of(job))).comparison
    assert found.agrees
    assert found.kl > 0


def exchange_views(path: Path, swap: Path) -> None:
    """All that lies of views 0 and 1 changes places, records as well."""
    for array in (path / "teachers" / MODEL).iterdir():
        views = array / ("c" if (array / "c").is_dir() else "")
        if (views / "0").is_dir() and array.name != "order":
            (views / "0").rename(swap)
            (views / "1").rename(views / "0")
            swap.rename(views / "1")


def test_targets_that_belong_to_other_rows_are_told(job, tmp_path):
    """Whole views, under each other's numbers, with records that were forged to name them so."""
    path = tmp_path / "cache"
    dump(dump_request(job.data, path, job.weights, job.policy, renderer="pillow"))  # full: no label gives it away
    exchange_views(path, tmp_path / "swap")
    forge_records(path, MODEL)
    assert verify(VerifyOptions(cache=str(path))).whole
    report = verify(VerifyOptions(cache=str(path), rerun=rerun_of(job, samples=10**6, max_kl=1e-5)))
    assert not report.comparison.agrees
    assert not report.whole
    assert "The compared targets do NOT match the teacher's outputs (" in report.lines()[-2]
    assert report.lines()[-1].startswith(f"{path} does NOT hold its teacher's targets")


def test_blocks_in_each_others_places_are_found_without_asking_the_teacher_for_them(job, topk, tmp_path):
    """And the last line does not say that all is well because the few that were compared are."""
    path = Path(shutil.copytree(topk, tmp_path / "cache"))
    places = [
        [*(file.key for file in Cache.open(path).entry(MODEL).block_files(view, 3)), record_key(MODEL, view, 3)]
        for view in (0, 1)
    ]
    for one, other in zip(*places, strict=True):
        texts = (path / one).read_bytes(), (path / other).read_bytes()
        (path / other).write_bytes(texts[0]), (path / one).write_bytes(texts[1])
    ended = kdcache("verify", path, "--data", job.data, "--teacher", MODEL, "--weights", job.weights,
                    "--samples", 32, "--renderer", "pillow", "--device", "cpu")  # fmt: skip
    lines = ended.stdout.splitlines()
    assert ended.returncode == 3, ended.stderr
    assert "is that of view 1, block 3:" in lines[0]
    assert "is that of view 0, block 3:" in lines[1]
    assert any(line.startswith("The compared targets match the teacher's outputs") for line in lines[:-1])
    assert lines[-1].startswith(f"{path} is NOT whole: 2 problems in ")
    for job_of_others in (
        lambda: dump(dump_request(job.data, path, job.weights, job.policy, targets="topk", renderer="pillow", k=2)),
        lambda: train(train_request(job.data, tmp_path / "run", cache=str(path), renderer="pillow", epochs=2)),
    ):
        with pytest.raises(CorruptError, match=r"The record of view \d, block 3 .* is that of view \d, block 3:"):
            job_of_others()
    assert not (tmp_path / "run").exists(), "a training says so before its first step"
    assert verify(VerifyOptions(cache=str(path), repair=True)).dropped == 2
    dump(dump_request(job.data, path, job.weights, job.policy, targets="topk", renderer="pillow", k=2))
    assert tree_bytes(path) == tree_bytes(topk)


def test_other_weights_data_and_teachers_are_refused_by_name(job, topk, tmp_path):
    def again(**choice):
        verify(VerifyOptions(cache=str(topk), rerun=rerun_of(job, **choice)))

    with pytest.raises(IdentityError, match="weights"):
        again(weights=make_teacher(tmp_path / "teacher", seed=8))
    with pytest.raises(IdentityError, match="other images or labels than the cache"):
        again(data=make_data(tmp_path / "data", seed=1))
    with pytest.raises(UsageError, match=r"holds no teacher 'resnet18'; it holds test_resnet"):
        again(teacher="resnet18")


def damage(path, key):
    (path / "teachers" / MODEL / key).write_bytes(b"?")


def test_of_a_damaged_cache_the_sound_blocks_are_made_again(job, topk, tmp_path):
    path = shutil.copytree(topk, tmp_path / "cache")
    damage(path, "tail/c/0/1")
    damage(path, "records/1/2.json")
    report = verify(VerifyOptions(cache=str(path), rerun=rerun_of(job, samples=10**6)))
    assert [(found.view, found.block) for found in report.findings] == [(0, 1), (1, 2)]
    assert report.comparison.agrees
    rows = Cache.open(path).entry(MODEL).layout.block_rows
    assert report.comparison.samples == 2 * SAMPLES - 2 * rows


@pytest.mark.parametrize("key", ["zarr.json", "every record"])
def test_what_was_found_is_told_where_nothing_can_be_made_again(job, topk, tmp_path, key):
    path = shutil.copytree(topk, tmp_path / "cache")
    if key == "every record":
        for record in path.glob("teachers/*/records/*/*.json"):
            record.write_bytes(b"?")
    else:
        damage(path, key)
    report = verify(VerifyOptions(cache=str(path), rerun=rerun_of(job)))
    assert report.findings
    assert report.comparison is None
    assert report.lines()[-2].startswith("The targets were not compared with the teacher's outputs: ")
    assert " is NOT whole: " in report.lines()[-1]
    ended = kdcache("verify", path, "--data", job.data, "--teacher", MODEL, "--weights", job.weights,
                    "--renderer", "pillow", "--device", "cpu")  # fmt: skip
    assert ended.returncode == 3, ended.stderr
    assert "is NOT whole" in ended.stdout.splitlines()[-1]


def test_damaged_windows_are_found_and_the_targets_compared_with_those_that_the_shards_give(job, topk, tmp_path):
    path = shutil.copytree(topk, tmp_path / "cache")
    damage(path, "../../windows/c/0")
    report = verify(VerifyOptions(cache=str(path), rerun=rerun_of(job)))
    assert len(report.findings) == 1
    assert "windows" in str(report.findings[0])
    assert report.comparison.agrees


def test_targets_that_do_not_fit_the_labels_are_a_finding_that_names_the_block(job, tmp_path):
    """Two blocks of top-k targets, each under the other's number: every checksum fits, and the labels do not."""
    path = tmp_path / "cache"
    dump(dump_request(job.data, path, job.weights, job.policy, targets="topk", renderer="pillow", k=1, views=1))
    for array in (path / "teachers" / MODEL).iterdir():
        blocks = array / "c/0/0" if array.name == "label" else array / ("c/0" if (array / "c").is_dir() else "0")
        ending = ".json" if array.name == "records" else ""
        one, other = (blocks / f"{number}{ending}" for number in (0, 1))
        if one.exists() and array.name != "order":
            texts = one.read_bytes(), other.read_bytes()
            other.write_bytes(texts[0]), one.write_bytes(texts[1])
    for number in (0, 1):  # a record names its chunks
        record = path / f"teachers/{MODEL}/records/0/{number}.json"
        found = BlockRecord.from_bytes(record.read_bytes(), "")
        chunks = {name.replace(f"/{1 - number}", f"/{number}"): stored for name, stored in found.chunks.items()}
        record.write_bytes(replace(found, chunks=chunks).to_bytes())
    forge_records(path, MODEL)
    assert verify(VerifyOptions(cache=str(path))).whole
    report = verify(VerifyOptions(cache=str(path), rerun=rerun_of(job, samples=10**6)))
    assert [(found.view, found.block) for found in report.findings] == [(0, 0), (0, 1)]
    assert "do not fit the data's labels" in report.findings[0].problem
    assert report.comparison.samples == SAMPLES - 2 * Cache.open(path).entry(MODEL).layout.block_rows


def test_the_command_exits_with_3_where_something_is_wrong(job, topk, tmp_path):
    path = shutil.copytree(topk, tmp_path / "cache")
    whole = kdcache("verify", path, "--json")
    assert whole.returncode == 0, whole.stderr
    assert json.loads(whole.stdout)["whole"] is True
    (record,) = path.glob("teachers/*/records/1/2.json")
    record.write_bytes(b"?")
    bad = kdcache("verify", path)
    assert bad.returncode == 3
    assert "view 1, block 2" in bad.stdout.lower() or str(record) in bad.stdout
    assert kdcache("verify", path, "--data", job.data).returncode == 2
    assert kdcache("verify", tmp_path / "nothing").returncode == 1


def test_a_single_answer_that_is_another_is_told_where_the_mean_is_not(job, tmp_path):
    """Written as targets are, so that no checksum can tell."""
    path = tmp_path / "cache"
    dump(dump_request(job.data, path, job.weights, job.policy, renderer="pillow"))
    entry = Cache.open(path, read_only=False).entry(MODEL)
    said, provenance = entry.read_block(0, 1).log_probs(num_classes=CLASSES), entry.record(0, 1).provenance
    said[5] = torch.tensor([9.0, 0.0, 0.0, 0.0]).log_softmax(0)
    entry.drop_record(0, 1)
    entry.write_block(0, 1, entry.codec.select(said, torch.full((len(said), 2), -1)), provenance)

    def compared(max_kl):
        return verify(VerifyOptions(str(path), rerun_of(job, samples=10**6, max_kl=max_kl))).comparison

    excess = compared(1e3).excess
    found = compared(excess / 150)
    assert found.samples == 2 * SAMPLES
    assert found.kl - found.encoding <= found.limit, "one of so many hardly moves the mean"
    assert not found.agrees
    assert compared(excess / 50).agrees


def test_entries_of_one_model_are_told_apart_by_name_and_weights(job, tmp_path):
    """Their names are no model's: what computed them is given beside."""
    path, folder = tmp_path / "cache", job.weights.parent
    request = replace(dump_request(job.data, path, None, job.policy, views=1, renderer="pillow"), teacher=str(folder))
    dump(replace(request, name="whole"))
    dump(replace(request, name="few", targets="topk", k=1))
    with pytest.raises(UsageError, match=r"it holds few, whole\. Name one of these with --teacher, .* with --weights"):
        verify(VerifyOptions(str(path), rerun_of(job, teacher=str(folder), weights=None)))
    for name, codec in (("whole", 0.0), ("few", 1e-4)):
        found = verify(VerifyOptions(str(path), rerun_of(job, teacher=name, weights=folder))).comparison
        assert found.agrees
        assert found.encoding >= codec


def unreachable(name):
    raise ModelError(f"The weights of {name} cannot be had.")


def test_of_an_entry_of_other_weights_these_are_asked_for_and_the_hub_is_not(job, monkeypatch):
    """Timm's weights of the model have a thousand classes."""
    monkeypatch.setattr("kdcache.models.load.find_pretrained", lambda name: pytest.fail("asked"))
    with pytest.raises(
        IdentityError, match=r"has 4 classes in the cache, .* have 1,000: .* other weights.*--teacher RUN, or --wei"
    ):
        verify(VerifyOptions(str(job.cache), rerun_of(job, weights=None)))


def test_where_the_pretrained_weights_cannot_be_had_it_is_said_that_others_may_be_meant(job, tmp_path, monkeypatch):
    monkeypatch.setattr("kdcache.models.load.find_pretrained", unreachable)
    path, weights = tmp_path / "cache", make_teacher(tmp_path / "teacher", classes=1000)
    choice = {"label_space": "none", "targets": "topk", "renderer": "pillow", "views": 1, "name": "mine"}
    dump(dump_request(job.data, path, weights, job.policy, **choice))
    with pytest.raises(
        ModelError, match=r"If mine was dumped from a run, .*--teacher RUN.*test_resnet are meant\. The"
    ):
        verify(VerifyOptions(str(path), rerun_of(job, teacher="mine", weights=None)))
    with pytest.raises(ModelError, match=r"no run folder .*/mine"):
        verify(VerifyOptions(str(path), rerun_of(job, teacher=str(tmp_path / "mine"), weights=None)))
    assert verify(VerifyOptions(str(path), rerun_of(job, teacher="mine", weights=weights.parent))).comparison.agrees


def test_a_lost_table_is_one_problem_although_it_keeps_the_teacher_from_being_asked(job, topk, tmp_path):
    path = shutil.copytree(topk, tmp_path / "cache")
    (path / "teachers" / MODEL / "order/c/0/0").unlink()
    report = verify(VerifyOptions(cache=str(path), rerun=rerun_of(job)))
    assert len(report.findings) == 1
    assert report.failure is not None
    assert report.comparison is None


def damage_block(cache: Cache, view: int, block: int) -> bytes:
    """Alter a byte of a block's first file; returns its record."""
    entry = cache.entry(MODEL)
    file = cache.files.root / entry.block_files(view, block)[0].key
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    return (cache.files.root / record_key(MODEL, view, block)).read_bytes()


def test_a_repair_drops_no_block_that_another_process_is_making(topk, tmp_path):
    shutil.copytree(topk, tmp_path / "cache")
    cache = Cache.open(tmp_path / "cache", read_only=False)
    record = damage_block(cache, 1, 2)
    options = VerifyOptions(cache=str(tmp_path / "cache"), repair=True)
    with cache.claims() as claims:
        assert claims.take(block_claim(MODEL, 1, 2))
        report = verify(options)
        assert (tmp_path / "cache" / record_key(MODEL, 1, 2)).read_bytes() == record
    assert report.repairs.dropped == []
    assert f"It was not dropped. process {os.getpid()} on " in report.lines()[0]
    assert verify(options).repairs.dropped == [record_key(MODEL, 1, 2)]


def test_a_repair_drops_no_block_that_was_made_anew_since_it_was_looked_at(topk, tmp_path, monkeypatch):
    """Other bytes and another record than those that were found to be damaged."""
    shutil.copytree(topk, tmp_path / "cache")
    cache = Cache.open(tmp_path / "cache", read_only=False)
    damage_block(cache, 1, 2)
    take, made = LockedClaims.take, []

    def take_later(claims, name):
        if not made:
            entry = cache.entry(MODEL)
            entry.drop_record(1, 2)
            entry.write_block(1, 2, entry.read_block(0, 2), {"software": "another"})
            made.append((tmp_path / "cache" / record_key(MODEL, 1, 2)).read_bytes())
        return take(claims, name)

    monkeypatch.setattr(LockedClaims, "take", take_later)
    report = verify(VerifyOptions(cache=str(tmp_path / "cache"), repair=True))
    assert made == [(tmp_path / "cache" / record_key(MODEL, 1, 2)).read_bytes()]
    assert report.whole


def test_a_repair_drops_no_table_that_a_dump_has_put_back_since_it_was_looked_at(topk, tmp_path, monkeypatch):
    shutil.copytree(topk, tmp_path / "cache")
    entry = Cache.open(tmp_path / "cache").entry(MODEL)
    (table,) = (tmp_path / "cache" / table_key(MODEL, name) for name in entry.codec.tables())
    data, looks = table.read_bytes(), []
    table.write_bytes(b"?" + data[1:])

    def open_and_restore(*arguments):
        found = open_entry(*arguments)
        looks.append(found)
        table.write_bytes(data)
        return found

    monkeypatch.setattr("kdcache.inspection.verify.open_entry", open_and_restore)
    report = verify(VerifyOptions(cache=str(tmp_path / "cache"), repair=True))
    assert any(finding.repair for finding in looks[0][1])
    assert report.whole
    assert table.read_bytes() == data

"""A dump of a module of the caller's: resumed, predicted, verified and refused as that of a timm model is."""

from pathlib import Path

import pytest
import torch

import kdcache
from kdcache.cache.store import Cache
from kdcache.dumping.worker import DumpWorker
from kdcache.errors import IdentityError, UsageError
from kdcache.models.weights import weight_hash
from support.command_line import kdcache as command
from support.modules import ZeroShot, own_teacher
from support.small_job import CLASSES, MODEL, SAMPLES, tree_bytes

SMALL = {"views": 2, "batch_size": 16, "device": "cpu", "renderer": "pillow"}
AGAIN = {"samples": 60, "device": "cpu", "renderer": "pillow"}


@pytest.fixture(scope="module")
def dumped(job, tmp_path_factory) -> Path:
    cache = tmp_path_factory.mktemp("own") / "cache"
    kdcache.dump_logits(own_teacher(ZeroShot()), job.data, cache, policy=job.policy, targets="embedding", **SMALL)
    return cache


def test_the_entry_is_known_by_state_name_and_version(job, dumped):
    identity = Cache.open(str(dumped)).teacher("own")
    assert identity.architecture == "module:own@1"
    assert identity.weights == weight_hash(ZeroShot().state_dict())
    assert (identity.size, identity.num_classes) == (32, CLASSES)
    assert kdcache.verify(dumped).whole
    before = tree_bytes(dumped)
    module = ZeroShot().train()
    report = kdcache.dump_logits(own_teacher(module), job.data, dumped, targets="embedding", **SMALL)
    assert (report.written, report.samples, report.teacher) == (0, SAMPLES, "own")
    assert tree_bytes(dumped) == before
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_a_dump_that_was_stopped_goes_on_to_the_same_bytes(job, dumped, tmp_path, monkeypatch):
    written, write_block = [], DumpWorker._write_block

    def stopping(worker, view, block, outputs):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append((view, block))
        return write_block(worker, view, block, outputs)

    def dump():
        return kdcache.dump_logits(
            own_teacher(ZeroShot()), job.data, tmp_path / "cache", policy=job.policy, targets="embedding", **SMALL
        )

    with monkeypatch.context() as patch:
        patch.setattr(DumpWorker, "_write_block", stopping)
        with pytest.raises(KeyboardInterrupt):
            dump()
    report = dump()
    assert 0 < report.written < report.blocks
    assert tree_bytes(tmp_path / "cache") == tree_bytes(dumped)


def test_a_dry_run_writes_nothing(job, tmp_path):
    report = kdcache.dump_logits(
        own_teacher(ZeroShot()), job.data, tmp_path / "cache", policy=job.policy, dry_run=True, **SMALL
    )
    assert report.dry_run
    assert report.bytes_per_view > 0
    assert not (tmp_path / "cache").exists()


def test_the_same_module_verifies_what_it_made_and_no_other_does(job, dumped, tmp_path):
    report = kdcache.verify(dumped, data=job.data, teacher=own_teacher(ZeroShot()), **AGAIN)
    assert report.whole
    assert report.comparison.agrees
    for other, field in (
        (own_teacher(ZeroShot(seed=1)), "weights"),
        (own_teacher(ZeroShot(), version="2"), "architecture"),
        (own_teacher(ZeroShot(), std=[0.5] * 3), "std"),
        (own_teacher(ZeroShot(), image_size=48), "size"),
    ):
        with pytest.raises(IdentityError) as refused:
            kdcache.verify(dumped, data=job.data, teacher=other, **AGAIN)
        assert refused.value.field == field
    with pytest.raises(IdentityError, match=r"The teacher own in .* has architecture module:own@1, and module:own@2"):
        kdcache.dump_logits(own_teacher(ZeroShot(), version="2"), job.data, dumped, targets="embedding", **SMALL)
    with pytest.raises(IdentityError, match="has weights"):
        kdcache.dump_logits(own_teacher(ZeroShot(seed=1)), job.data, dumped, targets="embedding", **SMALL)


def test_an_entry_under_another_name_is_found_by_its_module_or_by_that_name(job, tmp_path):
    settings = SMALL | {"views": 1, "targets": "topk"}
    for name in ("first", "second"):
        kdcache.dump_logits(own_teacher(ZeroShot()), job.data, tmp_path, policy=job.policy, name=name, **settings)
        if name == "first":
            assert kdcache.verify(tmp_path, data=job.data, teacher=own_teacher(ZeroShot()), **AGAIN).whole
    with pytest.raises(UsageError, match="holds first, second, and not one entry called 'own': give the name"):
        kdcache.verify(tmp_path, data=job.data, teacher=own_teacher(ZeroShot()), **AGAIN)
    assert kdcache.verify(tmp_path, data=job.data, teacher=own_teacher(ZeroShot()), name="second", **AGAIN).whole


def test_a_student_learns_from_it(job, dumped):
    dataset = kdcache.open_cache(dumped, data=job.data)
    with dataset.loader(batch_size=16, epochs=1, image_size=32, device="cpu", renderer="pillow") as loader:
        batch = next(iter(loader))
    assert batch.targets.features().shape == (16, 8)
    assert torch.isfinite(batch.targets.log_probs(num_classes=CLASSES)).all()


def test_the_command_line_says_by_name_what_it_lacks(job, dumped):
    ended = command("verify", dumped, "--data", job.data, "--teacher", "own", "--device", "cpu")
    assert ended.returncode == 2
    assert "own was dumped from a module that Python gave, own of version 1" in ended.stderr
    assert "kdcache.TeacherModule(module, name='own', version='1', ...)" in ended.stderr


def test_what_does_not_belong_to_a_module_is_refused(job, dumped, tmp_path):
    own = own_teacher(ZeroShot())
    bare = ZeroShot()
    bare.mean, bare.std, bare.image_size, bare.num_classes = [0.5] * 3, [0.25] * 3, 32, CLASSES
    for job_of_a_teacher in (
        lambda: kdcache.dump_logits(bare, job.data, tmp_path / "cache", **SMALL),
        lambda: kdcache.verify(dumped, data=job.data, teacher=bare, **AGAIN),
    ):
        with pytest.raises(UsageError, match=r"give kdcache.TeacherModule\(module, name=..., version=..."):
            job_of_a_teacher()
    with pytest.raises(UsageError, match="weights belongs to a teacher that is given by name: leave it out, the mod"):
        kdcache.dump_logits(own, job.data, tmp_path / "cache", weights=job.weights, **SMALL)
    with pytest.raises(UsageError, match="the module says the size of its images, image_size=32"):
        kdcache.dump_logits(own, job.data, tmp_path / "cache", size=64, **SMALL)
    with pytest.raises(UsageError, match="A module has its weights"):
        kdcache.verify(dumped, data=job.data, teacher=own, weights=job.weights, **AGAIN)
    with pytest.raises(UsageError, match="name belongs to a teacher that is a TeacherModule"):
        kdcache.verify(dumped, data=job.data, teacher=MODEL, name="own", **AGAIN)
    assert not (tmp_path / "cache").exists()

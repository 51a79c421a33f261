"""A cache of features: dumped, verified, copied, trained from, and as good as the teacher itself."""

from importlib import resources
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from kdcache.cache.store import Cache
from kdcache.data.importers.fashion_mnist import import_fashion_mnist
from kdcache.dumping.dump import dump
from kdcache.dumping.options import DumpOptions
from kdcache.errors import IdentityError, ModelError, UsageError
from kdcache.inspection.copy import CopyOptions, copy_cache
from kdcache.inspection.inspect import InspectOptions, inspect
from kdcache.inspection.rerun import RerunOptions
from kdcache.inspection.verify import VerifyOptions, verify
from kdcache.training.train import train
from support.imagenet_teacher import NAME, efficientnet_lite0, photograph_shards
from support.small_job import CLASSES, MODEL, SAMPLES, Heard, dump_request, train_request, tree_bytes

FEATURES = 96  # of the small job's teacher

#: Mean KL divergence of rebuilt log-probabilities from the teacher's, in nats, that is promised.
PROMISED = 5e-4


def embedding_request(job, cache, **choice):
    return dump_request(job.data, cache, job.weights, job.policy, **({"targets": "embedding"} | choice))


@pytest.fixture(scope="module")
def cache(job, tmp_path_factory):
    path = tmp_path_factory.mktemp("embedding") / "cache"
    dump(embedding_request(job, path))
    return path


def comparison(cache, data, teacher, weights, samples):
    request = RerunOptions(data, teacher, weights, samples=samples, device="cpu", renderer="pillow")
    report = verify(VerifyOptions(str(cache), rerun=request))
    assert report.whole
    assert report.comparison is not None
    return report.comparison


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Shards of ten photographs, and the weights of a teacher that knows what they show."""
    root = tmp_path_factory.mktemp("photographs")
    return photograph_shards(root / "data", 10), efficientnet_lite0(root)


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_an_imagenet_teachers_targets_are_rebuilt(dtype, photographs, tmp_path):
    (data, weights), cache = photographs, tmp_path / "cache"
    settings = {"policy": "a2", "views": 3, "batch_size": 10, "device": "cpu", "renderer": "pillow"}
    dump(
        DumpOptions(
            teacher=NAME, data=data, cache=str(cache), weights=weights, targets="embedding", dtype=dtype,
            label_space="none", **settings,
        )
    )  # fmt: skip
    found = comparison(cache, data, NAME, weights, 30)
    assert found.samples == 30
    assert found.kl < PROMISED
    assert found.worst_kl < 10 * PROMISED
    entry = Cache.open(cache).entry(NAME)
    assert (entry.codec.num_classes, entry.codec.num_features) == (1000, 1280)


@pytest.mark.parametrize(("dtype", "precision"), [("uint8", "fp32"), ("float16", "fp32"), ("uint8", "bf16")])
def test_the_targets_of_a_teacher_trained_here_are_rebuilt(dtype, precision, tmp_path):
    import_fashion_mnist(tmp_path / "data", split="test", source="sample", limit=256)
    with resources.as_file(resources.files("kdcache.data.sample") / "teacher.safetensors") as weights:
        request = DumpOptions(
            teacher="ese_vovnet19b_slim", data=str(tmp_path / "data"), cache=str(tmp_path / "cache"),
            weights=Path(weights), targets="embedding", dtype=dtype, precision=precision, policy="fashion-mnist",
            views=1, device="cpu", renderer="pillow",
        )  # fmt: skip
        dump(request)
        found = comparison(tmp_path / "cache", request.data, request.teacher, Path(weights), 256)
    assert found.samples == 256
    assert found.kl < PROMISED
    assert found.worst_kl < 10 * PROMISED


def test_it_is_verified_inspected_and_copied_like_any_other(job, cache, tmp_path):
    assert comparison(cache, job.data, MODEL, job.weights, 100).agrees is True
    teacher = inspect(InspectOptions(str(cache), data=job.data)).teachers[0]
    assert teacher.statistics.kept == CLASSES
    assert teacher.statistics.hidden == 0
    assert teacher.kl < PROMISED
    assert set(teacher.array_bytes) == {"feature", "range", "records"}
    copy_cache(CopyOptions(str(cache), str(tmp_path / "copy")))
    assert tree_bytes(tmp_path / "copy") == tree_bytes(cache)


def test_another_dump_goes_on_with_the_same_bytes(job, cache, tmp_path):
    dump(embedding_request(job, tmp_path / "cache", views=1))
    dump(embedding_request(job, tmp_path / "cache", views=2))
    assert tree_bytes(tmp_path / "cache") == tree_bytes(cache)
    with pytest.raises(IdentityError, match="dtype"):
        dump(embedding_request(job, tmp_path / "cache", dtype="float16"))


def test_a_lost_classifier_is_put_back_by_the_next_dump(job, cache, tmp_path):
    dump(embedding_request(job, tmp_path / "cache", views=1))
    table = tmp_path / "cache" / "teachers" / MODEL / "head" / "c" / "0" / "0"
    table.unlink()
    dump(embedding_request(job, tmp_path / "cache", views=2))
    assert tree_bytes(tmp_path / "cache") == tree_bytes(cache)


def test_a_dry_run_tells_bytes_and_error(job, tmp_path):
    report = dump(embedding_request(job, tmp_path / "cache", dry_run=True), Heard())
    assert 0 < report.kl < PROMISED
    assert 0 < report.bytes_per_view < FEATURES + 300
    assert report.once_bytes > 0
    assert not (tmp_path / "cache").exists()


def test_training_from_it_is_close_to_training_with_the_live_teacher(job, cache, tmp_path):
    for settings in (("objective.temperature=4",), ("objective.name=dist",)):
        choice = {"cache": str(cache), "epochs": 1, "overrides": settings}
        cached = train(train_request(job.data, tmp_path / f"a{settings}", **choice), keep_losses=True).losses
        live = {"online_teacher": MODEL, "teacher_weights": job.weights}
        lived = train(train_request(job.data, tmp_path / f"b{settings}", **choice, **live), keep_losses=True).losses
        assert len(cached) == SAMPLES // 26
        assert cached == pytest.approx(lived, rel=5e-3)
        assert cached != lived


def test_the_trained_student_is_all_but_the_same(job, cache, tmp_path):
    choice = {"cache": str(cache), "epochs": 1}
    train(train_request(job.data, tmp_path / "a", **choice))
    train(train_request(job.data, tmp_path / "b", **choice, online_teacher=MODEL, teacher_weights=job.weights))
    ours, theirs = (load_file(tmp_path / name / "export" / "model.safetensors") for name in "ab")
    for name, value in theirs.items():
        assert torch.allclose(ours[name].float(), value.float(), atol=0.02), name


def test_a_teacher_of_two_classifiers_is_refused_before_anything_is_written(job, tmp_path):
    name = "deit_tiny_distilled_patch16_224"
    save_file(timm.create_model(name, num_classes=CLASSES).state_dict(), tmp_path / "w.safetensors")
    request = embedding_request(job, tmp_path / "cache", batch_size=2)
    with pytest.raises(ModelError, match=r"not one linear layer.*--targets topk or full"):
        dump(DumpOptions(**(vars(request) | {"teacher": name, "weights": tmp_path / "w.safetensors"})))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("choice", [{"k": 3}, {"min_prob": 0.1}])
def test_settings_of_another_kind_are_refused(job, tmp_path, choice):
    with pytest.raises(UsageError, match="--targets topk"):
        dump(embedding_request(job, tmp_path / "cache", **choice))
    with pytest.raises(UsageError, match="--dtype belongs to"):
        dump(embedding_request(job, tmp_path / "cache", targets="topk", dtype="uint8"))


def test_features_of_several_teachers_are_not_mixed(job, tmp_path):
    cache = tmp_path / "cache"
    for name in ("a", "b"):
        dump(embedding_request(job, cache, views=1, name=name))
    choice = {"cache": str(cache), "teachers": "a,b", "epochs": 1}
    losses = train(train_request(job.data, tmp_path / "dist", **choice, overrides=("objective.name=dist",)))
    assert losses.loss is not None
    with pytest.raises(UsageError, match="choose one"):
        train(train_request(job.data, tmp_path / "rkd", **choice, overrides=("objective.name=rkd",)))

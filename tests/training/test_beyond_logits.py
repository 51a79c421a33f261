"""Training by features and by feature maps: from an embedding cache or a live teacher, resumed, exported, refused."""

import math

import pytest
import timm
import torch
from safetensors.torch import load_file

from kdcache.dumping.dump import dump
from kdcache.errors import ConfigError, UsageError
from kdcache.models.students import create_student
from kdcache.training.config import read_config
from kdcache.training.train import train
from support.small_job import CLASSES, MODEL, dump_request, make_teacher, stopped_after, train_request

RELATIONS = ("rkd", "cc", "pkt", "sp", "crd")
FROM_MAPS = ("at", "fitnet", "reviewkd")
QUICK = {"crd": ("objective.negatives=50",)}


def request_for(job, out, name, *overrides, **choice):
    settings = {"epochs": 1, "overrides": (f"objective.name={name}", *QUICK.get(name, ()), *overrides)}
    return train_request(job.data, out, **(settings | choice))


def live(job, **choice):
    return {"cache": str(job.cache), "online_teacher": MODEL, "teacher_weights": job.weights, **choice}


@pytest.fixture(scope="module")
def embeddings(job, tmp_path_factory):
    cache = tmp_path_factory.mktemp("embeddings") / "cache"
    dump(dump_request(job.data, cache, job.weights, job.policy, targets="embedding"))
    return {"cache": str(cache)}


@pytest.fixture(scope="module")
def plain(job, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "run"
    train(request_for(job, out, "kd", cache=str(job.cache)))
    return student(out)


def student(out):
    return load_file(out / "export" / "model.safetensors")


def is_bare(out, plain):
    """The export holds what any other student's holds, and timm loads it."""
    ours = student(out)
    timm.create_model(MODEL, num_classes=CLASSES, checkpoint_path=str(out / "export" / "model.safetensors"))
    return {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in plain.items()}


@pytest.mark.parametrize("name", [*RELATIONS, *FROM_MAPS])
def test_it_trains_with_a_live_teacher(name, job, plain, tmp_path):
    report = train(request_for(job, tmp_path / "run", name, **live(job)), keep_losses=True)
    assert len(report.losses) == 5
    assert all(map(math.isfinite, report.losses)), "test_train_state shows on one batch that they fall"
    assert is_bare(tmp_path / "run", plain)


@pytest.mark.parametrize("name", RELATIONS)
def test_it_trains_from_embeddings_as_with_the_live_teacher(name, job, embeddings, plain, tmp_path):
    report = train(request_for(job, tmp_path / "run", name, **embeddings), keep_losses=True)
    with_teacher = train(request_for(job, tmp_path / "live", name, **live(job, **embeddings)), keep_losses=True)
    # Of the first step, where both students have the same weights: the 8 bits a feature are all the difference.
    assert report.losses[0] == pytest.approx(with_teacher.losses[0], rel=0.02)
    assert len(report.losses) == len(with_teacher.losses) == 5
    assert is_bare(tmp_path / "run", plain)


def test_vanilla_distillation_may_stand_beside(job, embeddings, tmp_path):
    usual = train(request_for(job, tmp_path / "a", "sp", **embeddings), keep_losses=True)
    both = train(request_for(job, tmp_path / "b", "sp", "objective.vanilla_weight=1", **embeddings), keep_losses=True)
    assert both.losses[0] > usual.losses[0]
    header = (tmp_path / "b" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert header[header.index("loss") + 1 :][:3] == ["kd", "vanilla", "label"]


def test_what_trains_no_classifier_is_refused_and_the_remedy_trains_it(job, tmp_path):
    cache = str(tmp_path / "cache")
    weights = make_teacher(tmp_path / "teacher", classes=7)
    choice = {"targets": None, "objectives": "rkd", "label_space": "none", "views": 1}
    dump(dump_request(job.data, cache, weights, job.policy, **choice))
    alone = ("objective.label_loss=none",)
    with pytest.raises(ConfigError, match=r"classifier.*objective\.vanilla_weight=1"):
        train(request_for(job, tmp_path / "run", "rkd", *alone, cache=cache))
    assert not (tmp_path / "run").exists()
    train(request_for(job, tmp_path / "run", "rkd", *alone, "objective.vanilla_weight=1", cache=cache))
    drawn = create_student(MODEL, num_classes=7, size=32, seed=0).module.state_dict()
    assert not torch.equal(student(tmp_path / "run")["fc.weight"], drawn["fc.weight"])


@pytest.mark.parametrize("name", ["crd", "reviewkd"])
def test_a_run_stopped_in_mid_epoch_goes_on_at_the_very_step(name, job, tmp_path):
    settings = live(job, epochs=2)
    whole = train(request_for(job, tmp_path / "whole", name, **settings), keep_losses=True)
    with stopped_after(7):
        train(request_for(job, tmp_path / "run", name, **settings))
    rest = train(request_for(job, tmp_path / "run", name, **settings), keep_losses=True)
    assert rest.losses == whole.losses[7:]
    ours, theirs = student(tmp_path / "run"), student(tmp_path / "whole")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_caches_without_features_are_refused_with_the_remedy(job, tmp_path):
    for name in RELATIONS:
        with pytest.raises(UsageError, match=r"holds full targets.*--targets embedding"):
            train(request_for(job, tmp_path / "run", name, cache=str(job.cache)))
    for name in FROM_MAPS:
        with pytest.raises(UsageError, match=r"feature maps.*--online-teacher"):
            train(request_for(job, tmp_path / "run", name, cache=str(job.cache)))
    assert not (tmp_path / "run").exists()


def test_layers_are_a_setting_and_must_be_as_many(job, tmp_path):
    chosen = ("objective.student_layers=[1, -1]", "objective.teacher_layers=[2, 3]")
    train(request_for(job, tmp_path / "run", "at", *chosen, **live(job)))
    assert read_config(tmp_path / "run" / "config.yaml").objective.student_layers == (1, -1)
    with pytest.raises(UsageError, match=r"2 layers.*teacher 4.*objective\.teacher_layers"):
        train(request_for(job, tmp_path / "other", "at", chosen[0], **live(job)))
    with pytest.raises(ConfigError, match=r"it has 5, 0 to 4"):
        train(request_for(job, tmp_path / "other", "at", "objective.teacher_layers=[9]", **live(job)))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["crd", "reviewkd"])
def test_without_a_teacher_it_is_refused(name, job, tmp_path):
    settings = {"supervised": True, "cache": None}
    with pytest.raises(ConfigError, match=r"objective\.name is set"):
        train(request_for(job, tmp_path / "run", name, "views.policy=fashion-mnist", **settings))


def test_teacher_and_student_may_see_different_sizes(job, tmp_path):
    weights = make_teacher(tmp_path / "teacher", size=48)
    for name in ("at", "reviewkd"):
        settings = {**live(job), "cache": None, "teacher_weights": weights}
        overrides = ("views.policy=fashion-mnist",)
        report = train(request_for(job, tmp_path / name, name, *overrides, **settings), keep_losses=True)
        assert len(report.losses) == 5
        assert all(map(math.isfinite, report.losses))


def test_several_teachers_have_no_features_in_common(job, tmp_path):
    cache = str(tmp_path / "cache")
    for name in ("a", "b"):
        dump(dump_request(job.data, cache, job.weights, job.policy, targets="embedding", views=1, name=name))
    dump(dump_request(job.data, cache, job.weights, job.policy, targets="full", views=1, name="c"))
    for teachers in ("a,b", "a,c"):  # of mixed kinds, too, it is the mixture that stands in the way
        with pytest.raises(UsageError, match=r"several teachers have nothing in common.*--teacher"):
            train(request_for(job, tmp_path / "run", "rkd", cache=cache, teachers=teachers))
    assert not (tmp_path / "run").exists()
    train(request_for(job, tmp_path / "run", "rkd", cache=cache, teacher="b"))

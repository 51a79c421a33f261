"""Objectives as modules: one's own loop takes the steps of `kdcache train`, and what cannot be served is refused."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import timm
import torch
from torch import nn

from kdcache.dumping.dump import dump
from kdcache.errors import ConfigError, ModelError, UsageError
from kdcache.loader.dataset import open_cache
from kdcache.models.maps import WithMaps
from kdcache.models.student_outputs import StudentOutputs
from kdcache.objectives.base import LossSpec
from kdcache.targets.live import LiveTargets
from kdcache.training.objective_module import create_objective
from support.own_loop_steps import gradients_of_ways
from support.ranks import on_ranks
from support.small_job import CLASSES, MODEL, SIZE, dump_request

BATCH = 26


@pytest.fixture(scope="module")
def dataset(job):
    return open_cache(job.cache, data=job.data)


@pytest.fixture(scope="module")
def with_features_cache(job, tmp_path_factory):
    """The same data with targets that hold what entered the teacher's classifier."""
    cache = tmp_path_factory.mktemp("features") / "cache"
    dump(dump_request(job.data, cache, job.weights, job.policy, targets="embedding", views=1, renderer="pillow"))
    return cache


@pytest.fixture(scope="module")
def with_features(job, with_features_cache):
    return open_cache(with_features_cache, data=job.data)


def first_batch(dataset):
    with dataset.loader(BATCH, 1, device="cpu", renderer="pillow") as loader:
        return next(iter(loader))


def make_model():
    torch.manual_seed(0)
    return timm.create_model(MODEL, num_classes=CLASSES)


def test_losses_have_names_and_settings_lie_over_those_of_the_name(dataset):
    batch = first_batch(dataset)
    logits = torch.randn(BATCH, CLASSES, requires_grad=True)
    objective = create_objective("dist", dataset=dataset, kd_weight=3.0, label_loss="ce")
    assert not list(objective.parameters())
    losses = objective(logits, batch, epoch=0, epochs=1)
    assert list(losses) == ["loss", "kd", "label"]
    assert torch.allclose(losses["loss"], 3 * losses["kd"] + losses["label"])
    losses["loss"].backward()
    assert logits.grad.abs().sum() > 0


def test_outputs_that_are_no_logits_of_the_batch_are_refused(dataset):
    batch, logits = first_batch(dataset), torch.randn(BATCH, CLASSES)
    objective = create_objective("kd", dataset=dataset)
    with pytest.raises(UsageError, match=r"of type tuple, and an objective takes logits \[b, c\]"):
        objective((logits,), batch, epoch=0, epochs=1)
    with pytest.raises(UsageError, match=rf"shape \[12, {CLASSES}\], and the batch {BATCH} rows"):
        objective(logits[:12], batch, epoch=0, epochs=1)
    half = batch.take(torch.arange(12))
    assert objective(logits[:12], half, epoch=0, epochs=1)["loss"].isfinite()


def test_the_epoch_counts(dataset):
    batch, logits = first_batch(dataset), torch.randn(BATCH, CLASSES)
    objective = create_objective("kd", kd_stop_epoch=1, label_loss="ce", label_weight=1.0)
    before, after = (objective(logits, batch, epoch=epoch, epochs=2) for epoch in (0, 1))
    assert torch.equal(before["label"], after["label"])
    assert torch.equal(after["loss"], after["label"])
    assert not torch.equal(before["loss"], after["loss"])


def test_an_objective_on_features_learns_beside_the_student(with_features):
    model, batch = make_model(), first_batch(with_features)
    objective = create_objective("crd", dataset=with_features, student=model, seed=3)
    assert list(objective.parameters())
    again = create_objective("crd", dataset=with_features, student=model, seed=3)
    assert all(map(torch.equal, objective.parameters(), again.parameters()))
    student = objective.wrap_student(model)
    assert {id(part) for part in student.parameters()} == {id(part) for part in model.parameters()}
    model.eval()
    outputs = student(batch.images)
    assert torch.equal(outputs.logits, model(batch.images))
    assert outputs.features.shape == (BATCH, model.num_features)
    objective(outputs, batch, epoch=0, epochs=1)["loss"].backward()
    assert all(part.grad is not None for part in objective.parameters() if part.requires_grad)
    assert any(part.grad is not None for part in model.parameters())
    with pytest.raises(UsageError, match="features, and they are not given"):
        objective(outputs.logits, batch, epoch=0, epochs=1)


def test_an_objective_on_maps_takes_them_from_the_wrapped_student(dataset):
    """The teacher's maps are in no cache: they come from a batch of one's own, whose teacher runs."""
    model, batch = make_model().eval(), first_batch(dataset)
    objective = create_objective("at", spec=_maps_spec(model))
    outputs = objective.wrap_student(model)(batch.images)
    assert isinstance(outputs, StudentOutputs)
    assert torch.equal(outputs.logits, model(batch.images))
    maps = tuple(level.detach() * 2 + 1 for level in outputs.maps)
    own = replace(batch, targets=LiveTargets(batch.targets, levels=maps))
    assert objective(outputs, own, epoch=0, epochs=1)["loss"].requires_grad


def _maps_spec(model):
    shapes = WithMaps(model, "stages").shapes(SIZE)
    return LossSpec(CLASSES, None, 1, maps=shapes, teacher_maps=shapes)


@pytest.mark.parametrize(
    ("choice", "error", "message"),
    [
        ({"name": "nonsense"}, ConfigError, "no objective 'nonsense'"),
        ({"name": "kd", "temprature": 2.0}, ConfigError, "temprature"),
        ({"name": "kd", "temperature": -1.0}, ConfigError, "temperature is -1"),
        ({"name": "ps-kd"}, UsageError, "past predictions"),
        ({"name": "crd"}, UsageError, "give create_objective the dataset"),
        ({"name": "crd", "on_cache": True}, UsageError, 'dump again with targets="embedding"'),
        ({"name": "at", "on_cache": True}, UsageError, "feature maps"),
    ],
)
def test_what_makes_no_sense_is_refused(dataset, choice, error, message):
    choice = dict(choice)
    given = {"dataset": dataset} if choice.pop("on_cache", False) else {}
    with pytest.raises(error, match=message):
        create_objective(choice.pop("name"), **given, **choice)


def test_a_student_without_features_is_refused(with_features):
    with pytest.raises(UsageError, match="the student"):
        create_objective("crd", dataset=with_features)
    with pytest.raises(ModelError, match="no single linear classifier"):
        create_objective("crd", dataset=with_features, student=nn.Flatten())


def test_two_processes_have_the_gradients_of_one(job, with_features_cache, tmp_path):
    """Also of what is learnt beside the student: averaged by the objective itself, or by a DDP that holds both."""
    steps = partial(gradients_of_ways, with_features_cache, job.data)
    alone = steps(0, 1)
    for ranks in on_ranks(steps, 2, tmp_path):
        for (name, way), found in ranks.items():
            wanted = alone[name, "alone"]
            assert found.keys() == wanted.keys()
            assert any("aux_module" in key for key in found)
            for key, values in found.items():
                assert np.allclose(values, wanted[key], rtol=1e-3, atol=1e-6), (name, way, key)

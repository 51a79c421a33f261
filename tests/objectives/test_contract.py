"""What holds for every objective, under each of its names."""

import dataclasses
import math
from functools import partial
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.errors import ConfigError, UsageError
from kdcache.io.checked import read
from kdcache.objectives.base import Objective, require
from kdcache.objectives.registry import OBJECTIVES, objective_named
from kdcache.training.config import RunConfig
from kdcache.training.settings import to_plain
from support.batches import FixedTargets, batch_for, called, moved
from support.capabilities import CAPABILITIES

ALL = pytest.mark.parametrize("name", OBJECTIVES)
# Sigmoids are not invariant to a shift of the logits.
SIGMOIDS = {"kd", "bkl"}
# The code of one compares each row with the next; the other draws negatives for each row's place.
IN_ORDER = {"cc", "crd"}
# Weights that follow the student without a gradient are checked beside their formulas.
WEIGHED = {"wsld", "wsld-cifar", "ipwd", "ipwd-cifar"}
seeds = st.integers(0, 2**32)
few = settings(max_examples=15)  # for each name


def objectives_that(holds):
    return pytest.mark.parametrize("name", [name for name, objective in OBJECTIVES.items() if holds(objective)])


def read_back(objective):
    plain = {"student": {"name": "a"}, "optimizer": {"name": "sgd", "lr": 1}, "schedule": {"epochs": 1}}
    return read(RunConfig, {**plain, "batch_size": 2, "objective": to_plain(objective)}).objective


def with_few_negatives(name):
    """The objective of a name. CRD's 16,384 negatives a row say no more here than some dozens."""
    objective = OBJECTIVES[name]
    return dataclasses.replace(objective, negatives=48) if "negatives" in objective.setting_names else objective


@ALL
def test_it_is_a_frozen_value_that_a_configuration_holds(name):
    objective = OBJECTIVES[name]
    assert isinstance(objective, Objective)
    assert objective.name == name.removesuffix("-cifar").removesuffix("-dkd")
    assert read_back(objective) == objective
    with pytest.raises(dataclasses.FrozenInstanceError):
        objective.name = "other"


@ALL
def test_an_even_tail_is_accepted_by_those_that_have_a_setting_for_it(name):
    objective = with_few_negatives(name)
    accepting = objective.with_approximate(True)
    assert accepting.approximate == ("approximate" in objective.setting_names)
    assert not accepting.needs.full
    assert accepting.with_approximate(False) == objective


@ALL
def test_settings_without_effect_and_what_it_takes_to_learn_without_labels_are_settings_of_it(name):
    objective = with_few_negatives(name)
    assert set(objective.without_labels) <= set(objective.setting_names)
    without = set(objective.idle) & set(objective.setting_names)
    for setting in without:
        value = getattr(objective, setting)
        changed = dataclasses.replace(objective, **{setting: value / 2 if isinstance(value, float) else value})
        assert changed(batch_for(objective)).total == objective(batch_for(objective)).total


@ALL
def test_it_reports_its_parts_and_one_finite_total(name):
    objective = with_few_negatives(name)
    losses = objective(batch_for(objective))
    assert tuple(losses.parts) == objective.parts
    for loss in (losses.total, *losses.parts.values()):
        assert loss.shape == ()
        assert torch.isfinite(loss)


def freed(objective, batch, *values):
    """The batch with what the student said of it as leaves of a graph, and these: those that the objective teaches."""
    if not values:
        sides = [batch.logits]
        sides += [batch.features] if objective.needs.teacher_features else []
        sides += batch.maps if objective.needs.maps else []
        values = [side.clone().requires_grad_() for side in sides]
    logits, *others = values
    changed = {"features": others[0]} if objective.needs.teacher_features else {}
    changed |= {"maps": tuple(others)} if objective.needs.maps else {}
    return dataclasses.replace(batch, logits=logits, **changed), values


@ALL
def test_all_of_it_teaches(name):
    """Descending on a batch that is free lowers the total, and what is learnt beside the student learns."""
    objective = with_few_negatives(name)
    batch, free = freed(objective, batch_for(objective))
    learnt = [*free, *(batch.aux_module.parameters() if batch.aux_module is not None else [])]
    descent = torch.optim.Adam(learnt, lr=0.05)
    totals = []
    for _ in range(30):
        descent.zero_grad()
        total = objective(batch).total
        total.backward()
        assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in learnt)
        descent.step()
        totals.append(total.item())
    assert totals[-1] < totals[0]


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in WEIGHED])
def test_its_gradient_is_right(name):
    objective = OBJECTIVES[name]  # CRD's first batch measures its negatives: few of them depend on the rows
    batch, free = freed(objective, batch_for(objective, rows=4, classes=4))

    def total(*values):
        return called(objective, freed(objective, batch, *values)[0]).total

    # Thousands of values of maps are checked along random directions and not one by one.
    assert torch.autograd.gradcheck(total, free, fast_mode=objective.needs.maps or name == "crd")


@ALL
def test_no_gradient_flows_to_the_teacher_or_to_the_past(name):
    objective = with_few_negatives(name)
    batch = batch_for(objective)
    teacher, past = batch.targets.values.requires_grad_(), batch.past_probs.requires_grad_()
    sides = [teacher, past, batch.targets.entered.requires_grad_()]
    sides += [level.requires_grad_() for level in batch.targets.levels]
    if not objective.needs.teacher_features:
        sides.append(batch.features.requires_grad_())  # a head measures
    freed_batch, _ = freed(objective, batch)
    objective(freed_batch).total.backward()
    assert all(side.grad is None for side in sides)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in SIGMOIDS])
@few
@given(seeds, st.floats(-50, 50))
def test_shifting_logits_changes_nothing(name, seed, shift):
    objective = with_few_negatives(name)
    batch = batch_for(objective, seed)
    shifts = shift * torch.arange(1.0, len(batch.logits) + 1)[:, None]
    shifted = dataclasses.replace(batch, logits=batch.logits + shifts)
    torch.testing.assert_close(called(objective, shifted).total, called(objective, batch).total)


@ALL
@few
@given(seeds)
def test_the_order_of_classes_and_of_rows_does_not_matter(name, seed):
    objective = with_few_negatives(name)
    batch = batch_for(objective, seed)
    random = torch.Generator().manual_seed(seed)
    rows, classes = (torch.randperm(count, generator=random) for count in batch.logits.shape)
    rows = torch.arange(len(rows)) if name in IN_ORDER else rows
    torch.testing.assert_close(called(objective, moved(batch, rows, classes)).total, called(objective, batch).total)


CERTAIN = torch.tensor([[0.0, -87.3, -87.3, -87.3], [-87.3, 0.0, -87.3, -87.3]])
STUDENTS = {
    "certain": [[6e4, -6e4, 0.0, 1.0], [-6e4, 6e4, 0.0, 1.0]],
    "certain of something else": [[-6e4, 6e4, 0.0, 1.0], [6e4, -6e4, 0.0, 1.0]],
    "without an opinion": [[0.0] * 4, [0.0] * 4],
}


@ALL
def test_extremes_of_a_batch_of_two_are_finite(name):
    halves = (torch.float16, torch.bfloat16)
    for student, dtype, autocast in product(STUDENTS, (*halves, torch.float32), (None, *halves)):
        _extremes_are_finite(with_few_negatives(name), student, dtype, autocast)


def _extremes_are_finite(objective, student, dtype, autocast):
    batch = batch_for(objective, rows=2, classes=4, dtype=torch.float32)
    logits = torch.tensor(STUDENTS[student], dtype=dtype, requires_grad=True)
    labels = torch.tensor([[0, 1], [1, 0]])
    large = [torch.full_like(level, 1e4) for level in (batch.features, *batch.maps)]
    features, *maps = [level.to(dtype).requires_grad_() for level in large]
    half = dtype != torch.float32
    batch = dataclasses.replace(
        batch,
        logits=logits,
        labels=labels,
        weight=torch.ones(2),
        targets=FixedTargets(CERTAIN, -large_like(batch.targets.entered), tuple(map(large_like, batch.targets.levels))),
        features=features,
        maps=tuple(maps),
        mixed=partial(torch.autocast, "cpu", dtype=dtype if half else torch.bfloat16, enabled=half),
        past_probs=CERTAIN.exp(),
    )
    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        losses = objective(batch)
    losses.total.backward()
    assert losses.total.dtype == torch.float32
    assert torch.isfinite(losses.total)
    for values in (logits, features, *maps):
        assert values.grad is None or torch.isfinite(values.grad).all()


def large_like(values):
    return torch.full_like(values, 1e4)


@objectives_that(lambda objective: objective.needs.teacher and not objective.distils_by_label)
def test_samples_without_labels_are_no_trouble_to_what_needs_none(name):
    objective = dataclasses.replace(with_few_negatives(name), **with_few_negatives(name).without_labels)
    assert not objective.needs.labels
    batch = batch_for(objective)
    unlabelled = dataclasses.replace(batch, labels=torch.full_like(batch.labels, -1))
    losses = called(objective, unlabelled)
    assert torch.isfinite(losses.total)
    torch.testing.assert_close(losses.total, called(objective, batch).total)


@objectives_that(lambda objective: objective.needs.labels)
def test_labels_that_are_needed_and_missing_are_refused(name):
    with pytest.raises(UsageError, match="label for every image, and 1 of 2 images have none: "):
        require(
            with_few_negatives(name).needs,
            targets=CAPABILITIES["live"],
            unlabelled="1 of 2 images have none",
            num_classes=10,
        )
    require(with_few_negatives(name).needs, targets=CAPABILITIES["live"], unlabelled="", num_classes=10)


@objectives_that(lambda objective: objective.needs.teacher_features)
def test_features_are_asked_of_embeddings_or_of_a_live_teacher(name):
    needs = with_few_negatives(name).needs
    for kind in ("topk", "full"):
        with pytest.raises(UsageError, match=rf"holds {kind} targets.*--targets embedding.*--online-teacher"):
            require(needs, targets=CAPABILITIES[kind], unlabelled="", num_classes=10)
    for kind in ("embedding", "live"):
        require(needs, targets=CAPABILITIES[kind], unlabelled="", num_classes=10)


@objectives_that(lambda objective: objective.needs.maps)
def test_feature_maps_are_asked_of_a_live_teacher(name):
    for kind in ("topk", "full", "embedding"):
        with pytest.raises(UsageError, match=r"too large to be kept.*--online-teacher"):
            require(with_few_negatives(name).needs, targets=CAPABILITIES[kind], unlabelled="", num_classes=10)
    require(with_few_negatives(name).needs, targets=CAPABILITIES["live"], unlabelled="", num_classes=10)


@objectives_that(lambda objective: objective.needs.full)
def test_targets_that_are_cut_are_refused_with_a_remedy(name):
    objective = with_few_negatives(name)
    with pytest.raises(UsageError, match=r"every class.*objective\.\w+=.*--targets full"):
        require(objective.needs, targets=CAPABILITIES["topk"], unlabelled="", num_classes=10)
    approximate = dataclasses.replace(objective, approximate=True)
    require(approximate.needs, targets=CAPABILITIES["topk"], unlabelled="", num_classes=10)
    assert torch.equal(approximate(batch_for(objective)).total, objective(batch_for(objective)).total)


@ALL
def test_as_many_classes_are_asked_for_as_there_must_be(name):
    """With fewer it has no loss, or one that teaches nothing."""
    objective = with_few_negatives(name)
    fewest = 3 if name.removesuffix("-cifar") in ("dkd", "lskd", "lskd-dkd", "ipwd") else 1
    assert objective.needs.classes == fewest
    assert objective.without_teacher().needs.classes == 1
    require(objective.needs, targets=CAPABILITIES["live"], unlabelled="", num_classes=fewest)
    with pytest.raises(
        UsageError, match=rf"fewer than {fewest} classes, and there are {fewest - 1}.*objective\.name=kd"
    ):
        require(objective.needs, targets=CAPABILITIES["live"], unlabelled="", num_classes=fewest - 1)


@ALL
def test_with_the_fewest_classes_that_it_takes_it_is_finite(name):
    objective = with_few_negatives(name)
    classes = 2 if name == "crd" else objective.needs.classes  # its negatives are samples of other labels
    batch = batch_for(objective, classes=classes)
    assert torch.isfinite(objective(batch).total)


@objectives_that(lambda objective: objective.needs.teacher)
def test_without_targets_it_refuses_to_distil(name):
    objective = with_few_negatives(name)
    with pytest.raises(UsageError, match="no targets of a teacher"):
        objective(dataclasses.replace(batch_for(objective), targets=None))


@ALL
def test_without_a_teacher_it_asks_for_none(name):
    alone = with_few_negatives(name).without_teacher()
    assert not alone.needs.teacher
    assert not alone.needs.full
    batch = dataclasses.replace(batch_for(alone), targets=None)
    losses = alone(batch)
    assert list(losses.parts) == ["label"]
    assert torch.equal(losses.total, losses.parts["label"])


@objectives_that(lambda objective: objective.needs.teacher)
def test_distillation_stops_when_it_shall(name):
    objective = dataclasses.replace(with_few_negatives(name), kd_stop_epoch=2)
    usual = with_few_negatives(name)

    def gradient(of, epoch):
        batch = batch_for(of)
        logits = batch.logits.clone().requires_grad_()
        losses = of(dataclasses.replace(batch, logits=logits, epoch=epoch))
        losses.total.backward()
        return losses, logits.grad

    before, slope = gradient(objective, 1)
    assert torch.equal(slope, gradient(usual, 1)[1])
    after, flat = gradient(objective, 2)
    torch.testing.assert_close(flat, gradient(usual.without_teacher(), 2)[1] * usual.label_weight)
    assert after.parts["kd"].item() == pytest.approx(before.parts["kd"].item())
    assert tuple(after.parts) == objective.parts


@objectives_that(lambda objective: objective.needs.teacher)
@pytest.mark.parametrize(
    "wrong",
    [
        {"kd_weight": -1.0},
        {"kd_weight": math.nan},
        {"smoothing": 1.0},
        {"kd_stop_epoch": 0},
        {"kd_stop_epoch": 3, "label_loss": "none"},
        {"kd_weight": 0.0, "label_loss": "none"},
    ],
)
def test_settings_that_make_no_sense_are_refused(name, wrong):
    with pytest.raises(ConfigError):
        dataclasses.replace(with_few_negatives(name), **wrong)


WHOLE = ("warmup_epochs", "width", "negatives", "middle")
NUMBERS = (
    *("temperature", "alpha", "beta", "gamma", "smoothing", "vanilla_weight", "vanilla_temperature"),
    *("distance_weight", "angle_weight", "momentum"),
)


@pytest.mark.parametrize("setting", [*WHOLE, *NUMBERS])
def test_each_own_setting_has_a_range(setting):
    found = [objective for objective in OBJECTIVES.values() if setting in objective.setting_names]
    assert found
    for objective in found:
        value = -1 if setting in WHOLE else -1.0
        with pytest.raises(ConfigError, match=rf"objective\.{setting} is -1"):
            dataclasses.replace(objective, **{setting: value})


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"Did you mean dkd-cifar\?.*docs/objectives\.md"):
        objective_named("dkd-cifra")
    with pytest.raises(ConfigError, match=r"'something'\. Known: kd, .*, dkd, .*docs/objectives\.md"):
        objective_named("something")

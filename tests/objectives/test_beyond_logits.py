"""What the objectives from features and feature maps are: their formulas, with vanilla distillation beside them."""

import copy
from dataclasses import replace

import pytest
import torch

from kdcache.errors import ConfigError, UsageError
from kdcache.objectives.attention import attention
from kdcache.objectives.base import require
from kdcache.objectives.cc import cc
from kdcache.objectives.crd import larger_share
from kdcache.objectives.fitnet import hint
from kdcache.objectives.kd import kd
from kdcache.objectives.pkt import pkt
from kdcache.objectives.registry import OBJECTIVES
from kdcache.objectives.reviewkd import hierarchical_context, with_summary
from kdcache.objectives.rkd import rkd
from kdcache.objectives.sp import sp
from support.batches import batch_for, called, shape_of

NAMES = [name for name, objective in OBJECTIVES.items() if objective.needs.teacher_features or objective.needs.maps]
ALL = pytest.mark.parametrize("name", NAMES)

FORMULAS = {
    "rkd": lambda given, beside: rkd(given.features, given.answers.entered, 25.0, 50.0),
    "pkt": lambda given, beside: pkt(given.features, given.answers.entered),
    "sp": lambda given, beside: sp(given.features, given.answers.entered),
    "cc": lambda given, beside: cc(beside.student(given.features), beside.teacher(given.answers.entered)),
    "crd": lambda given, beside: beside.contrast(
        given.features,
        given.answers.entered,
        larger_share(given.samples, given.weight),
        beside.negatives(larger_share(given.samples, given.weight), 16_384),
    ),
    "at": lambda given, beside: attention(given.maps, given.answers.levels),
    "fitnet": lambda given, beside: sum(
        hint(one(ours), theirs) for one, ours, theirs in zip(beside, given.maps, given.answers.levels, strict=True)
    ),
    "reviewkd": lambda given, beside: hierarchical_context(
        beside(with_summary(given.maps)), with_summary(given.answers.levels)
    ),
}


@ALL
def test_its_term_is_its_formula_and_its_weight_counts(name):
    objective = OBJECTIVES[name]
    given = replace(batch_for(objective), epoch=99)
    expected = FORMULAS[objective.name](given, copy.deepcopy(given.companion))
    losses = called(objective, given)
    torch.testing.assert_close(losses.parts["kd"], expected)
    torch.testing.assert_close(losses.total, objective.kd_weight * expected + losses.parts["label"])


@ALL
def test_vanilla_distillation_stands_beside_it_with_its_own_weight(name):
    objective = replace(OBJECTIVES[name], vanilla_weight=0.7, vanilla_temperature=2.0)
    assert objective.parts == ("kd", "vanilla", "label")
    given = replace(batch_for(objective), epoch=99)
    vanilla = kd(given.logits, given.answers.values, 2.0)
    without, losses = (called(each, given) for each in (OBJECTIVES[name], objective))
    torch.testing.assert_close(losses.parts["vanilla"], vanilla)
    torch.testing.assert_close(losses.total, without.total + 0.7 * vanilla)


@ALL
def test_both_stop_together_and_neither_is_left_without_a_teacher(name):
    objective = replace(OBJECTIVES[name], vanilla_weight=0.7, kd_stop_epoch=3)
    given = replace(batch_for(objective), epoch=3)
    losses = called(objective, given)
    assert torch.equal(losses.total, objective.label_weight * losses.parts["label"])
    alone = objective.without_teacher()
    assert (alone.kd_weight, alone.vanilla_weight, alone.parts) == (0.0, 0.0, ("label",))
    assert alone.companion(shape_of(alone)) is None
    assert not any((alone.needs.features, alone.needs.teacher_features, alone.needs.maps))


@ALL
def test_vanilla_distillation_alone_is_another_objective(name):
    with pytest.raises(ConfigError, match=r"objective\.name=kd"):
        replace(OBJECTIVES[name], kd_weight=0.0, vanilla_weight=1.0)


@ALL
def test_what_would_leave_the_classifier_as_it_was_drawn_is_refused(name):
    for nothing in ({"label_loss": "none"}, {"label_weight": 0.0}):
        with pytest.raises(
            ConfigError, match=rf"of {name.removesuffix('-cifar')} .*objective\.vanilla_weight=1.*label_loss=ce"
        ):
            replace(OBJECTIVES[name], **nothing)
    objective = replace(OBJECTIVES[name], **OBJECTIVES[name].without_labels)
    given = batch_for(objective)
    logits = given.logits.clone().requires_grad_()
    called(objective, replace(given, logits=logits)).total.backward()
    assert logits.grad.abs().sum() > 0
    assert objective.without_labels == {"label_loss": "none"}, "vanilla_weight stays as it is set"


@ALL
def test_the_remedy_for_missing_labels_trains_the_classifier_too(name):
    with pytest.raises(UsageError, match=r"set objective\.label_loss=none and objective\.vanilla_weight=1\."):
        require(OBJECTIVES[name].needs, targets="live", unlabelled="1 of 2 pictures have none", num_classes=10)
    without = replace(OBJECTIVES[name], **OBJECTIVES[name].without_labels)
    require(without.needs, targets="live", unlabelled="1 of 2 pictures have none", num_classes=10)


@ALL
def test_what_is_not_given_is_missed(name):
    objective = OBJECTIVES[name]
    given = batch_for(objective)
    missing = {"features": None} if objective.needs.features else {"maps": ()}
    with pytest.raises(UsageError, match="not given"):
        objective(replace(given, **missing))
    if given.companion is not None:
        with pytest.raises(UsageError, match=r"given"):
            objective(replace(given, companion=None))


@pytest.mark.parametrize("name", ["cc", "crd"])
def test_a_companion_is_not_made_for_features_that_are_not_there(name):
    shape = shape_of(OBJECTIVES[name])
    with pytest.raises(UsageError, match=r"objective\.name=kd"):
        OBJECTIVES[name].companion(shape._replace(teacher_features=None))

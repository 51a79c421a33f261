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
from support.batches import batch_for, called, loss_spec
from support.capabilities import CAPABILITIES

NAMES = [name for name, objective in OBJECTIVES.items() if objective.needs.teacher_features or objective.needs.maps]
ALL = pytest.mark.parametrize("name", NAMES)

FORMULAS = {
    "rkd": lambda inputs, beside: rkd(inputs.features, inputs.targets.entered, 25.0, 50.0),
    "pkt": lambda inputs, beside: pkt(inputs.features, inputs.targets.entered),
    "sp": lambda inputs, beside: sp(inputs.features, inputs.targets.entered),
    "cc": lambda inputs, beside: cc(beside.student(inputs.features), beside.teacher(inputs.targets.entered)),
    "crd": lambda inputs, beside: beside.contrast(
        inputs.features,
        inputs.targets.entered,
        larger_share(inputs.samples, inputs.weight),
        beside.negatives(larger_share(inputs.samples, inputs.weight), 16_384),
    ),
    "at": lambda inputs, beside: attention(inputs.maps, inputs.targets.levels),
    "fitnet": lambda inputs, beside: sum(
        hint(one(ours), theirs) for one, ours, theirs in zip(beside, inputs.maps, inputs.targets.levels, strict=True)
    ),
    "reviewkd": lambda inputs, beside: hierarchical_context(
        beside(with_summary(inputs.maps)), with_summary(inputs.targets.levels)
    ),
}


@ALL
def test_its_term_is_its_formula_and_its_weight_counts(name):
    objective = OBJECTIVES[name]
    inputs = replace(batch_for(objective), epoch=99)
    expected = FORMULAS[objective.name](inputs, copy.deepcopy(inputs.aux_module))
    losses = called(objective, inputs)
    torch.testing.assert_close(losses.parts["kd"], expected)
    torch.testing.assert_close(losses.total, objective.kd_weight * expected + losses.parts["label"])


@ALL
def test_vanilla_distillation_stands_beside_it_with_its_own_weight(name):
    objective = replace(OBJECTIVES[name], vanilla_weight=0.7, vanilla_temperature=2.0)
    assert objective.parts == ("kd", "vanilla", "label")
    inputs = replace(batch_for(objective), epoch=99)
    vanilla = kd(inputs.logits, inputs.targets.values, 2.0)
    without, losses = (called(each, inputs) for each in (OBJECTIVES[name], objective))
    torch.testing.assert_close(losses.parts["vanilla"], vanilla)
    torch.testing.assert_close(losses.total, without.total + 0.7 * vanilla)


@ALL
def test_both_stop_together_and_neither_is_left_without_a_teacher(name):
    objective = replace(OBJECTIVES[name], vanilla_weight=0.7, kd_stop_epoch=3)
    inputs = replace(batch_for(objective), epoch=3)
    losses = called(objective, inputs)
    assert torch.equal(losses.total, objective.label_weight * losses.parts["label"])
    alone = objective.without_teacher()
    assert (alone.kd_weight, alone.vanilla_weight, alone.parts) == (0.0, 0.0, ("label",))
    assert alone.aux_module(loss_spec(alone)) is None
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
    inputs = batch_for(objective)
    logits = inputs.logits.clone().requires_grad_()
    called(objective, replace(inputs, logits=logits)).total.backward()
    assert logits.grad.abs().sum() > 0
    assert objective.without_labels == {"label_loss": "none"}, "vanilla_weight stays as it is set"


@ALL
def test_the_remedy_for_missing_labels_trains_the_classifier_too(name):
    with pytest.raises(UsageError, match=r"set objective\.label_loss=none and objective\.vanilla_weight=1\."):
        require(
            OBJECTIVES[name].needs, targets=CAPABILITIES["live"], unlabelled="1 of 2 images have none", num_classes=10
        )
    without = replace(OBJECTIVES[name], **OBJECTIVES[name].without_labels)
    require(without.needs, targets=CAPABILITIES["live"], unlabelled="1 of 2 images have none", num_classes=10)


@ALL
def test_what_is_not_given_is_missed(name):
    objective = OBJECTIVES[name]
    inputs = batch_for(objective)
    missing = {"features": None} if objective.needs.features else {"maps": ()}
    with pytest.raises(UsageError, match="not given"):
        objective(replace(inputs, **missing))
    if inputs.aux_module is not None:
        with pytest.raises(UsageError, match=r"given"):
            objective(replace(inputs, aux_module=None))


@pytest.mark.parametrize("name", ["cc", "crd"])
def test_an_aux_module_is_not_made_for_features_that_are_not_there(name):
    spec = loss_spec(OBJECTIVES[name])
    with pytest.raises(UsageError, match=r"objective\.name=kd"):
        OBJECTIVES[name].aux_module(spec._replace(teacher_features=None))

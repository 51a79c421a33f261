"""Mixtures of teachers: the weighted mean of probabilities, whatever each part is."""

from dataclasses import replace

import pytest
import torch

from kdcache.errors import UsageError
from kdcache.targets.base import TargetCodec
from kdcache.targets.mixture import MixedTargets
from support.small_cache import CLASSES, FULL, TOPK
from support.targets_contract import labels_for, teacher_log_probs

ROWS = 40
SHARES = (0.7, 0.3)
LABELS = labels_for(ROWS, CLASSES)


def mixed(first: TargetCodec = TOPK, second: TargetCodec = FULL) -> MixedTargets:
    parts = (
        first.select(teacher_log_probs(ROWS, CLASSES, 0), LABELS),
        second.select(teacher_log_probs(ROWS, CLASSES, 1), LABELS),
    )
    return MixedTargets(parts, SHARES)


def test_probabilities_are_weighted_means() -> None:
    targets = mixed()
    expected = sum(
        share * part.log_probs(num_classes=CLASSES).exp() for share, part in zip(SHARES, targets.parts, strict=True)
    )
    assert torch.allclose(targets.log_probs(num_classes=CLASSES).exp(), expected, atol=1e-6)
    labels = sum(share * part.label_log_prob().exp() for share, part in zip(SHARES, targets.parts, strict=True))
    assert torch.allclose(targets.label_log_prob().exp(), labels, atol=1e-6, equal_nan=True)
    assert bool(targets.label_log_prob().isnan().equal(LABELS < 0))


def test_a_share_of_one_is_that_teacher() -> None:
    part = FULL.select(teacher_log_probs(ROWS, CLASSES), LABELS)
    assert torch.allclose(
        MixedTargets((part, part), SHARES).log_probs(num_classes=CLASSES),
        part.log_probs(num_classes=CLASSES),
        atol=1e-6,
    )


def test_another_temperature_needs_every_class_of_every_part() -> None:
    both = mixed(FULL, FULL)
    expected = torch.log_softmax(both.log_probs(num_classes=CLASSES) / 3, 1)
    assert torch.allclose(both.log_probs(num_classes=CLASSES, temperature=3.0), expected)
    with pytest.raises(UsageError, match="temperature"):
        mixed().log_probs(num_classes=CLASSES, temperature=3.0)


def test_rows_are_cut_gathered_and_joined_in_every_part() -> None:
    targets = mixed()
    whole = targets.log_probs(num_classes=CLASSES)
    assert torch.equal(targets[3:9].log_probs(num_classes=CLASSES), whole[3:9])
    rows = torch.tensor([5, 0, 5, 39])
    assert torch.equal(targets.take(rows).log_probs(num_classes=CLASSES), whole[rows])
    assert torch.equal(MixedTargets.concat([targets[:11], targets[11:]]).log_probs(num_classes=CLASSES), whole)
    assert len(targets) == ROWS
    bare = replace(targets, parts=tuple(replace(part, label=None) for part in targets.parts))
    labelled = bare.with_labels(LABELS).to("cpu").label_log_prob()
    assert torch.allclose(labelled, targets.label_log_prob(), equal_nan=True)

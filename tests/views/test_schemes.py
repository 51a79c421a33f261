"""Configuration strings are timm's, and nothing unknown passes."""

from math import inf

import numpy as np
import pytest
from timm.data import auto_augment as timm_aa
from torchvision.transforms import AutoAugment, AutoAugmentPolicy

from kdcache.errors import ConfigError
from kdcache.views.operations import LEVELS, Operation
from kdcache.views.policy import Policy
from kdcache.views.schemes.levels import Direction
from kdcache.views.schemes.parsing import parse_scheme
from support.timm_draws import operation_of


def test_sections_are_read_in_any_order():
    scheme = parse_scheme("rand-m9-n3-p0.7-mstd0.5-mmax12-inc1", 224)
    assert parse_scheme("rand-inc1-mmax12-mstd0.5-p0.7-n3-m9", 224) == scheme
    assert (scheme.layers, scheme.level_std, scheme.max_level) == (3, 0.5, 12.0)
    assert {(step.prob, step.level) for step in scheme.steps} == {(0.7, 9.0)}
    assert len({step.operation for step in scheme.steps}) == 15


def test_timms_defaults_hold_where_nothing_is_said():
    scheme = parse_scheme("rand", 224)
    assert (scheme.layers, scheme.level_std, scheme.max_level, scheme.weights) == (2, 0.0, 10.0, ())
    assert {(step.prob, step.level) for step in scheme.steps} == {(0.5, 10.0)}


def test_a_deviation_above_100_is_a_uniform_level():
    assert parse_scheme("rand-mstd101", 224).level_std == inf
    assert parse_scheme("rand-mstd100", 224).level_std == 100


def test_no_augmentation_is_no_scheme():
    assert parse_scheme("", 224) is None


@pytest.mark.parametrize("name", ["original", "originalr", "v0", "v0r", "3a"])
def test_sequences_are_timms(name):
    scheme = parse_scheme(name, 224)
    ours = [[scheme.steps[position] for position in sequence] for sequence in scheme.sequences]
    theirs = timm_aa.auto_augment_policy(name)
    assert [[((step.operation, step.levels), step.prob, step.level) for step in sequence] for sequence in ours] == [
        [(LEVELS[op.name], op.prob, op.magnitude) for op in sequence] for sequence in theirs
    ]


@pytest.mark.parametrize("section", ["", "inc1", "tweights", "t3a", "t3aw"])
def test_sets_of_operations_are_timms(section):
    scheme = parse_scheme(f"rand-n3-p0.8-m6-{section}".rstrip("-"), 224)
    theirs = timm_aa.rand_augment_transform(f"rand-n3-p0.8-m6-{section}")
    assert [((step.operation, step.levels), step.prob, step.level) for step in scheme.steps] == [
        (LEVELS[op.name], op.prob, op.magnitude) for op in theirs.ops
    ]
    assert scheme.layers == theirs.num_layers
    assert (theirs.choice_weights is None) == (scheme.weights == ())
    if scheme.weights:
        assert np.array(scheme.weights) / sum(scheme.weights) == pytest.approx(theirs.choice_weights)


def test_sequences_of_cifar10_are_torchvisions():
    scheme = parse_scheme("cifar10", 32)
    ours = [[scheme.steps[position] for position in sequence] for sequence in scheme.sequences]
    theirs = AutoAugment(AutoAugmentPolicy.CIFAR10)
    space = theirs._augmentation_space(10, (32, 32))
    assert len(ours) == len(theirs.policies)
    for sequence, expected in zip(ours, theirs.policies, strict=True):
        for step, (name, prob, level) in zip(sequence, expected, strict=True):
            assert (step.operation, step.prob) == (operation_of(name), prob)
            magnitudes, signed = space[name]
            assert (step.levels.direction == Direction.EITHER) == signed
            distance = float(magnitudes[level]) if level is not None else 0.0
            if name.startswith("Translate"):
                distance = int(distance) / 32
            argument = step.levels.span if signed else step.levels.start
            assert argument == pytest.approx(np.ceil(distance) if name == "Solarize" else distance, rel=1e-6)


def test_translations_of_cifar10_are_whole_pixels_at_the_reference_size():
    for size in (32, 224):
        moves = [step.levels.span * size for step in parse_scheme("cifar10", size).steps if is_translation(step)]
        assert moves
        assert all(move == round(move) > 0 for move in moves)


def is_translation(step):
    return step.operation in (Operation.TRANSLATE_X, Operation.TRANSLATE_Y)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("rnad-m7", "Did you mean rand"),
        ("RandAugment", "there is no augmentation"),
        ("orignal", "Did you mean original"),
        ("augmix-m3", "AugMix blends several images"),
        ("rand-mst0.5", "Did you mean mstd"),
        ("rand-z3", "no section 'z3'. Known: m, n, p"),
        ("rand-m9-", "no section ''"),
        ("rand-m7.5", "'m' is followed by a whole number"),
        ("rand-m", "'m' is followed by a whole number"),
        ("rand-m-1", "'m' is followed by a whole number"),
        ("rand-n0", "'n' is followed by a whole number of layers"),
        ("rand-n99", "'n' is followed by a whole number of layers"),
        ("rand-p1.5", "'p' is followed by a probability"),
        ("rand-inc2", "'inc' is followed by 0 or 1"),
        ("rand-mmax0", "'mmax' is followed by"),
        ("rand-mstdinf", "no section 'mstdinf'"),
        ("rand-w1", "'w' is followed by 0"),
        ("rand-m9-m7", "gives 'm' twice"),
        ("rand-tweight", "Did you mean tweights"),
        ("rand-t3a-w0", "either a set of operations"),
        ("rand-w0-n14", "n is at most 13"),
        ("rand-tweights-n16", "n is at most 15"),
        ("v0-m9", "no section 'm9'"),
        ("v0-mstd", "'mstd' is followed by a number"),
        ("original-mstd0.5-mstd1", "no section 'mstd1'"),
        ("cifar10-mstd0.5", "Write cifar10 alone"),
    ],
)
def test_what_cannot_be_read_is_refused_when_the_policy_is_made(config, message):
    with pytest.raises(ConfigError) as refused:
        Policy(auto_augment=config)
    assert message in str(refused.value)
    assert repr(config) in str(refused.value)

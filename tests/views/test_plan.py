"""A plan is a pure function of policy, seed, view and key."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.views.operations import Operation
from kdcache.views.plan import make_plan
from kdcache.views.policies import FORMER_CENTRE, NAMED
from kdcache.views.policy import Policy
from support.plans import fields, plan_of

GOLDEN = Path(__file__).parent.parent / "golden" / "plans.json"

EVERYTHING = Policy(
    crop="padded",
    pad=9,
    interpolation="random",
    auto_augment="rand-m9-n3-mstd0.5-tweights",
    color_jitter=(0.4, 0.3, 0.2, 0.1),
    color_jitter_prob=0.8,
    erase_prob=0.5,
    erase_mode="pixel",
    erase_count=2,
    mixup=0.2,
    cutmix=1.0,
)
policies = st.sampled_from([EVERYTHING, *NAMED.values()])


@settings(max_examples=40)
@given(policies, st.integers(0, 40), st.integers(1, 30), st.integers(0, 1000))
def test_a_plan_does_not_depend_on_batching(policy, start, pairs, view):
    whole = fields(plan_of(policy, 2 * (start + pairs), view=view))
    part = fields(plan_of(policy, 2 * pairs, view=view, first=2 * start))
    for name, array in part.items():
        rows = slice(start, None) if name in ("weight", "cut") else slice(2 * start, None)
        assert np.array_equal(array, whole[name][rows]), name


@settings(max_examples=30)
@given(policies, st.lists(st.integers(0, 400), min_size=1, max_size=20))
def test_rows_of_several_views_are_those_of_each(policy, views):
    keys = np.arange(2 * len(views), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    sizes = np.full(2 * len(views), 300, np.int64), np.full(2 * len(views), 400, np.int64)
    together = fields(make_plan(policy, 5, np.repeat(np.array(views, np.int64), 2), keys, *sizes))
    for pair, view in enumerate(views):
        rows = slice(2 * pair, 2 * pair + 2)
        alone = fields(make_plan(policy, 5, view, keys[rows], sizes[0][rows], sizes[1][rows]))
        for name, array in alone.items():
            mine = together[name][pair : pair + 1] if name in ("weight", "cut") else together[name][rows]
            assert np.array_equal(array, mine), name


def test_an_odd_last_row_is_not_mixed_and_changes_nothing_else():
    odd, even = plan_of(EVERYTHING, 7), plan_of(EVERYTHING, 8)
    assert len(odd.weight) == 3
    assert odd.row_weight()[6] == 1
    assert np.array_equal(odd.weight, even.weight[:3])
    assert np.array_equal(odd.box, even.box[:7])
    assert np.array_equal(odd.op, even.op[:7])


def test_what_one_purpose_draws_changes_nothing_for_another():
    """A stream for each: adding an augmentation to a policy leaves the others of a view as they were."""
    plain = fields(plan_of(Policy(crop="padded", pad=9), 64))
    changed = {"op", "magnitude", "op_cubic", "erase", "noise", "weight", "cut", "cubic"}
    for name, array in fields(plan_of(EVERYTHING, 64)).items():
        assert np.array_equal(array, plain[name]) != (name in changed), name


@pytest.mark.parametrize("name", NAMED)
def test_seed_and_view_change_what_is_random(name):
    policy = NAMED[name]
    plan, other_view, other_seed = (plan_of(policy, 64, seed=a, view=b) for a, b in ((0, 0), (0, 1), (1, 0)))
    for other in (other_view, other_seed):
        same = {field for field, array in fields(plan).items() if np.array_equal(array, fields(other)[field])}
        if name == "centre":
            assert same == fields(plan).keys()
        else:
            assert "flip" not in same
            assert ("box" in same) == (policy.crop == "padded")
            assert ("op" in same) == (policy.auto_augment == "")


@pytest.mark.parametrize(("seed", "view"), [(0, 1), (1, 0)])
def test_every_draw_depends_on_seed_and_view(seed, view):
    plan, other = fields(plan_of(EVERYTHING, 256)), fields(plan_of(EVERYTHING, 256, seed=seed, view=view))
    assert {name for name, array in plan.items() if np.array_equal(array, other[name])} == {"box"}  # padded


def test_what_is_drawn_for_different_purposes_is_independent():
    rows = 20_000
    plan = plan_of(EVERYTHING, rows)
    even = {"weight": plan.weight, "cut": plan.cut[:, 2] > plan.cut[:, 0]}
    drawn = {
        "flip": plan.flip,
        "cubic": plan.cubic,
        "shift": plan.shift[:, 0],
        "applied": plan.op[:, 0] != Operation.IDENTITY,
        "rotated": plan.op[:, 0] == Operation.ROTATE,
        "jitter": plan.op[:, 3] != Operation.IDENTITY,
        "order of jitter": plan.op[:, 4],
        "erased": plan.erase[:, 0, 2] > 0,
        "place of the box": plan.erase[:, 0, 0],
        "noise": plan.noise >> np.uint64(32),
        "crop": plan_of(Policy(), rows).box[:, 2],
    }
    columns = np.array([*(array[::2] for array in drawn.values()), *even.values()], np.float64)
    related = np.abs(np.corrcoef(columns)) > 4.5 / np.sqrt(rows / 2)
    names = [*drawn, *even]
    pairs = {(names[a], names[b]) for a, b in zip(*np.nonzero(np.triu(related, 1)), strict=True)}
    assert pairs == {
        ("applied", "rotated"),
        ("jitter", "order of jitter"),  # where there is one
        ("erased", "place of the box"),
        ("weight", "cut"),
    }


CASES = {
    "crop": (Policy(), 0, 0),
    "crop-mix": (Policy(mixup=0.1, cutmix=1.0), 0, 0),
    "later view and seed": (Policy(mixup=0.8, cutmix=1.0, mix_prob=0.7, switch_prob=0.3), 12345, 299),
    "minmax at 32": (Policy(cutmix_minmax=(0.2, 0.8), reference_size=32, crop_scale=(0.5, 1.0)), 1, 7),
    "everything": (EVERYTHING, 3, 11),
    "uniform levels": (Policy(auto_augment="rand-m9-mstd101-inc1-p0.9", interpolation="random"), 0, 0),
    "former weights": (Policy(auto_augment="rand-w0-p1-n4"), 0, 1),
    "original": (Policy(auto_augment="original-mstd0.5"), 0, 2),
    # What `a2` was before it became that of VanillaKD's code: caches of it stay what they are.
    "former a2": (Policy(auto_augment="rand-m7-mstd0.5-inc1", mixup=0.1, cutmix=1.0, repeats=3), 0, 0),
    **{name: (NAMED[name], 0, 0) for name in ("a2", "rsb-a2", "b", "cifar-autoaugment", "three-augment")},
    # What `centre` was before it became timm's evaluation transform: caches of it stay what they are.
    "centre": (FORMER_CENTRE, 0, 0),
    "evaluation": (NAMED["centre"], 0, 0),
}


def golden_plans():
    keys = np.array([0, 1, 2**63, 2**64 - 1, 0xDEADBEEF, 42, 7], np.uint64)
    height = np.array([375, 500, 28, 1, 4000, 333, 640], np.int64)
    width = np.array([500, 375, 28, 900, 3000, 500, 480], np.int64)
    return {
        name: {key: array.tolist() for key, array in fields(make_plan(*case, keys, height, width)).items()}
        for name, case in CASES.items()
    }


def test_golden_plans():
    """The committed plans may change only with a format version: caches in use were made with them.

    To write them anew: PYTHONPATH=tests python tests/views/test_plan.py
    """
    assert golden_plans() == json.loads(GOLDEN.read_text())


def as_text(plans):
    """JSON with one line an array."""
    parts = [
        f"{json.dumps(name)}: {{\n"
        + ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in plan.items())
        for name, plan in plans.items()
    ]
    return "{\n" + "\n},\n".join(parts) + "\n}\n}\n"


if __name__ == "__main__":
    GOLDEN.write_text(as_text(golden_plans()))

"""A plan in words says what the plan says."""

import numpy as np
import pytest

from kdcache.views.operations import Operation
from kdcache.views.plan import Plan, describe_changes, describe_crop, describe_mixing, make_plan
from kdcache.views.policies import NAMED


def plan_of(**fields: object) -> Plan:
    """One pair that nothing is done to, but for what is given."""
    plain: dict[str, object] = {
        "box": np.array([[1, 2, 30, 40]] * 2, np.int32),
        "cubic": np.zeros(2, bool),
        "flip": np.zeros(2, bool),
        "shift": np.zeros((2, 2), np.int32),
        "op": np.zeros((2, 0), np.uint8),
        "magnitude": np.zeros((2, 0), np.float32),
        "op_cubic": np.zeros((2, 0), bool),
        "erase": np.zeros((2, 0, 4), np.int32),
        "noise": np.zeros(2, np.uint64),
        "weight": np.ones(1, np.float32),
        "cut": np.zeros((1, 4), np.int32),
    }
    return Plan(**(plain | fields))


def test_nothing_is_said_where_nothing_is_done() -> None:
    plan = plan_of()
    assert describe_crop(plan, 0) == "crop 30 x 40 at row 1, column 2"
    assert describe_changes(plan, 0) == ()
    assert describe_mixing(plan, 0) == "not mixed"


def test_each_row_has_words_of_its_own_in_the_order_of_the_plan() -> None:
    plan = plan_of(
        flip=np.array([False, True]),
        shift=np.array([[0, 0], [-3, 2]], np.int32),
        op=np.array([[0, 0], [Operation.ROTATE, Operation.POSTERIZE]], np.uint8),
        magnitude=np.array([[0, 0], [-12.5, 4]], np.float32),
        op_cubic=np.zeros((2, 2), bool),
        erase=np.array([[[0, 0, 0, 0]], [[5, 6, 15, 26]]], np.int32),
    )
    assert describe_changes(plan, 0) == ()
    assert describe_crop(plan, 1).endswith(", flipped")
    assert describe_changes(plan, 1) == (
        "moved 3 up and 2 right pixels",
        "rotate -12.5 degrees",
        "posterize to 4 bits",
        "erase 10 x 20 at row 5, column 6",
    )


@pytest.mark.parametrize(
    ("weight", "cut", "words"),
    [
        (0.625, (0, 0, 0, 0), "mixup: keeps 62.5%"),
        (0.75, (2, 3, 12, 23), "cutmix: 10 x 20 swapped at row 2, column 3; keeps 75.0%"),
    ],
)
def test_mixing_is_told_by_its_kind(weight: float, cut: tuple[int, ...], words: str) -> None:
    plan = plan_of(weight=np.array([weight], np.float32), cut=np.array([cut], np.int32))
    assert describe_mixing(plan, 0) == words


@pytest.mark.parametrize(
    ("op", "magnitude", "words"),
    [
        (Operation.TRANSLATE_X, 0.25, "move 25% left"),
        (Operation.TRANSLATE_X, -0.25, "move 25% right"),
        (Operation.TRANSLATE_Y, 0.25, "move 25% up"),
        (Operation.HUE, -0.25, "turn hue -90 degrees"),
        (Operation.POSTERIZE, 1.0, "posterize to 1 bit"),
        (Operation.COLOR, 1.5, "colour x 1.50"),
    ],
)
def test_arguments_are_told_in_their_own_units(op: Operation, magnitude: float, words: str) -> None:
    ops, magnitudes = np.full((2, 1), op, np.uint8), np.full((2, 1), magnitude, np.float32)
    assert describe_changes(plan_of(op=ops, magnitude=magnitudes, op_cubic=np.zeros((2, 1), bool)), 0) == (words,)


def test_every_operation_has_words_of_its_own() -> None:
    words = set()
    for op in set(Operation) - {Operation.IDENTITY}:
        plan = plan_of(
            op=np.full((2, 1), op, np.uint8),
            magnitude=np.full((2, 1), 0.5, np.float32),
            op_cubic=np.zeros((2, 1), bool),
        )
        words.add(describe_changes(plan, 0))
    assert len(words) == len(Operation) - 1


@pytest.mark.parametrize("name", NAMED)
def test_plans_of_every_named_policy_can_be_told(name: str) -> None:
    sides = np.full(64, 50)
    plan = make_plan(NAMED[name], 0, 0, np.arange(64, dtype=np.uint64) << np.uint64(40), sides, sides)
    for row in range(64):
        assert describe_crop(plan, row)
        assert all(describe_changes(plan, row))
        assert describe_mixing(plan, row // 2)

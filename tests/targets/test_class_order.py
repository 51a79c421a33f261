"""Names of classes: reversible for any table, and short where the order is a good one."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdcache.errors import CorruptError
from kdcache.targets.class_order import ClassOrder, class_dtype, prefix_of
from kdcache.targets.class_order_calibration import calibration_rows, learn_order
from kdcache.targets.topk import TopKTargets, keep_top
from support.targets_contract import random_order, teacher_log_probs


@given(st.sampled_from([2, 3, 12, 257, 300]), st.integers(0, 5))
def test_names_are_reversible_and_differ(classes: int, seed: int) -> None:
    order = random_order(classes, seed)
    for top in (0, classes // 2, classes - 1):
        others = np.delete(np.arange(classes), top)
        tops = np.full(len(others), top)
        names = order.names(tops, others)
        assert order.classes(tops, names).tolist() == others.tolist()
        assert len(set(names.tolist())) == len(others)
        assert names.max() < prefix_of(classes) + classes
        near = order.table[top]
        assert order.names(np.full(len(near), top), near).tolist() == list(range(len(near)))


def test_one_class_has_no_others() -> None:
    order = ClassOrder(np.empty((1, 0), np.uint8))
    nothing = np.empty(0, np.int32)
    assert order.names(nothing, nothing).tolist() == order.classes(nothing, nothing).tolist() == []


@pytest.mark.parametrize("damage", ["repeated", "itself", "beyond", "narrow", "wide"])
def test_what_is_no_order_is_refused(damage: str) -> None:
    table = random_order(300).table.copy()
    if damage == "repeated":
        table[7, 3] = table[7, 200]
    elif damage == "itself":
        table[7, 3] = 7
    elif damage == "beyond":
        table[7, 3] = 300
    else:
        table = table[:, :255] if damage == "narrow" else table.astype(np.uint32)
    with pytest.raises(CorruptError, match="300 classes"):
        ClassOrder(table)


def test_the_checksum_is_of_the_numbers() -> None:
    order = random_order(300)
    assert order.checksum == ClassOrder(np.asfortranarray(order.table)).checksum
    assert order.checksum != random_order(300, seed=1).checksum
    assert ClassOrder(np.array([[1], [0]], np.uint8)).checksum == "ead9a09ae23f059006f2bea50e245ff4"


def calibration(rows: list[list[tuple[int, float]]], classes: int) -> TopKTargets:
    """Targets that keep these classes and probabilities."""
    flat = [entry for row in rows for entry in row]
    counts = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    return TopKTargets(
        classes,
        torch.tensor([class_id for class_id, _ in flat], dtype=torch.int32),
        torch.tensor([prob for _, prob in flat], dtype=torch.float32),
        torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        torch.zeros(len(rows)),
        None,
        torch.full((len(rows), 2), torch.nan),
    )


def test_without_targets_the_nearest_by_cosine_come_first() -> None:
    angle = torch.tensor([0.0, 0.1, 0.3, 2.0])
    head = torch.stack([angle.cos(), angle.sin()], 1) * torch.tensor([[1.0], [9.0], [2.0], [0.5]])
    assert learn_order(calibration([], 4), head).table.tolist() == [[1, 2, 3], [0, 2, 3], [1, 0, 3], [2, 1, 0]]


def test_without_a_head_the_most_frequent_come_first() -> None:
    seen = calibration([[(0, 0.9), (3, 0.1)], [(3, 0.9), (2, 0.1)]] * 9, 5)
    assert learn_order(seen, None).table[4].tolist() == [3, 0, 2, 1]


def test_what_was_seen_beside_a_class_comes_before_what_was_guessed() -> None:
    head = torch.eye(5) + 0.1 * torch.ones(5, 5)
    head[0] = torch.tensor([1.0, 0.9, 0.8, 0.7, 0.6])
    assert learn_order(calibration([], 5), head).table[0].tolist() == [1, 2, 3, 4]
    seen = calibration([[(0, 0.9), (4, 0.1)]] * 50, 5)
    assert learn_order(seen, head).table[0].tolist() == [4, 1, 2, 3]
    assert learn_order(seen, head).table[1:].tolist() == learn_order(calibration([], 5), head).table[1:].tolist()


def test_a_class_that_was_never_guessed_enters_when_it_is_seen() -> None:
    classes = 300
    head = torch.from_numpy(np.random.default_rng(0).standard_normal((classes, 4))).float()
    guessed = learn_order(calibration([], classes), head).table[7].tolist()
    stranger = next(c for c in range(classes) if c not in guessed and c != 7)
    seen = learn_order(calibration([[(stranger, 0.2), (7, 0.5)]] * 20, classes), head).table[7].tolist()
    assert seen[0] == stranger
    assert seen[1:] == guessed[:-1]


def test_learning_is_repeatable() -> None:
    said = keep_top(teacher_log_probs(400, 300, sharpness=4.0), torch.full((400, 2), -1), 128, 0.0033)
    head = torch.from_numpy(np.random.default_rng(0).standard_normal((300, 16))).float()
    assert learn_order(said, head).checksum == learn_order(said, head).checksum
    assert learn_order(said, None).checksum == learn_order(said, None).checksum


def test_many_classes_do_not_take_a_table_of_all_pairs() -> None:
    classes = 21841
    table = random_order(300).table
    assert prefix_of(classes) * classes * np.dtype(class_dtype(classes)).itemsize < 12e6
    assert calibration_rows(classes) <= 32768
    assert table.shape == (300, 256)

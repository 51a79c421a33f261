"""Scores against loops that follow their formulas, and against torchmetrics where it has the score."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kdcache.evaluation.scores import (
    Interval,
    agreement,
    aurc,
    class_accuracy,
    is_among_top,
    kl_divergence,
    mean_and_deviation,
    mean_or_nan,
    paired_bootstrap,
    real_correct,
    reliability,
)

#: Few different values, so that many are equal, with those at the edges of bins among them.
CONFIDENCES = st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.3, 0.5, 0.51, 0.75, 0.9, 0.999, 1.0])
PREDICTIONS = st.lists(st.tuples(CONFIDENCES, st.booleans()), min_size=1, max_size=30)


def columns(predictions: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    confidence, correct = zip(*predictions, strict=True)
    return np.array(confidence), np.array(correct, bool)


@given(PREDICTIONS, st.integers(1, 12))
def test_reliability_and_its_error(predictions: list[tuple[float, bool]], bins: int) -> None:
    found = reliability(*columns(predictions), bins)
    expected = 0.0
    for number in range(bins):
        inside = [
            (value, right)
            for value, right in predictions
            if number / bins < value <= (number + 1) / bins or (number == 0 and value == 0)
        ]
        assert found.counts[number] == len(inside)
        if inside:
            confidence, accuracy = (sum(part) / len(inside) for part in zip(*inside, strict=True))
            assert found.confidence[number] == pytest.approx(confidence)
            assert found.accuracy[number] == pytest.approx(accuracy)
            expected += len(inside) / len(predictions) * abs(accuracy - confidence)
        else:
            assert found.to_json()[number]["accuracy"] is None
    assert found.ece == pytest.approx(expected)


@given(PREDICTIONS)
@settings(max_examples=50)
def test_area_under_risk_and_coverage_does_not_depend_on_the_order_of_equals(
    predictions: list[tuple[float, bool]],
) -> None:
    """It is the mean over all orders in which the confidence falls: here of six predictions at most."""
    predictions = predictions[:6]
    areas = []
    for order in itertools.permutations(predictions):
        if any(one[0] < two[0] for one, two in itertools.pairwise(order)):
            continue
        risks = [sum(not right for _, right in order[:covered]) / covered for covered in range(1, len(order) + 1)]
        areas.append(sum(risks) / len(risks))
    assert aurc(*columns(predictions)) == pytest.approx(sum(areas) / len(areas))


def test_known_areas() -> None:
    best = np.array([0.9, 0.8, 0.7, 0.6])
    assert aurc(best, np.ones(4, bool)) == 0
    assert aurc(best, np.zeros(4, bool)) == 1
    assert aurc(best, np.array([True, True, True, False])) == pytest.approx(0.25 / 4)
    assert aurc(best, np.array([False, True, True, True])) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)


@given(st.integers(2, 7), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_accuracies_by_a_loop(classes: int, samples: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(samples, classes)), rng.integers(0, classes, samples)
    top = np.argsort(-logits, axis=1)[:, :5]
    for count in (1, 5):
        by_loop = [
            sum(other > logits[row, label] for other in logits[row]) < count
            for row, label in enumerate(labels.tolist())
        ]
        assert is_among_top(top, labels, count).tolist() == by_loop
    accuracy, counts = class_accuracy(top[:, 0], labels, classes)
    for number in range(classes):
        of_class = [
            guess == number for guess, label in zip(top[:, 0].tolist(), labels.tolist(), strict=True) if label == number
        ]
        assert counts[number] == len(of_class)
        if of_class:
            assert accuracy[number] == sum(of_class) / len(of_class)
        else:
            assert math.isnan(accuracy[number])
    other = rng.integers(-1, classes, samples)
    if samples:
        pairs = zip(top[:, 0].tolist(), other.tolist(), strict=True)
        assert agreement(top[:, 0], other) == pytest.approx(sum(one == two for one, two in pairs) / samples)


def test_what_torchmetrics_has() -> None:
    """Its bins are open above: no confidence lies at an edge here."""
    import torchmetrics.functional.classification as functional  # takes seconds

    rng = np.random.default_rng(3)
    probabilities = torch.tensor(rng.dirichlet(np.full(6, 0.3), size=500))
    labels = torch.tensor(rng.integers(0, 6, 500))
    labels[::2] = probabilities.argmax(dim=1)[::2]
    confidence, predicted = probabilities.max(dim=1)
    correct = (predicted == labels).numpy()
    for bins in (1, 10, 15):
        theirs = functional.multiclass_calibration_error(probabilities, labels, 6, n_bins=bins, norm="l1")
        assert reliability(confidence.numpy(), correct, bins).ece == pytest.approx(theirs.item(), abs=1e-6)
    top = probabilities.topk(5).indices.numpy()
    for count in (1, 5):
        theirs = functional.multiclass_accuracy(probabilities, labels, 6, top_k=count, average="micro")
        assert is_among_top(top, labels.numpy(), count).mean() == pytest.approx(theirs.item())
    theirs = functional.multiclass_accuracy(probabilities, labels, 6, average="none")
    assert class_accuracy(top[:, 0], labels.numpy(), 6)[0] == pytest.approx(theirs.numpy())


@given(st.integers(1, 6), st.integers(1, 10), st.integers(0, 2**32 - 1))
def test_divergence_by_a_loop(classes: int, samples: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, q = (torch.tensor(rng.dirichlet(np.ones(classes), size=samples)) for _ in range(2))
    expected = [
        sum(a * (math.log(a) - math.log(b)) for a, b in zip(one, two, strict=True))
        for one, two in zip(p.tolist(), q.tolist(), strict=True)
    ]
    assert kl_divergence(q.log(), p.log()).tolist() == pytest.approx(expected, abs=1e-9)


def test_divergence_of_what_is_impossible() -> None:
    sure, torn = torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.5, 0.5]]).log()
    assert kl_divergence(torn, sure).item() == pytest.approx(math.log(2))
    assert kl_divergence(sure, torn).item() == math.inf
    assert kl_divergence(sure, sure).item() == 0


def test_a_bootstrap_of_known_cases() -> None:
    right, wrong = np.ones(50, bool), np.zeros(50, bool)
    assert paired_bootstrap(right, right) == Interval(0.0, 0.0, 0.0)
    assert paired_bootstrap(right, wrong) == Interval(1.0, 1.0, 1.0)
    assert paired_bootstrap(right, wrong).excludes_zero
    assert math.isnan(paired_bootstrap(right[:0], wrong[:0]).mean)


def test_a_bootstrap_is_that_of_drawing_samples_one_by_one() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.random(400) < 0.8, rng.random(400) < 0.7
    found = paired_bootstrap(ours, theirs, resamples=20_000)
    assert found == paired_bootstrap(ours, theirs, resamples=20_000)
    assert found != paired_bootstrap(ours, theirs, resamples=20_000, seed=1)
    differences = ours.astype(float) - theirs
    rows = rng.integers(0, 400, (4_000, 400))
    low, high = np.quantile(differences[rows].mean(axis=1), [0.025, 0.975])
    # The ends of 4,000 draws vary by a deviation of 0.0010.
    assert (found.low, found.high) == (pytest.approx(low, abs=0.006), pytest.approx(high, abs=0.006))
    assert found.mean == pytest.approx(differences.mean())
    # Pairing matters: on the same samples a model differs from itself in nothing, whatever its accuracy.
    assert found.high - found.low < paired_bootstrap(ours, ~ours).high - paired_bootstrap(ours, ~ours).low


def test_deviation_over_seeds_is_that_of_a_sample() -> None:
    found = mean_and_deviation([0.1, 0.2, 0.6])
    assert found.mean == pytest.approx(0.3)
    assert found.deviation == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2))
    assert mean_and_deviation([0.4]).deviation is None


def test_several_right_labels() -> None:
    """Any of them counts as right; an image without one is left out, whatever is predicted."""
    right, has_labels = real_correct(np.array([3, 3, 3, 0, -1]), [{3}, {1, 3}, {1, 2}, set(), {0}])
    assert right[has_labels].tolist() == [True, True, False, False]
    assert has_labels.tolist() == [True, True, True, False, True]


@given(arrays.arrays(np.float64, st.integers(0, 5), elements=st.floats(0, 1)))
def test_outputs_that_are_no_numbers_leave_no_calibration(values: np.ndarray) -> None:
    confidence = np.append(values, math.nan)
    correct = np.zeros(len(confidence), bool)
    assert math.isnan(aurc(confidence, correct))
    found = reliability(confidence, correct)
    assert math.isnan(found.ece)
    assert {row["accuracy"] for row in found.to_json()} == {None}
    assert math.isnan(mean_or_nan(values[:0]))
    assert agreement(np.array([-1, 1]), np.array([-1, 1])) == 0.5

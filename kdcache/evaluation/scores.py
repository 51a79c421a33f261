"""Scores as pure functions of what a model predicts: accuracy, calibration, selective risk, comparison of two models.

They are ten lines each, so that a reader sees which of the definitions in use each one has; the tests compare them with
torchmetrics where it has the score, and with loops that follow the formula.

An output that is not finite predicts no class (-1) and has the confidence NaN: it counts as wrong, and a mean over
confidences is NaN with it.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Num
from torch import Tensor

from kdcache.evaluation.options import DEFAULT_BINS

#: Draws of the bootstrap: the ends of a 95 % interval then vary by less than a twentieth of its width.
RESAMPLES = 10_000
CONFIDENCE = 0.95


def is_among_top(top: Int64[np.ndarray, "n k"], labels: Int64[np.ndarray, "n"], count: int) -> Bool[np.ndarray, "n"]:
    """Return whether each label is among the `count` likeliest classes.

    Args:
        top: classes of each sample, the likeliest first; -1 for no class.
    """
    among: np.ndarray = (top[:, :count] == labels[:, None]).any(axis=1)
    return among


def mean_or_nan(values: Num[np.ndarray, "n"] | Bool[np.ndarray, "n"]) -> float:
    """Return the mean in float64; NaN where there is no value."""
    return float(np.mean(values, dtype=np.float64)) if len(values) else math.nan


@dataclass(frozen=True, eq=False)
class Reliability:
    """A reliability diagram: how often predictions of each confidence are right.

    Bin b of B holds confidences over b / B and up to (b + 1) / B.

    Attributes:
        counts: samples of each bin.
        confidence, accuracy: their mean confidence, and the share that is right; NaN in an empty bin.
    """

    counts: Int64[np.ndarray, "b"]
    confidence: Float[np.ndarray, "b"]
    accuracy: Float[np.ndarray, "b"]

    @property
    def ece(self) -> float:
        """The expected calibration error: sum over bins of count / n * |accuracy - confidence|, from 0 to 1.

        Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning"; Guo et al. 2017, "On
        Calibration of Modern Neural Networks". NaN without samples, or if a confidence is NaN.
        """
        filled = self.counts > 0
        gaps = np.abs(self.accuracy - self.confidence)[filled] * self.counts[filled]
        return float(gaps.sum() / self.counts.sum()) if filled.any() else math.nan

    def to_json(self) -> list[dict[str, Any]]:
        """Return a row for each bin, as plain values; None for the means of an empty one."""
        bins = len(self.counts)
        return [
            {
                "over": number / bins,
                "up_to": (number + 1) / bins,
                "samples": int(self.counts[number]),
                "confidence": finite(self.confidence[number]),
                "accuracy": finite(self.accuracy[number]),
            }
            for number in range(bins)
        ]


def reliability(
    confidence: Float[np.ndarray, "n"], correct: Bool[np.ndarray, "n"], bins: int = DEFAULT_BINS
) -> Reliability:
    """Return the reliability diagram of predictions with equal bins of the confidence.

    Args:
        confidence: probability of the predicted class, from 0 to 1. With one that is NaN there is no diagram: all bins
            are empty.
        correct: whether the predicted class is the label.
        bins: number of bins.
    """
    values = confidence.astype(np.float64)
    if np.isnan(values).any():
        nothing = np.full(bins, math.nan)
        return Reliability(np.zeros(bins, np.int64), nothing, nothing)
    edges = np.linspace(0, 1, bins + 1)
    numbers = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, bins - 1)
    counts = np.bincount(numbers, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(numbers, weights=part, minlength=bins) / counts for part in (values, correct)]
    return Reliability(counts, *means)


def aurc(confidence: Float[np.ndarray, "n"], correct: Bool[np.ndarray, "n"]) -> float:
    """Return the area under the risk-coverage curve: the mean over k of the error rate of the k most confident.

    Geifman and El-Yaniv 2017, "Selective Classification for Deep Neural Networks"; Geifman et al. 2019, "Bias-Reduced
    Uncertainty Estimation for Deep Neural Classifiers". From 0 (best) to 1. Samples of equal confidence are in no
    order: the result is the mean over all of their orders, so it does not depend on the order of the data. float32 has
    many equal confidences near 1.

    Args:
        confidence, correct: as `reliability` takes them; the result is NaN without samples, or if a confidence is NaN.
    """
    if len(confidence) == 0 or np.isnan(confidence).any():
        return math.nan
    order = np.argsort(-confidence, kind="stable")
    errors = np.cumsum(~correct[order])
    ends = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True))
    # Within a group of equal confidence the mean over its orders makes the errors grow linearly.
    covered = np.arange(1, len(order) + 1)
    expected = np.interp(covered, np.concatenate([[0], ends + 1]), np.concatenate([[0], errors[ends]]))
    return float((expected / covered).mean())


def class_accuracy(
    predicted: Int64[np.ndarray, "n"], labels: Int64[np.ndarray, "n"], num_classes: int
) -> tuple[Float[np.ndarray, "c"], Int64[np.ndarray, "c"]]:
    """Return for each class the share of its samples that are predicted as it, NaN without samples, and their number.

    Args:
        predicted: class of each sample, -1 for none.
        labels: from 0 to num_classes - 1.
    """
    counts = np.bincount(labels, minlength=num_classes)
    right = np.bincount(labels[predicted == labels], minlength=num_classes)
    with np.errstate(invalid="ignore"):
        return right / counts, counts


def agreement(predicted: Int64[np.ndarray, "n"], reference: Int64[np.ndarray, "n"]) -> float:
    """Return the share of samples for which two models predict the same class; none (-1) agrees with nothing.

    Stanton et al. 2021, "Does Knowledge Distillation Really Work?", call it top-1 agreement.
    """
    return mean_or_nan((predicted == reference) & (predicted >= 0))


def kl_divergence(log_probs: Float[Tensor, "n c"], reference: Float[Tensor, "n c"]) -> Float[Tensor, "n"]:
    """Return KL(reference || model) of each row in nats, in float64: the sum of p (log p - log q) over classes.

    Where the reference gives a class no probability (-inf), the class counts nothing; where the model alone gives it
    none, the divergence is infinite.

    Args:
        log_probs: log q, the model's log-probabilities.
        reference: log p, those of the reference, such as a teacher.
    """
    log_q, log_p = log_probs.double(), reference.double()
    terms = log_p.exp() * (log_p - log_q)
    return torch.where(log_p == -math.inf, 0.0, terms).sum(dim=1)


@dataclass(frozen=True)
class Interval:
    """A mean and its bootstrap interval.

    Attributes:
        mean: of the samples themselves.
        low, high: ends of the interval.
        confidence: share of intervals that hold the true mean, such as 0.95.
    """

    mean: float
    low: float
    high: float
    confidence: float = CONFIDENCE

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    correct: Bool[np.ndarray, "n"],
    reference: Bool[np.ndarray, "n"],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the difference of two models' accuracy on the same samples, with its percentile interval.

    Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13. Each draw takes n samples with
    replacement, each with both of its predictions. The difference on a sample is -1, 0 or 1, so the numbers of each in
    a draw have a multinomial distribution, and are drawn from it: the same distribution as that of drawing samples one
    by one, without n numbers a draw.

    Args:
        correct, reference: whether each of the models is right, by sample.
        seed: seed of the draws.
        resamples: number of draws.
        confidence: share of the draws that lie within the interval.
    """
    differences = correct.astype(np.int64) - reference.astype(np.int64)
    count = len(differences)
    if count == 0:
        return Interval(math.nan, math.nan, math.nan, confidence)
    shares = np.bincount(differences + 1, minlength=3) / count
    drawn = np.random.default_rng(seed).multinomial(count, shares, size=resamples)
    means = (drawn[:, 2] - drawn[:, 0]) / count
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(differences.mean()), float(low), float(high), confidence)


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a score over runs; the deviation is that of a sample (n - 1), None for one run."""

    mean: float
    deviation: float | None


def mean_and_deviation(values: Sequence[float]) -> Spread:
    """Return mean and sample standard deviation of at least one value."""
    array = np.asarray(values, np.float64)
    return Spread(float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None)


def real_correct(
    predicted: Int64[np.ndarray, "n"], allowed: Sequence[Collection[int]]
) -> tuple[Bool[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """Return whether each prediction is one of several labels that are right, and which samples have any.

    ReaL accuracy is the mean of the first over the second: a sample without labels is left out. Beyer et al. 2020, "Are
    we done with ImageNet?".
    """
    has_labels = np.array([len(labels) > 0 for labels in allowed], bool)
    right = np.array([guess in labels for guess, labels in zip(predicted.tolist(), allowed, strict=True)], bool)
    return right, has_labels


def finite(value: float) -> float | None:
    """Return a number that JSON can have: None for NaN and infinities."""
    return float(value) if math.isfinite(value) else None

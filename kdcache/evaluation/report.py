"""What an evaluation has found: scores of each model on each data set, and what several runs have in common."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64

from kdcache.data.index import Index
from kdcache.evaluation.confusions import Confusion, most_confused
from kdcache.evaluation.options import DEFAULT_BINS
from kdcache.evaluation.predictions import Predictions
from kdcache.evaluation.scores import (
    Interval,
    Reliability,
    Spread,
    agreement,
    aurc,
    class_accuracy,
    finite,
    is_among_top,
    mean_and_deviation,
    mean_or_nan,
    paired_bootstrap,
    real_correct,
    reliability,
)
from kdcache.evaluation.scoring import Evaluation


@dataclass(frozen=True, eq=False)
class Comparison:
    """A model beside a reference model on the same samples.

    Attributes:
        reference: name of the reference.
        agreement: share of samples for which both predict the same class.
        kl: mean KL(reference || model) in nats; None where the reference's log-probabilities were too many to keep.
        top1: difference of top-1 accuracy, model less reference, with its paired bootstrap interval.
        real: the same of ReaL accuracy; None without such labels.
    """

    reference: str
    agreement: float
    kl: float | None
    top1: Interval
    real: Interval | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values; None for numbers that are not finite."""
        values: dict[str, Any] = {"reference": self.reference, "agreement": finite(self.agreement)}
        values["kl"] = None if self.kl is None else finite(self.kl)
        values["top1_difference"] = _interval_json(self.top1)
        if self.real is not None:
            values["real_difference"] = _interval_json(self.real)
        return values


@dataclass(frozen=True, eq=False)
class Scores(Evaluation):
    """All scores of a model on a data set; `loss` is the mean negative log-likelihood (NLL) in nats.

    If the logits of any sample are not finite, `loss`, `ece` and `aurc` are NaN, and these samples count as wrong.

    Attributes:
        data: name of the data set.
        lost: number of its samples that are lost, and left out.
        invalid: number of samples whose logits are not finite.
        ece, aurc, reliability: as `kdcache.evaluation.scores` has them.
        class_accuracy, class_counts: of each output of the model; NaN for a class without samples.
        class_names: names of the classes, where data or model have them.
        confused: pairs of classes that are confused most often, with samples of each.
        real, real_samples: accuracy by several right labels, and the number of samples that have any; None without.
        comparison: beside the reference; None without, and for the reference itself.
    """

    data: str
    lost: int
    invalid: int
    reliability: Reliability = field(repr=False)
    aurc: float
    class_accuracy: Float[np.ndarray, "c"] = field(repr=False)
    class_counts: Int64[np.ndarray, "c"] = field(repr=False)
    class_names: tuple[str, ...] | None = field(default=None, repr=False)
    confused: tuple[Confusion, ...] = field(default=(), repr=False)
    real: float | None = None
    real_samples: int | None = None
    comparison: Comparison | None = None

    @property
    def ece(self) -> float:
        """The expected calibration error, 0 to 1."""
        return self.reliability.ece

    def lines(self) -> list[str]:
        """Return the scores as plain lines."""
        line = f"ECE {self.ece:.2%} ({len(self.reliability.counts)} bins), AURC {self.aurc:.4f}"
        if self.real is not None:
            line += f", ReaL {self.real:.2%} on {self.real_samples:,} images"
        return [*super().lines(), line]

    def details(self) -> list[str]:
        """Return the reliability diagram and the accuracy of each class as plain lines."""
        out = [
            f"{self.model} on {self.data}: confidence, and the share of predictions of that confidence that is right"
        ]
        for row in self.reliability.to_json():
            if row["samples"]:
                bar = "#" * round(40 * row["accuracy"])
                bounds = f"{row['over']:.3f} to {row['up_to']:.3f}"
                out.append(f"  {bounds}  {row['accuracy']:7.2%}  {bar:40}  {row['samples']:,} images")
        out.append(f"{self.model} on {self.data}: accuracy of each class")
        for number in np.flatnonzero(self.class_counts).tolist():
            name = f" {self.class_names[number]}" if self.class_names and number < len(self.class_names) else ""
            out.append(f"  {self.class_accuracy[number]:7.2%} of {self.class_counts[number]:,} images: {number}{name}")
        return out

    def to_json(self) -> dict[str, Any]:
        """Return plain values; None for numbers that are not finite."""
        names = self.class_names
        values: dict[str, Any] = {
            "model": self.model,
            "data": self.data,
            "samples": self.samples,
            "lost": self.lost,
            "not_finite": self.invalid,
            **{name: finite(getattr(self, name)) for name in ("top1", "top5")},
            "nll": finite(self.loss),
            "ece": finite(self.ece),
            "aurc": finite(self.aurc),
            "reliability": self.reliability.to_json(),
            "classes": [
                {
                    "label": number,
                    "name": names[number] if names and number < len(names) else None,
                    "samples": int(self.class_counts[number]),
                    "accuracy": finite(self.class_accuracy[number]),
                }
                for number in range(len(self.class_counts))
            ],
        }
        if self.real is not None:
            values |= {"real": finite(self.real), "real_samples": self.real_samples}
        if self.comparison is not None:
            values["comparison"] = self.comparison.to_json()
        return values


@dataclass(frozen=True)
class SeedSummary:
    """Mean and deviation over runs that differ in their seeds alone, on one data set."""

    models: tuple[str, ...]
    data: str
    top1: Spread
    top5: Spread
    nll: Spread
    ece: Spread
    aurc: Spread

    def to_json(self) -> dict[str, Any]:
        """Return plain values; None for numbers that are not finite."""
        values: dict[str, Any] = {"models": list(self.models), "data": self.data}
        for name in ("top1", "top5", "nll", "ece", "aurc"):
            spread: Spread = getattr(self, name)
            values[name] = {"mean": finite(spread.mean), "deviation": finite(spread.deviation or 0.0)}
        return values


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Scores of several models on several data sets, in the order of the data sets.

    Attributes:
        seeds: summaries of runs that differ in their seeds alone.
        notes: what was assumed or left out, in sentences.
    """

    rows: tuple[Scores, ...]
    seeds: tuple[SeedSummary, ...] = ()
    notes: tuple[str, ...] = ()

    def cells(self) -> list[list[str]]:
        """Return the table of all scores as rows of text, the first of which is the header."""
        has_real = any(row.real is not None for row in self.rows)
        compared = next((row.comparison.reference for row in self.rows if row.comparison is not None), None)
        header = ["model", "data", "images", "top-1", "top-5", "NLL", "ECE", "AURC"]
        header += ["ReaL"] if has_real else []
        header += ["agreement", "KL", f"top-1 less that of {compared}"] if compared is not None else []
        return [header, *(_cells(row, has_real, compared is not None) for row in self.rows)]

    def seed_cells(self) -> list[list[str]]:
        """Return the table of means and deviations as rows of text, the first of which is the header."""
        header = ["runs that differ in their seed", "data", "top-1", "top-5", "NLL", "ECE", "AURC"]
        return [
            header,
            *(
                [
                    f"{len(seeds.models)}: {', '.join(seeds.models)}",
                    seeds.data,
                    *(_spread(getattr(seeds, name), "%") for name in ("top1", "top5")),
                    _spread(seeds.nll, ""),
                    _spread(seeds.ece, "%"),
                    _spread(seeds.aurc, ""),
                ]
                for seeds in self.seeds
            ),
        ]

    def lines(self) -> list[str]:
        """Return the report as plain lines."""
        out = [line for row in self.rows for line in row.lines()]
        out += ["; ".join(map(": ".join, zip(*pair, strict=True))) for pair in _with_header(self.seed_cells())]
        return out

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {
            "scores": [row.to_json() for row in self.rows],
            "seeds": [seeds.to_json() for seeds in self.seeds],
            "notes": list(self.notes),
        }


def score_predictions(
    found: Predictions,
    index: Index,
    *,
    model: str,
    data: str,
    class_names: tuple[str, ...] | None,
    num_classes: int,
    bins: int = DEFAULT_BINS,
) -> Scores:
    """Return the scores that follow from a model's predictions alone."""
    correct = np.zeros(len(index), bool)
    correct[found.samples] = found.correct
    accuracy, counts = class_accuracy(found.predicted, found.labels, num_classes)
    return Scores(
        model=model,
        samples=len(found.samples),
        top1=mean_or_nan(found.correct),
        top5=mean_or_nan(is_among_top(found.top, found.labels, 5)),
        loss=-mean_or_nan(found.label_log_prob),
        correct=correct,
        num_classes=num_classes,
        data=data,
        lost=len(index.lost),
        invalid=found.invalid,
        reliability=reliability(found.confidence, found.correct, bins),
        aurc=aurc(found.confidence, found.correct),
        class_accuracy=accuracy,
        class_counts=counts,
        class_names=class_names,
        confused=most_confused(found),
    )


def score_real(
    found: Predictions, allowed: Sequence[frozenset[int]]
) -> tuple[Bool[np.ndarray, "m"], Bool[np.ndarray, "n"]]:
    """Return whether each sample that has labels is right by them, and which samples have any."""
    right, has_labels = real_correct(found.predicted, allowed)
    return right[has_labels], has_labels


def compare(
    found: Predictions,
    reference: Predictions,
    *,
    name: str,
    seed: int,
    allowed: Sequence[frozenset[int]] | None = None,
) -> Comparison:
    """Compare a model's predictions with those of a reference on the same samples.

    Args:
        name: of the reference.
        seed: seed of the bootstrap.
        allowed: several right labels of each sample.
    """
    real = None
    if allowed is not None:
        (ours, _), (theirs, _) = (score_real(each, allowed) for each in (found, reference))
        real = paired_bootstrap(ours, theirs, seed=seed)
    return Comparison(
        reference=name,
        agreement=agreement(found.predicted, reference.predicted),
        kl=None if found.kl is None else mean_or_nan(found.kl),
        top1=paired_bootstrap(found.correct, reference.correct, seed=seed),
        real=real,
    )


def summarise_seeds(rows: Sequence[Scores], groups: Sequence[tuple[str, ...]]) -> list[SeedSummary]:
    """Return mean and deviation of each group of models on each data set."""
    found = []
    for group in groups:
        for data in dict.fromkeys(row.data for row in rows):
            runs = [row for row in rows if row.data == data and row.model in group]
            spreads = {
                name: mean_and_deviation([getattr(run, attribute) for run in runs])
                for name, attribute in (
                    *(("top1", "top1"), ("top5", "top5"), ("nll", "loss"), ("ece", "ece"), ("aurc", "aurc")),
                )
            }
            found.append(SeedSummary(models=group, data=data, **spreads))
    return found


def _interval_json(interval: Interval) -> dict[str, Any]:
    values = {name: finite(getattr(interval, name)) for name in ("mean", "low", "high")}
    return {**values, "confidence": interval.confidence}


def _with_header(cells: list[list[str]]) -> list[tuple[list[str], list[str]]]:
    return [(cells[0], row) for row in cells[1:]]


def _cells(row: Scores, has_real: bool, is_compared: bool) -> list[str]:
    top5 = _percent(row.top5) if row.tells_top5 else "-"
    cells = [row.model, row.data, f"{row.samples:,}", _percent(row.top1), top5]
    cells += [_number(row.loss), _percent(row.ece), _number(row.aurc)]
    if has_real:
        cells.append("-" if row.real is None else _percent(row.real))
    if is_compared and row.comparison is None:
        cells += ["-", "-", "-"]
    elif row.comparison is not None:
        beside = row.comparison
        kl = "-" if beside.kl is None else _number(beside.kl)
        ends = f"{beside.top1.low:+.2%} to {beside.top1.high:+.2%}"
        cells += [_percent(beside.agreement), kl, f"{beside.top1.mean:+.2%} ({beside.top1.confidence:.0%}: {ends})"]
    return cells


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2%}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _spread(spread: Spread, unit: str) -> str:
    factor, digits = (100, 2) if unit else (1, 4)
    if math.isnan(spread.mean):
        return "-"
    return f"{spread.mean * factor:.{digits}f} ± {(spread.deviation or 0) * factor:.{digits}f}{unit and ' ' + unit}"

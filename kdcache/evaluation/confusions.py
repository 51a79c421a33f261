"""Classes that a model takes for others, each pair with the samples of which it was surest."""

from dataclasses import dataclass

import numpy as np

from kdcache.evaluation.predictions import Predictions

#: Pairs of classes that are kept, and samples of each.
PAIRS, EXAMPLES = 5, 3


@dataclass(frozen=True)
class Confusion:
    """A class that is taken for another.

    Attributes:
        label, predicted: the label, and the class that is the likeliest.
        count: number of samples with this label and this prediction.
        within: the same as a share of all samples with this label.
        samples: numbers of up to `EXAMPLES` of them in the index, first those of which the model was surest.
    """

    label: int
    predicted: int
    count: int
    within: float
    samples: tuple[int, ...]


def most_confused(found: Predictions) -> tuple[Confusion, ...]:
    """Return the pairs of classes that are confused most often, in descending order; at most `PAIRS`."""
    is_wrong = (found.predicted != found.labels) & (found.predicted >= 0)
    rows = np.flatnonzero(is_wrong)
    if not len(rows):
        return ()
    classes = int(max(found.predicted.max(), found.labels.max())) + 1
    pairs = found.labels[rows] * classes + found.predicted[rows]
    numbers, counts = np.unique(pairs, return_counts=True)
    confused = []
    for place in np.argsort(-counts, kind="stable")[:PAIRS].tolist():
        label, predicted = divmod(int(numbers[place]), classes)
        own = rows[pairs == numbers[place]]
        surest = own[np.argsort(-found.log_confidence[own], kind="stable")][:EXAMPLES]
        within = int(counts[place]) / int((found.labels == label).sum())
        samples = tuple(found.samples[surest].tolist())
        confused.append(Confusion(label, predicted, int(counts[place]), within, samples))
    return tuple(confused)

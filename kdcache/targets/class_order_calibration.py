"""Learn the order of classes from a teacher's targets of the first views, and from its classifier.

Each class's nearest are first guessed, without having seen a target of it: by the cosine between the rows of the
classifier's weights where it is linear, else by how often a class is kept at all. How often the class of a given rank
in that guess is kept, over all rows, is what one expects of it. Then each class's own rows, as far as there are
any, are added to `WEIGHT` times that expectation, and its classes sorted by the sum.
"""

import numpy as np
import torch
from jaxtyping import Float, Float64, Integer
from torch import Tensor

from kdcache.targets.class_order import ClassOrder, class_dtype, prefix_of
from kdcache.targets.ragged import first_maxima
from kdcache.targets.topk import TopKTargets

#: Number of targets as many as which the classifier's expectation weighs.
WEIGHT = 8.0

#: Rows of the classifier that are compared with all others at a time.
_SLICE = 256


def calibration_rows(num_classes: int) -> int:
    """Return how many views an order should be learned from: sixteen a class, at most 32,768."""
    return min(16 * num_classes, 32768)


def learn_order(calibration: TopKTargets, head: Float[Tensor, "c d"] | None) -> ClassOrder:
    """Learn the order of a teacher's classes.

    `calibration` are targets of some views, `head` the classifier's weights, a row for each class. The same targets and
    weights give the same order.
    """
    top, other = _pairs(calibration)
    guess = ClassOrder(_by_cosine(head) if head is not None else _by_frequency(calibration))
    classes, prefix = guess.table.shape
    name = guess.names(top, other)
    # A class that was seen at two ranks' distance is not expected less often than one farther away.
    seen = np.bincount(name[name < prefix], minlength=prefix) / max(len(calibration), 1)
    expected = np.maximum.accumulate(seen[::-1])[::-1]
    table = guess.table.copy()
    key, times = np.unique(top.astype(np.int64) * (prefix + classes) + name, return_counts=True)
    near, name = np.divmod(key, prefix + classes)
    begins = np.searchsorted(near, np.arange(classes + 1))
    for row in np.unique(near):
        own = slice(begins[row], begins[row + 1])
        table[row] = _sorted_row(guess.table[row], WEIGHT * expected, name[own], times[own])
    return ClassOrder(table)


def _pairs(calibration: TopKTargets) -> tuple[Integer[np.ndarray, " n"], Integer[np.ndarray, " n"]]:
    """Return every class that was kept beside a row's most probable one, and that one."""
    class_id, counts = calibration.class_id.numpy(), calibration.offset.diff().numpy()
    place = first_maxima(calibration.prob.numpy(), counts)
    top = np.repeat(class_id[place], counts[counts > 0])
    other = np.delete(np.arange(len(class_id)), place)
    return top[other], class_id[other]


def _sorted_row(
    guess: Integer[np.ndarray, " p"],
    expected: Float64[np.ndarray, " p"],
    name: Integer[np.ndarray, " seen"],
    times: Integer[np.ndarray, " seen"],
) -> Integer[np.ndarray, " p"]:
    """Return a row of the guess, sorted by what was expected and what was seen; of equal classes, the nearer first."""
    prefix = len(guess)
    far = name >= prefix
    score = expected.copy()
    score[name[~far]] += times[~far]
    candidates = np.concatenate([guess, (name[far] - prefix).astype(guess.dtype)])
    score = np.concatenate([score, times[far]])
    return candidates[np.argsort(-score, kind="stable")[:prefix]]


def _by_cosine(head: Float[Tensor, "c d"]) -> Integer[np.ndarray, "c p"]:
    classes = len(head)
    rows = torch.nn.functional.normalize(head.float(), dim=1)
    parts = []
    for start in range(0, classes, _SLICE):
        alike = (rows[start : start + _SLICE] @ rows.T).numpy()
        alike[np.arange(len(alike)), np.arange(start, start + len(alike))] = -np.inf
        parts.append(_largest(alike, prefix_of(classes)))
    return np.concatenate(parts).astype(class_dtype(classes))


def _largest(values: Float[np.ndarray, "r c"], count: int) -> Integer[np.ndarray, "r p"]:
    """Return the places of the largest values of each row, the largest first, of equal ones the first first."""
    if count == 0:
        return np.empty((len(values), 0), np.int64)
    places = np.sort(np.argpartition(-values, count - 1, axis=1)[:, :count], axis=1)
    ranked = np.argsort(-np.take_along_axis(values, places, 1), axis=1, kind="stable")
    return np.take_along_axis(places, ranked, 1)


def _by_frequency(calibration: TopKTargets) -> Integer[np.ndarray, "c p"]:
    classes = calibration.num_classes
    often = np.bincount(calibration.class_id.numpy(), minlength=classes)
    ranked = np.argsort(-often, kind="stable")[: prefix_of(classes) + 1]
    rows = np.broadcast_to(ranked, (classes, len(ranked)))
    others = rows != np.arange(classes)[:, None]
    others[others.all(1), -1] = False  # a class that is not among them leaves out the last instead of itself
    return rows[others].reshape(classes, len(ranked) - 1).astype(class_dtype(classes))

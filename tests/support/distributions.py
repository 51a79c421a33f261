"""Two-sample tests, at the 0.01 % level: fixed seeds and large samples make them certain."""

import numpy as np


def differ(ours, theirs):
    """Whether two samples of numbers have different distributions: Kolmogorov-Smirnov (cautious where values tie)."""
    n, m = len(ours), len(theirs)
    if min(n, m) == 0:
        return n != m
    ours, theirs = np.sort(np.asarray(ours, np.float64)), np.sort(np.asarray(theirs, np.float64))
    grid = np.concatenate([ours, theirs])
    gap = np.searchsorted(ours, grid, "right") / n - np.searchsorted(theirs, grid, "right") / m
    return np.abs(gap).max() > 2.226 * np.sqrt((n + m) / (n * m))


def counts_differ(ours, theirs):
    """Whether two samples of whole numbers have different frequencies: chi-square, rare numbers taken together."""
    ours, theirs = np.asarray(ours).ravel(), np.asarray(theirs).ravel()
    values, place = np.unique(np.concatenate([ours, theirs]), return_inverse=True)
    counted = np.stack([np.bincount(part, minlength=len(values)) for part in (place[: len(ours)], place[len(ours) :])])
    rare = counted.sum(axis=0) < 20
    counted = np.concatenate([counted[:, ~rare], counted[:, rare].sum(axis=1, keepdims=True)], axis=1)
    a, b = counted[:, counted.sum(axis=0) > 0]
    if len(a) == 1:
        return False
    statistic = ((a * np.sqrt(len(theirs) / len(ours)) - b * np.sqrt(len(ours) / len(theirs))) ** 2 / (a + b)).sum()
    free = len(a) - 1
    # Wilson and Hilferty's approximation to the quantile of chi-square.
    return statistic > free * (1 - 2 / (9 * free) + 3.719 * np.sqrt(2 / (9 * free))) ** 3

"""Plans of many rows, for tests of what a plan draws."""

import dataclasses

import numpy as np

from kdcache.views.plan import Plan, make_plan


def plan_of(policy, count, seed=0, view=0, height=375, width=500, first=0):
    """The plan of `count` made-up samples, all of one size."""
    keys = np.arange(first, first + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    sizes = np.full(count, height, np.int64), np.full(count, width, np.int64)
    return make_plan(policy, seed, view, keys, *sizes)


def fields(plan):
    """The arrays of a plan, a number for all rows as one of each row; what is None is left out."""
    values = {field.name: getattr(plan, field.name) for field in dataclasses.fields(Plan)}
    return {
        name: value if isinstance(value, np.ndarray) else np.full(len(plan), value)
        for name, value in values.items()
        if value is not None
    }

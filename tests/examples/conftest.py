"""The examples learn from photographs: pieces of four of them, labelled with the one that they are of."""

from types import SimpleNamespace

import numpy as np
import pytest

from kdcache.dumping.dump import dump
from support.images import PHOTOGRAPHS, encode, photograph
from support.shards import Sample, write_set
from support.small_job import SAMPLES, dump_request, make_policy, make_teacher

VIEWS = 4


def pieces(count: int) -> list[Sample]:
    """JPEGs of 44 x 36 pixels, each a piece of a photograph."""
    samples, random = [], np.random.default_rng(5)
    for number in range(count):
        label = number % len(PHOTOGRAPHS)
        whole = photograph(PHOTOGRAPHS[label])
        height = int(random.integers(60, 200))
        width = height * 44 // 36
        left, top = int(random.integers(whole.width - width)), int(random.integers(whole.height - height))
        piece = whole.resize((44, 36), box=(left, top, left + width, top + height))
        samples.append(Sample(f"{PHOTOGRAPHS[label]}-{number:03d}", "jpg", encode(piece, "JPEG", quality=90), label))
    return samples


@pytest.fixture(scope="session")
def job(tmp_path_factory):
    """In the place of the tests' job: the same teacher over photographs, in four views."""
    root = tmp_path_factory.mktemp("photographs")
    data = str(write_set(root / "data", pieces(SAMPLES), shards=3))
    weights, policy = make_teacher(root / "teacher"), make_policy(root / "policy.json")
    dump(dump_request(data, root / "cache", weights, policy, views=VIEWS))
    return SimpleNamespace(data=data, weights=weights, policy=policy, cache=root / "cache")

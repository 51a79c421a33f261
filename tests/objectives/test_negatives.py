import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.errors import UsageError
from kdcache.objectives.negatives import Negatives


def drawn(labels, samples, count, seed=0):
    random = torch.Generator().manual_seed(seed)
    return Negatives(torch.tensor(labels)).draw(torch.tensor(samples), count, random)


@settings(max_examples=50)
@given(st.lists(st.integers(-1, 4), min_size=2, max_size=12).filter(lambda labels: len({*labels}) > 1 or -1 in labels))
def test_they_are_all_samples_of_other_classes_and_no_other(labels):
    samples = list(range(len(labels)))
    found = drawn(labels, samples, 400)
    for sample, others in enumerate(found.tolist()):
        own = labels[sample]
        assert {*others} == {other for other in samples if other != sample and (own < 0 or labels[other] != own)}


def test_they_are_drawn_evenly():
    labels = [0, 1, 2, 1, 0, 0, -1, 2]
    count = 60_000
    shares = torch.bincount(drawn(labels, [0], count)[0], minlength=8) / count
    torch.testing.assert_close(shares, torch.tensor([0, 1, 1, 1, 0, 0, 1, 1]) / 5, rtol=0, atol=0.01)


def test_the_generator_alone_decides():
    assert torch.equal(drawn([0, 1, 2, 0], [3, 1], 9, seed=5), drawn([0, 1, 2, 0], [3, 1], 9, seed=5))
    assert not torch.equal(drawn([0, 1, 2, 0], [3, 1], 9, seed=5), drawn([0, 1, 2, 0], [3, 1], 9, seed=6))


@pytest.mark.parametrize("labels", [[3, 3, 3], [0], [-1]])
def test_one_class_alone_is_refused(labels):
    with pytest.raises(UsageError, match="one class"):
        Negatives(torch.tensor(labels))

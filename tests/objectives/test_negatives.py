import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.errors import UsageError
from kdcache.objectives.negatives import Negatives, split_mix


def drawn(labels, samples, count, seed=0):
    return Negatives(torch.tensor(labels), seed)(torch.tensor(samples), count)


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


def test_numbers_are_those_of_split_mix():
    """Seed 0, as Vigna's reference code and Java's SplittableRandom give it."""
    words = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC, 0x1B39896A51A8749B]
    expected = torch.tensor([(word >> 11) / 2**53 for word in words], dtype=torch.float64)
    assert torch.equal(split_mix(torch.tensor(0), torch.arange(5)), expected)
    assert torch.equal(split_mix(torch.tensor(0), torch.tensor([3, 1])), expected[[3, 1]])
    words = [0x599ED017FB08FC85, 0x2C73F08458540FA5, 0x883EBCE5A3F27C77]
    expected = torch.tensor([(word >> 11) / 2**53 for word in words], dtype=torch.float64)
    assert torch.equal(split_mix(torch.tensor(1234567), torch.arange(3)), expected)


def test_draws_follow_each_other_and_go_on_from_the_state():
    labels, samples = torch.tensor([0, 1, 2, 0, 1]), torch.arange(5)
    whole = Negatives(labels, 3)
    first, second = whole(samples, 40), whole(samples, 40)
    assert not torch.equal(first, second)
    stopped, resumed = Negatives(labels, 3), Negatives(labels, 9)
    stopped(samples, 40)
    resumed.load_state_dict(stopped.state_dict())
    assert torch.equal(resumed(samples, 40), second)
    assert {*stopped.state_dict()} == {"seed", "drawn"}, "tables are made again from the labels"


def test_ranks_draw_what_one_process_draws(monkeypatch):
    labels, samples = torch.tensor([0, 1, 2, 0, 1, 3]), torch.tensor([5, 0, 3, 2])
    alone = Negatives(labels, 4)
    expected = [alone(samples, 7), alone(samples, 7)]
    for rank in (0, 1):
        monkeypatch.setattr("kdcache.objectives.negatives.place_among_ranks", lambda rank=rank: (rank, 2))
        share, ours = slice(2 * rank, 2 * rank + 2), Negatives(labels, 4)
        for batch in expected:
            assert torch.equal(ours(samples[share], 7), batch[share])


def test_the_seed_alone_decides():
    assert torch.equal(drawn([0, 1, 2, 0], [3, 1], 9, seed=5), drawn([0, 1, 2, 0], [3, 1], 9, seed=5))
    assert not torch.equal(drawn([0, 1, 2, 0], [3, 1], 9, seed=5), drawn([0, 1, 2, 0], [3, 1], 9, seed=6))


@pytest.mark.parametrize("labels", [[3, 3, 3], [0], [-1]])
def test_one_class_alone_is_refused(labels):
    with pytest.raises(UsageError, match="one class"):
        Negatives(torch.tensor(labels), 0)

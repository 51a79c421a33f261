"""The memory of self-distillation: what was said of a sample a round ago, and nothing else."""

import errno
import os

import pytest
import torch

from kdcache.errors import RunError
from kdcache.training.prediction_history import Past

SAMPLES, CLASSES = 6, 3


@pytest.fixture
def warned():
    return []


@pytest.fixture
def past_of(tmp_path, warned):
    def make(repeats=1, first=True, samples=SAMPLES):
        return Past(
            tmp_path / "past",
            samples=samples,
            num_classes=CLASSES,
            epochs_per_round=repeats,
            first=first,
            warn=warned.append,
        )

    return make


def logits(seed, rows=4):
    return torch.randn(rows, CLASSES, generator=torch.Generator().manual_seed(seed)) * 3


WHO = torch.tensor([4, 0, 3, 5])
ALONE = torch.ones(4)


def files(tmp_path):
    return sorted(path.name for path in (tmp_path / "past").iterdir())


def test_nothing_was_said_before_the_first_round(past_of, warned):
    assert torch.equal(past_of().recall(0, WHO, ALONE), torch.zeros(4, CLASSES))
    assert not warned


def test_a_disk_that_takes_a_part_at_a_time_gets_the_whole(past_of, monkeypatch):
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, start: write(file, data[:5], start))
    past = past_of()
    past.remember(0, WHO, logits(0))
    torch.testing.assert_close(past.recall(1, WHO, ALONE), logits(0).softmax(1), rtol=1e-3, atol=1e-6)


def test_a_round_recalls_what_the_one_before_said_and_not_its_own(past_of, warned):
    past = past_of()
    past.remember(0, WHO, logits(0))
    past.remember(1, WHO, logits(1))
    said = past.recall(1, WHO, ALONE)
    torch.testing.assert_close(said, logits(0).softmax(1), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(said.sum(1), torch.ones(4))
    torch.testing.assert_close(past.recall(2, WHO, ALONE), logits(1).softmax(1), rtol=1e-3, atol=1e-6)
    assert not warned


def test_a_sample_is_known_by_its_place_in_the_index(past_of):
    past = past_of()
    past.remember(0, WHO, logits(0))
    said = past.recall(1, torch.tensor([5, 1, 4, 2]), ALONE)
    torch.testing.assert_close(said[[0, 2]], logits(0).softmax(1)[[3, 0]], rtol=1e-3, atol=1e-6)
    assert torch.equal(said[[1, 3]], torch.zeros(2, CLASSES)), "samples that were not seen"


def test_the_past_of_a_mixed_picture_is_mixed_with_its_partners(past_of):
    past = past_of()
    past.remember(0, WHO, logits(0))
    own = past.recall(1, WHO, ALONE)
    weight = torch.tensor([0.7, 0.7, 1.0, 1.0])
    mixed = past.recall(1, WHO, weight)
    torch.testing.assert_close(mixed[0], 0.7 * own[0] + 0.3 * own[1])
    torch.testing.assert_close(mixed[1], 0.7 * own[1] + 0.3 * own[0])
    assert torch.equal(mixed[2:], own[2:])
    half = past.recall(1, torch.tensor([4, 1]), torch.tensor([0.75, 0.75]))
    torch.testing.assert_close(half.sum(1), torch.tensor([0.75, 0.25]))


def test_a_round_is_as_many_epochs_as_a_view_has_repeats(past_of):
    past = past_of(repeats=3)
    past.remember(0, WHO[:2], logits(0, 2))
    past.remember(2, WHO[2:], logits(1, 2))
    assert torch.equal(past.recall(2, WHO, ALONE), torch.zeros(4, CLASSES))
    for epoch in (3, 4, 5):
        said = past.recall(epoch, WHO, ALONE)
        expected = torch.cat([logits(0, 2), logits(1, 2)]).softmax(1)
        torch.testing.assert_close(said, expected, rtol=1e-3, atol=1e-6)


def test_two_files_are_kept_and_what_a_checkpoint_resumes_from(past_of, tmp_path):
    past = past_of()
    for epoch in range(4):
        past.remember(epoch, WHO, logits(epoch))
    assert files(tmp_path) == ["round-00000002.f16", "round-00000003.f16"]
    assert sum(path.stat().st_size for path in (tmp_path / "past").iterdir()) == 2 * SAMPLES * CLASSES * 2
    past.secure(4)  # a checkpoint at the end of epoch 3
    for epoch in range(4, 9):
        past.remember(epoch, WHO, logits(epoch))
    kept = {"round-00000003.f16", "round-00000004.f16", "round-00000007.f16", "round-00000008.f16"}
    assert set(files(tmp_path)) == kept
    resumed = past_of().recall(4, WHO, ALONE)
    torch.testing.assert_close(resumed, logits(3).softmax(1), rtol=1e-3, atol=1e-6)


def test_a_run_that_resumes_in_mid_round_finds_both_halves(past_of):
    past = past_of()
    past.remember(0, WHO, logits(0))
    past.remember(1, WHO[:2], logits(1, 2))
    past.secure(1)
    resumed = past_of()
    torch.testing.assert_close(resumed.recall(1, WHO, ALONE), logits(0).softmax(1), rtol=1e-3, atol=1e-6)
    resumed.remember(1, WHO[2:], logits(2, 2))
    expected = torch.cat([logits(1, 2), logits(2, 2)]).softmax(1)
    torch.testing.assert_close(resumed.recall(2, WHO, ALONE), expected, rtol=1e-3, atol=1e-6)


def test_processes_share_it(past_of, tmp_path):
    one, other = past_of(), past_of(first=False)
    one.remember(0, WHO[:2], logits(0, 2))
    other.remember(0, WHO[2:], logits(1, 2))
    expected = torch.cat([logits(0, 2), logits(1, 2)]).softmax(1)
    for past in (one, other):
        torch.testing.assert_close(past.recall(1, WHO, ALONE), expected, rtol=1e-3, atol=1e-6)
    other.recall(2, WHO, ALONE)
    assert "round-00000000.f16" in files(tmp_path), "the first removes for all"


def test_a_past_that_is_gone_is_told_and_done_without(past_of, tmp_path, warned):
    past_of().remember(6, WHO, logits(0))
    os.remove(tmp_path / "past" / "round-00000006.f16")
    warned.clear()
    assert torch.equal(past_of().recall(7, WHO, ALONE), torch.zeros(4, CLASSES))
    (said,) = warned
    assert "round 6 is gone" in said


def test_a_file_of_another_data_set_is_refused(past_of):
    past_of().remember(0, WHO, logits(0))
    with pytest.raises(RunError, match="--fresh"):
        past_of(samples=7).recall(1, WHO, ALONE)


def test_a_full_disk_is_an_error_and_no_crash(past_of, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RunError, match="make room"):
        past_of().remember(0, WHO, logits(0))


def test_certainty_survives_half_precision(past_of):
    past = past_of()
    certain = torch.tensor([[300.0, -300.0, 0.0]])
    past.remember(0, WHO[:1], certain)
    assert past.recall(1, WHO[:1], torch.ones(1)).tolist() == [[1.0, 0.0, 0.0]]

"""The memory of self-distillation: what was said of a sample a round ago, and nothing else."""

import errno
import os

import pytest
import torch

from kdcache.errors import RunError
from kdcache.training.prediction_history import PredictionHistory

SAMPLES, CLASSES = 6, 3


@pytest.fixture
def warned():
    return []


@pytest.fixture
def history_of(tmp_path, warned):
    def make(repeats=1, is_main=True, samples=SAMPLES):
        return PredictionHistory(
            tmp_path / "past",
            samples=samples,
            num_classes=CLASSES,
            epochs_per_round=repeats,
            is_main=is_main,
            warn=warned.append,
        )

    return make


def logits(seed, rows=4):
    return torch.randn(rows, CLASSES, generator=torch.Generator().manual_seed(seed)) * 3


WHO = torch.tensor([4, 0, 3, 5])
ALONE = torch.ones(4)


def files(tmp_path):
    return sorted(path.name for path in (tmp_path / "past").iterdir())


def test_nothing_was_said_before_the_first_round(history_of, warned):
    assert torch.equal(history_of().read(0, WHO, ALONE), torch.zeros(4, CLASSES))
    assert not warned


def test_a_disk_that_takes_a_part_at_a_time_gets_the_whole(history_of, monkeypatch):
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, start: write(file, data[:5], start))
    history = history_of()
    history.write(0, WHO, logits(0))
    torch.testing.assert_close(history.read(1, WHO, ALONE), logits(0).softmax(1), rtol=1e-3, atol=1e-6)


def test_a_round_recalls_what_the_one_before_said_and_not_its_own(history_of, warned):
    history = history_of()
    history.write(0, WHO, logits(0))
    history.write(1, WHO, logits(1))
    said = history.read(1, WHO, ALONE)
    torch.testing.assert_close(said, logits(0).softmax(1), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(said.sum(1), torch.ones(4))
    torch.testing.assert_close(history.read(2, WHO, ALONE), logits(1).softmax(1), rtol=1e-3, atol=1e-6)
    assert not warned


def test_a_sample_is_known_by_its_place_in_the_index(history_of):
    history = history_of()
    history.write(0, WHO, logits(0))
    said = history.read(1, torch.tensor([5, 1, 4, 2]), ALONE)
    torch.testing.assert_close(said[[0, 2]], logits(0).softmax(1)[[3, 0]], rtol=1e-3, atol=1e-6)
    assert torch.equal(said[[1, 3]], torch.zeros(2, CLASSES)), "samples that were not seen"


def test_the_past_of_a_mixed_picture_is_mixed_with_its_partners(history_of):
    history = history_of()
    history.write(0, WHO, logits(0))
    own = history.read(1, WHO, ALONE)
    weight = torch.tensor([0.7, 0.7, 1.0, 1.0])
    mixed = history.read(1, WHO, weight)
    torch.testing.assert_close(mixed[0], 0.7 * own[0] + 0.3 * own[1])
    torch.testing.assert_close(mixed[1], 0.7 * own[1] + 0.3 * own[0])
    assert torch.equal(mixed[2:], own[2:])
    half = history.read(1, torch.tensor([4, 1]), torch.tensor([0.75, 0.75]))
    torch.testing.assert_close(half.sum(1), torch.tensor([0.75, 0.25]))


def test_a_round_is_as_many_epochs_as_a_view_has_repeats(history_of):
    history = history_of(repeats=3)
    history.write(0, WHO[:2], logits(0, 2))
    history.write(2, WHO[2:], logits(1, 2))
    assert torch.equal(history.read(2, WHO, ALONE), torch.zeros(4, CLASSES))
    for epoch in (3, 4, 5):
        said = history.read(epoch, WHO, ALONE)
        expected = torch.cat([logits(0, 2), logits(1, 2)]).softmax(1)
        torch.testing.assert_close(said, expected, rtol=1e-3, atol=1e-6)


def test_two_files_are_kept_and_what_a_checkpoint_resumes_from(history_of, tmp_path):
    history = history_of()
    for epoch in range(4):
        history.write(epoch, WHO, logits(epoch))
    assert files(tmp_path) == ["round-00000002.f16", "round-00000003.f16"]
    assert sum(path.stat().st_size for path in (tmp_path / "past").iterdir()) == 2 * SAMPLES * CLASSES * 2
    history.flush(4)  # a checkpoint at the end of epoch 3
    for epoch in range(4, 9):
        history.write(epoch, WHO, logits(epoch))
    kept = {"round-00000003.f16", "round-00000004.f16", "round-00000007.f16", "round-00000008.f16"}
    assert set(files(tmp_path)) == kept
    resumed = history_of().read(4, WHO, ALONE)
    torch.testing.assert_close(resumed, logits(3).softmax(1), rtol=1e-3, atol=1e-6)


def test_a_run_that_resumes_in_mid_round_finds_both_halves(history_of):
    history = history_of()
    history.write(0, WHO, logits(0))
    history.write(1, WHO[:2], logits(1, 2))
    history.flush(1)
    resumed = history_of()
    torch.testing.assert_close(resumed.read(1, WHO, ALONE), logits(0).softmax(1), rtol=1e-3, atol=1e-6)
    resumed.write(1, WHO[2:], logits(2, 2))
    expected = torch.cat([logits(1, 2), logits(2, 2)]).softmax(1)
    torch.testing.assert_close(resumed.read(2, WHO, ALONE), expected, rtol=1e-3, atol=1e-6)


def test_processes_share_it(history_of, tmp_path):
    one, other = history_of(), history_of(is_main=False)
    one.write(0, WHO[:2], logits(0, 2))
    other.write(0, WHO[2:], logits(1, 2))
    expected = torch.cat([logits(0, 2), logits(1, 2)]).softmax(1)
    for history in (one, other):
        torch.testing.assert_close(history.read(1, WHO, ALONE), expected, rtol=1e-3, atol=1e-6)
    other.read(2, WHO, ALONE)
    assert "round-00000000.f16" in files(tmp_path), "the first removes for all"


def test_a_past_that_is_gone_is_told_and_done_without(history_of, tmp_path, warned):
    history_of().write(6, WHO, logits(0))
    os.remove(tmp_path / "past" / "round-00000006.f16")
    warned.clear()
    assert torch.equal(history_of().read(7, WHO, ALONE), torch.zeros(4, CLASSES))
    (said,) = warned
    assert "round 6 is gone" in said


def test_a_file_of_another_data_set_is_refused(history_of):
    history_of().write(0, WHO, logits(0))
    with pytest.raises(RunError, match="--fresh"):
        history_of(samples=7).read(1, WHO, ALONE)


def test_a_full_disk_is_an_error_and_no_crash(history_of, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RunError, match="make room"):
        history_of().write(0, WHO, logits(0))


def test_certainty_survives_half_precision(history_of):
    history = history_of()
    certain = torch.tensor([[300.0, -300.0, 0.0]])
    history.write(0, WHO[:1], certain)
    assert history.read(1, WHO[:1], torch.ones(1)).tolist() == [[1.0, 0.0, 0.0]]

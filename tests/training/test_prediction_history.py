"""The memory of self-distillation: what was said of a sample a round ago, and nothing else."""

import errno
import mmap
import os
import threading

import pytest
import torch

from kdcache.errors import RunError
from kdcache.runtime.transfer import HostCopies
from kdcache.training import prediction_history
from kdcache.training.prediction_history import _MAX_UNWRITTEN, PredictionHistory

SAMPLES, CLASSES = 6, 3
LIMIT = 60  # seconds; a guard against hanging


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
    one.flush(0), other.flush(0)  # as before the barrier of a round
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


class Device:
    """A device whose results are on the host when `come` is set."""

    def __init__(self):
        self.come, self.copied, self.asked = threading.Event(), threading.Semaphore(0), 0

    def copy_to_host(self, tensors):
        self.asked += 1
        self.copied.release()
        return HostCopies(tuple(tensors), self)

    def synchronize(self):
        assert self.come.wait(LIMIT)


@pytest.fixture
def device(monkeypatch):
    one = Device()
    monkeypatch.setattr(prediction_history, "copy_to_host", one.copy_to_host)
    return one


def test_nobody_waits_for_the_device_but_the_thread_that_writes(history_of, device):
    history = history_of()
    history.write(0, WHO, logits(0))
    device.come.set()
    history.flush(0)
    torch.testing.assert_close(history_of().read(1, WHO, ALONE), logits(0).softmax(1), rtol=1e-3, atol=1e-6)


def test_a_few_batches_may_wait_to_be_written_and_no_more(history_of, device):
    asked = []

    def synchronize():
        for _ in range(_MAX_UNWRITTEN + 1):
            assert device.copied.acquire(timeout=LIMIT)
        asked.append(device.asked)
        assert not device.copied.acquire(timeout=0.5), "one more was begun while none was written"
        device.synchronize = lambda: None

    device.synchronize = synchronize
    history = history_of()
    for step in range(3 * _MAX_UNWRITTEN):
        history.write(0, WHO, logits(step))
    assert asked == [_MAX_UNWRITTEN + 1]
    torch.testing.assert_close(history.read(1, WHO, ALONE), logits(step).softmax(1), rtol=1e-3, atol=1e-6)


def test_a_batch_is_written_though_its_history_is_gone(history_of, device):
    """Its file stays open until then: its number may be that of another file afterwards."""
    history = history_of()
    history.write(0, WHO, logits(0))
    pending = history._unwritten[0]
    del history
    device.come.set()
    pending.result(LIMIT)
    torch.testing.assert_close(history_of().read(1, WHO, ALONE), logits(0).softmax(1), rtol=1e-3, atol=1e-6)


def test_a_disk_that_is_full_in_mid_round_is_an_error_by_the_next_checkpoint(history_of, device, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    history = history_of()
    history.write(0, WHO, logits(0))
    device.come.set()
    with pytest.raises(RunError, match="make room"):
        history.flush(0)


def test_neighbours_are_written_at_once_and_of_a_sample_the_last_row_stays(history_of, monkeypatch):
    write, written = os.pwrite, []

    def noted(file, data, start):
        written.append((start, len(data)))
        return write(file, data, start)

    monkeypatch.setattr(os, "pwrite", noted)
    history = history_of()
    history.write(0, torch.tensor([5, 0, 4, 3]), logits(0))
    history.flush(0)
    row = CLASSES * 2
    assert written == [(0, row), (3 * row, 3 * row)]
    history.write(0, torch.tensor([1, 2, 1, 0]), logits(1))
    expected = logits(1).softmax(1)[[3, 2, 1]]
    torch.testing.assert_close(history.read(1, torch.tensor([0, 1, 2]), ALONE[:3]), expected, rtol=1e-3, atol=1e-6)


def test_the_disk_is_asked_for_all_rows_of_a_batch_before_one_is_read(tmp_path, monkeypatch):
    samples, classes, asked = 64, 3000, []

    class Map(mmap.mmap):
        def madvise(self, option, start, length):
            assert option == mmap.MADV_WILLNEED
            asked.append((start, start + length))
            return super().madvise(option, start, length)

    monkeypatch.setattr(mmap, "mmap", Map)
    history = PredictionHistory(
        tmp_path / "past", samples=samples, num_classes=classes, epochs_per_round=1, is_main=True, warn=print
    )
    whole = torch.randn(samples, classes, generator=torch.Generator().manual_seed(0))
    history.write(0, torch.arange(samples), whole)
    wanted = torch.tensor([7, 8, 63, 0, 40, 7])
    found = history.read(1, wanted, torch.ones(len(wanted)))
    torch.testing.assert_close(found, whole.softmax(1)[wanted], rtol=1e-3, atol=1e-6)
    bytes_of = 2 * classes
    for sample in wanted.tolist():
        begin, end = sample * bytes_of, (sample + 1) * bytes_of
        assert any(start <= begin and end <= stop for start, stop in asked), f"sample {sample} was not asked for"
    assert len(asked) == 4, "7 and 8 are neighbours"
    assert sum(stop - start for start, stop in asked) < 5 * bytes_of + 4 * mmap.PAGESIZE


def test_rows_that_are_not_mixed_are_the_same_to_the_bit_beside_mixed_ones(history_of):
    history = history_of()
    history.write(0, WHO, logits(0))
    alone = history.read(1, WHO, ALONE)
    kept = logits(0).softmax(1).half().float()
    assert torch.equal(alone, kept / kept.sum(dim=1, keepdim=True))
    assert torch.equal(history.read(1, WHO[:3], ALONE[:3]), alone[:3])

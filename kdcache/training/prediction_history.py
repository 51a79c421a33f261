"""A student's predictions of each sample a round ago, in half precision: the memory of self-distillation.

past/round-00000007.f16    probabilities [samples, classes] in the 7th round; a row of zeros for a sample not seen

A round is as many epochs as a view has repeats: in it each sample is seen, but for a last partial batch. One file is
written while that of the round before is read. Unlike views and targets, what they hold depends on the student, and
nothing promises that it is the same elsewhere; a run that resumes from its latest checkpoint finds in them what it
would have found.

Rows are written by position, neighbours at once, and not through a map of the file: where nodes share a folder, a page
of a map would carry back the rows of others as they were.

Neither reading nor writing waits for the device. A batch that is written is copied to the host behind the step, and a
thread writes it when it is there; a batch that is read is asked of the disk as a whole, and goes to the device.
"""

import mmap
import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float16, Float32, Int64
from torch import Tensor

from kdcache.errors import RunError
from kdcache.io.disk import Disk, make_folder
from kdcache.io.failures import cannot_write
from kdcache.io.folders import Folder
from kdcache.io.reading import open_regular
from kdcache.runtime.transfer import HostCopies, copy_to_host, to_device

#: Batches that may wait to be written. Where the disk takes longer for one than a step does, the training waits for it.
_MAX_UNWRITTEN = 4

_NAME = re.compile(r"round--?\d+\.f16")


class PredictionHistory:
    """Reads one round's predictions and writes the next's. Every process has one, on the same folder."""

    def __init__(
        self,
        folder: Path,
        *,
        samples: int,
        num_classes: int,
        epochs_per_round: int,
        is_main: bool,
        warn: Callable[[str], None],
        barrier: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            folder: `past` in the run's folder; made with the first round.
            samples: number of samples of the data set.
            epochs_per_round: number of epochs that see the same views, the repeats of the policy.
            is_main: whether this process removes files for all.
            warn: is told when a round's predictions are gone.
            barrier: returns when every process has called it: so nobody reads a round before all have written it.
        """
        self.folder = folder
        self._shape = (samples, num_classes)
        self._epochs_per_round = epochs_per_round
        self._is_main = is_main
        self._warn = warn
        self._round = -1
        self._reads: _Rows | None = None
        self._barrier = barrier
        self._writes: FileIO | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="kdcache-history")
        self._unwritten: deque[Future[None]] = deque()
        self._pinned: set[int] = set()

    def read(self, epoch: int, samples: Int64[Tensor, "b"], weight: Float[Tensor, "b"]) -> Float32[Tensor, "b c"]:
        """Return the predictions of the round before, mixed as the rows are; zeros for a sample that was not seen.

        Args:
            epoch: the running one.
            samples: positions in the index, on the host; rows 2j and 2j+1 are each other's partners.
            weight: each row's own share.

        Returns:
            probabilities, on the device of `weight`, for which the host does not wait.

        Raises:
            RunError: the files cannot be read or written, or are of another data set.
        """
        self._turn_to(epoch)
        if self._reads is None:
            return weight.new_zeros(len(samples), self._shape[1], dtype=torch.float32)
        own = to_device(torch.from_numpy(self._reads.read(samples.numpy())), weight.device).float()
        own /= own.sum(dim=1, keepdim=True).clamp(min=0.5)  # halves do not sum to 1 quite; zeros stay
        share = weight[:, None].float()
        partner = (torch.arange(len(own), device=own.device) ^ 1).clamp(max=len(own) - 1)  # a last row alone is its own
        # A row that is not mixed stays as it is to the bit: to look whether one is, the host would have to wait.
        return share * own + (1 - share) * own[partner]

    def write(self, epoch: int, samples: Int64[Tensor, "b"], logits: Float[Tensor, "b c"]) -> None:
        """Write the predictions of the current step, which the next round reads, in a thread.

        Args:
            epoch: the running one.
            samples: positions in the index, on the host.
            logits: outputs of the student for them, on any device, for which the host does not wait.

        Raises:
            RunError: these or earlier predictions cannot be written.
        """
        self._turn_to(epoch)
        assert self._writes is not None
        copies = copy_to_host([logits.detach().float().softmax(dim=1).half()])
        # The thread is given the file itself, which so stays open until the batch is written, whatever becomes of this.
        self._unwritten.append(self._writer.submit(_write_batch, self._writes, samples.numpy().copy(), copies))
        self._wait_for_writes(_MAX_UNWRITTEN)

    def _wait_for_writes(self, remaining: int) -> None:
        """Wait until at most so many batches are yet to be written. Raises RunError where one cannot be written."""
        try:
            while self._unwritten and (len(self._unwritten) > remaining or self._unwritten[0].done()):
                self._unwritten.popleft().result()
        except OSError as error:
            raise self._unkept(error) from error

    def flush(self, epoch: int) -> None:
        """Before a checkpoint: what a run that resumes in `epoch` reads is on disk, and stays until the next call.

        Raises:
            RunError: it cannot be written.
        """
        self._wait_for_writes(0)
        try:
            if self._writes is not None:
                os.fsync(self._writes.fileno())
        except OSError as error:
            raise self._unkept(error) from error
        running = epoch // self._epochs_per_round
        self._pinned = {running - 1, running}

    def _turn_to(self, epoch: int) -> None:
        running = epoch // self._epochs_per_round
        if running == self._round:
            return
        self._wait_for_writes(0)
        try:
            if self._writes is not None:
                os.fsync(self._writes.fileno())
                self._writes.close()
            with make_folder(self.folder.parent, self.folder.name) as folder:
                self._writes = FileIO(Disk().open(folder.at(_name(running))), "r+")
                # Reserved, so that a disk that is too small is told before hours are spent.
                os.posix_fallocate(self._writes.fileno(), 0, self._bytes)
                self._require_whole(self._writes.fileno(), running)
                self._barrier()
                self._reads = self._open(folder, running - 1)
                if self._is_main:
                    self._remove_all_but(folder, {running - 1, running} | self._pinned)
        except OSError as error:
            raise self._unkept(error) from error
        self._round = running

    def _unkept(self, error: OSError) -> RunError:
        return RunError(
            f"{cannot_write(self.folder, error, 'What was saved before is whole')} The student's past predictions take "
            f"{3 * self._bytes / 1e9:.1f} GB there."
        )

    def _open(self, folder: Folder, number: int) -> "_Rows | None":
        """Open the file of a round for reading; None, with a warning, where it is not there."""
        try:
            file = open_regular(_name(number), folder=folder.descriptor, follow=False)
        except FileNotFoundError:
            if number >= 0:
                self._warn(
                    f"The file of the predictions of round {number} is gone: this round learns from labels alone."
                )
            return None
        with file:
            self._require_whole(file.fileno(), number)
            return _Rows(file.fileno(), self._shape)

    def _require_whole(self, file: int, number: int) -> None:
        if os.fstat(file).st_size != self._bytes:
            raise RunError(
                f"{self.folder / _name(number)} is not of {self._shape[0]:,} samples and {self._shape[1]:,} classes: "
                "begin anew with --fresh."
            )

    def _remove_all_but(self, folder: Folder, numbers: set[int]) -> None:
        keep = {_name(number) for number in numbers}
        for name in folder.names():
            if _NAME.fullmatch(name) and name not in keep:
                Disk().remove(folder.at(name))

    @property
    def _bytes(self) -> int:
        return self._shape[0] * self._shape[1] * 2


def _name(number: int) -> str:
    """Return the file of a round."""
    return f"round-{number:08d}.f16"


class _Rows:
    """The rows of a round's file, for reading."""

    def __init__(self, file: int, shape: tuple[int, int]) -> None:
        self._map = mmap.mmap(file, 0, access=mmap.ACCESS_READ)
        self._rows = np.frombuffer(self._map, np.float16).reshape(shape)

    def read(self, samples: Int64[np.ndarray, " b"]) -> Float16[np.ndarray, "b c"]:
        """Return the rows of these samples, which the disk is asked for together before the first is waited for."""
        size = self._rows.shape[1] * self._rows.itemsize
        for start, stop in _runs(np.unique(samples)):
            page = start * size // mmap.PAGESIZE * mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, page, stop * size - page)
        return self._rows[samples]


def _runs(samples: Int64[np.ndarray, " b"]) -> Iterator[tuple[int, int]]:
    """Yield first and last + 1 of each run of numbers that follow each other."""
    ends = np.flatnonzero(np.diff(samples) != 1) + 1
    for run in np.split(samples, ends) if len(samples) else ():
        yield int(run[0]), int(run[-1]) + 1


def _write_batch(file: FileIO, samples: Int64[np.ndarray, " b"], copies: HostCopies) -> None:
    """Write the rows of a batch once they are on the host; of a sample's rows the last stays.

    Raises:
        OSError: the disk does not take them.
    """
    (probs,) = copies.wait()
    order = np.argsort(samples, kind="stable")
    rows, place = probs.numpy()[order], 0
    size = rows.shape[1] * rows.itemsize
    for start, stop in _runs(samples[order]):
        _write(file.fileno(), rows[place : place + stop - start].tobytes(), start * size)
        place += stop - start


def _write(file: int, data: bytes, start: int) -> None:
    """Write all of the data from `start` on. Raises OSError where the disk does not take it."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(file, rest, start)
        rest, start = rest[written:], start + written

"""The teacher runs ahead of the writer: the device has the next batch before the host looks at the one before.

A dump has three stages behind one another, each in a thread of its own: views are rendered (`kdcache.views.stream`),
the teacher computes, and the main thread encodes, compresses and writes. Between them are bounded queues. The main
thread is the one that writes, so that errors, signals and the order of writes are those of a dump without threads.

A block is begun only when the one before is recorded. So a process that is killed loses the work of one block at most.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from kdcache.loader.teacher_views import teacher_labels
from kdcache.models.teachers import Teacher
from kdcache.runtime.transfer import HostCopies, copy_to_host
from kdcache.targets.base import TargetCodec, Targets, are_log_probs
from kdcache.targets.error import coded, divergence
from kdcache.views.stream import Views

#: Batches that the device has beside the one that is read next. One is enough where the host reads a batch in less time
#: than the device takes for one; where it takes longer, it is the host that limits the dump, however many are launched.
IN_FLIGHT = 1

T = TypeVar("T")
L = TypeVar("L")
R = TypeVar("R")


@dataclass(frozen=True)
class TeacherBatch:
    """The targets of b rows, with what the statistics of a dump need.

    Attributes:
        targets: targets of the b rows, not yet encoded.
        first: likeliest class of each row, on the host.
        label: label with the larger share of each row's image; -1 for none.
        loss: function that returns a codec's mean KL divergence, in nats, of the decoded targets from the teacher's
            output; None unless requested.
    """

    targets: Targets
    first: Int64[Tensor, "b"]
    label: Int64[np.ndarray, "b"]
    loss: Callable[[TargetCodec], float] | None = None


@dataclass(frozen=True, eq=False)
class LaunchedBatch:
    """A batch that the teacher's device has been given, whose output is on its way to the host.

    Attributes:
        copies: log-probabilities [b, c], whether they are sound, likeliest classes [b], and features [b, d] if the
            codec needs them.
        labels: labels that the targets are stored with.
        main_label: see `TeacherBatch.label`.
        measure: whether to set `TeacherBatch.loss`.
    """

    codec: TargetCodec
    copies: HostCopies
    labels: Int64[Tensor, "b 2"]
    main_label: Int64[np.ndarray, "b"]
    measure: bool

    def read(self) -> TeacherBatch:
        """Wait until the output is there, and return what the cache keeps of it.

        Raises:
            ModelError, UsageError: as `TargetCodec.select` does.
        """
        log_probs, is_sound, first, *rest = self.copies.wait()
        features = rest[0] if rest else None
        self.codec.check_outputs(log_probs, self.labels, is_sound)
        kept = self.codec.keep(log_probs, self.labels, features)
        return TeacherBatch(kept, first, self.main_label, self._loss(log_probs, features) if self.measure else None)

    def _loss(
        self, log_probs: Float[Tensor, "b c"], features: Float[Tensor, "b d"] | None
    ) -> Callable[[TargetCodec], float]:
        labels = self.labels

        def loss(codec: TargetCodec) -> float:
            return float(divergence(log_probs, coded(codec, log_probs, labels, features)).mean())

        return loss


def launch(
    teacher: Teacher, codec: TargetCodec, views: Views, label_space: str, *, measure: bool = False
) -> LaunchedBatch:
    """Give one batch of views to the teacher's device; the host does not wait for it.

    Args:
        teacher: teacher that computes the output.
        codec: codec that selects what is kept of the output.
        views: one batch of views.
        label_space: "teacher" where labels are the teacher's classes, "none" where they are others.
        measure: whether to set `TeacherBatch.loss`, for which the whole output stays in memory.
    """
    output = teacher.compute_output(views.pixels, features=codec.needs_features)
    is_sound: Bool[Tensor, ""] = are_log_probs(output.log_probs)
    found = [output.log_probs, is_sound, output.log_probs.argmax(dim=1)]
    if output.features is not None:
        found.append(output.features)
    labels = views.rows.labels
    main = np.where(views.rows.weight >= 0.5, labels[:, 0], labels[:, 1])
    return LaunchedBatch(codec, copy_to_host(found), teacher_labels(views, label_space), main, measure)


def launch_ahead(
    items: Iterable[T],
    launch: Callable[[T], L],
    read: Callable[[L], R],
    *,
    begins_block: Callable[[T], bool] = lambda item: False,
    wait_for_turn: Callable[[], bool] = lambda: True,
) -> Generator[R, None, None]:
    """Yield what is read of each item, in order; the item `IN_FLIGHT` places later is launched before one is read.

    Args:
        items: what is launched.
        launch, read: the two halves of the work on an item.
        begins_block: whether an item is the first of a block.
        wait_for_turn: function that is called before such an item is launched, when all before it have been yielded;
            it returns False if no other block may begin, which ends the generator.
    """
    launched: deque[L] = deque()
    for item in items:
        if begins_block(item):
            while launched:
                yield read(launched.popleft())
            if not wait_for_turn():
                return
        launched.append(launch(item))
        if len(launched) > IN_FLIGHT:
            yield read(launched.popleft())
    while launched:
        yield read(launched.popleft())


class BlockTurns:
    """Lets the teacher begin a block when the one before is finished.

    may_begin: whether a block may begin now; False where one is in work already.
    """

    def __init__(self, may_begin: bool) -> None:
        self._permits = threading.Semaphore(int(may_begin))
        self._closed = False

    def wait(self) -> bool:
        """Wait until a block may begin; return False after `close`."""
        self._permits.acquire()
        return not self._closed

    def finished(self) -> None:
        """Let the next block begin: the one in work is recorded, by this process or another."""
        self._permits.release()

    def close(self) -> None:
        """Let no other block begin, and end the wait."""
        self._closed = True
        self._permits.release()


def queue_depth(codec: TargetCodec, block_rows: int, batch_size: int) -> int:
    """Return the number of batches that may wait for the writer: as many as it takes in while it encodes one chunk.

    The writer encodes a chunk at a time, and meanwhile takes no batch. A chunk is bounded in bytes, so the queue is.
    """
    return max(2, codec.chunk_rows(block_rows) // batch_size)


def use_threads_of_process() -> None:
    """Let torch use as many threads in this thread as in the main one.

    OpenMP keeps that number for each thread. torch sets it at the first question, but libraries below torch may be
    called before, and the last bits of an output depend on it.
    """
    torch.set_num_threads(torch.get_num_threads())

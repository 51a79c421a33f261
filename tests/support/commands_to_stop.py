"""Changes to a command's process, so that a signal finds it at one place: each prints `READY` when it is there."""

import fcntl
import hashlib
import os
import signal
import time
from typing import Any

from kdcache.models.teachers import Teacher
from kdcache.runtime.signals import END_SECONDS
from kdcache.training import trainer
from kdcache.training.checkpoint import Checkpoints
from kdcache.training.trainer import Trainer

READY = "ready\n"


def slow_teacher() -> None:
    """The second batch takes minutes, in an operation that no Python handler can interrupt."""
    compute_output, batches = Teacher.compute_output, 0

    def slow(*arguments: Any, **choice: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == 2:
            print(READY, end="", flush=True)
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
        return compute_output(*arguments, **choice)

    Teacher.compute_output = slow  # type: ignore[method-assign]


def slow_teacher_without_locks() -> None:
    """The same, where the disk has no locks."""

    def flock(file: object, how: int) -> None:
        raise OSError(37, "No locks available")

    fcntl.flock = flock
    slow_teacher()


def closed_terminal() -> None:
    """In its second step a training gets SIGHUP."""
    train_step = Trainer.train_step

    def told(self: Trainer, *arguments: Any) -> Any:
        losses = train_step(self, *arguments)
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGHUP)
            print(READY, end="", flush=True)
        return losses

    Trainer.train_step = told  # type: ignore[method-assign]


def stuck_evaluation() -> None:
    """Evaluation takes minutes, in an operation that no Python handler can interrupt."""

    def score(*arguments: Any, **choice: Any) -> None:
        print(READY, end="", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

    trainer.score = score  # type: ignore[assignment]


def slow_save() -> None:
    """A checkpoint takes longer than any other work is given after a signal."""
    save = Checkpoints.save

    def slow(*arguments: Any, **choice: Any) -> Any:
        print(READY, end="", flush=True)
        time.sleep(2 * END_SECONDS)
        return save(*arguments, **choice)

    Checkpoints.save = slow  # type: ignore[method-assign]

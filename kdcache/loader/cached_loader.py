"""The loader of a training loop of one's own: epochs of batches, whose position can be saved and restored exactly."""

import json
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from kdcache.errors import IdentityError, UsageError
from kdcache.io.plain_values import is_whole, shown
from kdcache.loader.batches import Batch
from kdcache.loader.loader import Loader
from kdcache.runtime.python_words import in_python_words

if TYPE_CHECKING:
    from kdcache.loader.dataset import CachedDataset


class CachedLoader:
    """Batches of this process, one epoch for each iteration; `CachedDataset.loader` makes it.

    The next iteration shows the next epoch. An iteration that is broken off is begun anew by the next one, except
    after `load_state_dict` (or with `start_step`), where it goes on in mid-epoch with the very next batch.
    Images are read and rendered ahead in threads, which wait between epochs; `close`, or the end of a `with` block,
    ends them.

    Attributes:
        dataset: the `CachedDataset` that it was made from.
        device: device of images, labels and targets.
        steps: number of steps of all epochs together.
        step: number of batches handed out so far, counted from the start of epoch 0.
        epoch: number of complete epochs so far, which is the number of the epoch that is under way or comes next.

    Example:
        >>> with dataset.loader(batch_size=256, epochs=10) as loader:
        ...     for epoch in range(loader.epoch, 10):
        ...         loader.set_epoch(epoch)
        ...         for batch in loader:
        ...             train_step(batch)
        ...             torch.save({"model": model.state_dict(), "loader": loader.state_dict()}, "checkpoint.pt")
    """

    def __init__(self, dataset: "CachedDataset", loader: Loader, start_step: int = 0) -> None:
        """
        Args:
            dataset: data set with its cached targets.
            loader: loader of all steps.
            start_step: number of steps after which to begin.
        """
        self.dataset = dataset
        self._loader = loader
        view_set = dataset.views.identity
        self._identity = {
            "fingerprint": view_set.fingerprint,
            "policy": json.dumps(view_set.policy, sort_keys=True),
            "seed": view_set.seed,
            "block_rows": view_set.block_rows,
            "windows": view_set.windows,
            "teachers": json.dumps(dataset.teachers.to_json(), sort_keys=True),
            "batch_size": loader.schedule.batch_size,
        }
        self._usable_views = loader.schedule.views
        self._step = start_step
        self._resumes_mid_epoch = True
        self._iteration: object = None
        self._stream: Generator[Batch, None, None] | None = None
        self._next_of_stream = -1

    def __len__(self) -> int:
        """Number of steps of an epoch, which is the same in each process."""
        return self._loader.schedule.steps_per_epoch

    @property
    def device(self) -> torch.device:
        """The device of images, labels and targets."""
        return self._loader.device

    @property
    def steps(self) -> int:
        """Number of steps of all epochs together."""
        return self._loader.schedule.steps

    @property
    def step(self) -> int:
        """Number of batches handed out so far, counted from the start of epoch 0."""
        return self._step

    @property
    def epoch(self) -> int:
        """Number of complete epochs so far, which is the number of the epoch that is under way or comes next."""
        return self.step // len(self)

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration show `epoch`, counted from 0; a restored position within that epoch is kept.

        Raises:
            UsageError: there is no such epoch.
        """
        if not is_whole(epoch) or not 0 <= epoch < self._loader.schedule.epochs:
            raise UsageError(
                f"set_epoch was given {shown(epoch)}, and this loader has epochs 0 to "
                f"{self._loader.schedule.epochs - 1}."
            )
        self._iteration = None
        if self.epoch != epoch:
            self._step, self._resumes_mid_epoch = int(epoch) * len(self), True

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over the batches of one epoch, or over the rest of it where a position was restored.

        Raises:
            UsageError: all epochs have been shown, or another iteration has begun meanwhile.
            BrokenImageError: a sample cannot be decoded.
            CorruptError: targets in the cache are damaged, or belong to other rows.
        """
        first = self.step if self._resumes_mid_epoch else self.epoch * len(self)
        if first >= self.steps:
            raise UsageError(
                f"All {self._loader.schedule.epochs} epochs of this loader have been shown: make a loader of more "
                "epochs, or go back with set_epoch."
            )
        mine = self._iteration = object()
        self._step, self._resumes_mid_epoch = first, False
        return self._iterate(mine, range(first, (self.epoch + 1) * len(self)))

    def _iterate(self, mine: object, steps: range) -> Generator[Batch, None, None]:
        for step in steps:
            if self._iteration is not mine:
                raise UsageError(
                    "This iteration over the loader was ended by another one, by set_epoch, load_state_dict or close: "
                    "a loader has one position, so make a loader for each loop that runs at the same time."
                )
            batch = self._next_batch()
            self._step = step + 1
            if self._step == self.steps:
                self._close_stream()
            yield batch

    def _next_batch(self) -> Batch:
        """Return the batch of the present step, from the open stream if its next batch is that one."""
        if self._stream is None or self._next_of_stream != self.step:
            self._close_stream()
            self._stream, self._next_of_stream = self._loader.batches(self.step), self.step
        try:
            with in_python_words():
                batch = next(self._stream)
        except BaseException:
            self._close_stream()
            raise
        self._next_of_stream += 1
        return batch.to(self._loader.device)

    def state_dict(self) -> dict[str, Any]:
        """Return the position, as numbers and strings alone, for a checkpoint; the same in each process.

        A batch that has been handed out counts as done. So it is to be called after the optimiser's step.
        """
        return {"step": self.step, "views": self._loader.schedule.views, **self._identity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the position that `state_dict` gave, so that the next iteration begins with the very next batch.

        The number of epochs and of processes may differ. As many views are used as then, also where the cache has got
        more since.

        Raises:
            IdentityError: the state is of other data, views or teachers, or of another batch size, which the error
                names.
            UsageError: the state is none of a loader, or lies behind the last step, or the cache has fewer views now.
        """
        if not isinstance(state, Mapping):
            raise UsageError(f"This is no state of a loader: {shown(state)}. Give what state_dict returned.")
        names = {"step", "views", *self._identity}
        if set(state) != names or not all(isinstance(state[name], int) for name in ("step", "views")):
            raise UsageError(f"This is no state of a loader: it has {sorted(state)} and not {sorted(names)}.")
        for name, now in self._identity.items():
            if state[name] != now:
                raise IdentityError(
                    f"The state is of a loader with another {name} ({str(state[name])[:80]}, now {str(now)[:80]}): "
                    "open the same cache and data with the same arguments.",
                    field=name,
                )
        repeats = self._loader.schedule.repeats
        if not 1 <= state["views"] <= self._usable_views or state["views"] % repeats:
            raise UsageError(
                f"The state is of a loader of {state['views']} views, and {self._usable_views} can be used now: open "
                "the cache that it was made with."
            )
        if not 0 <= state["step"] <= self.steps:
            raise UsageError(
                f"The state is of step {state['step']:,}, and this loader has {self.steps:,} steps: give as many "
                "epochs as then."
            )
        self.close()
        self._loader = replace(self._loader, schedule=replace(self._loader.schedule, views=state["views"]))
        self._step, self._resumes_mid_epoch = state["step"], True

    def close(self) -> None:
        """End the threads that read ahead and close their files. The loader can be used again."""
        self._iteration = None
        self._close_stream()

    def _close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def __enter__(self) -> "CachedLoader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

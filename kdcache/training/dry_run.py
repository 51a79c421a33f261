"""What a dry run of a training finds: resolved settings, steps, the course of the learning rate, and memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdcache.cache.entry import Entry
from kdcache.cache.stream import BATCHES_AHEAD, BATCHES_KEPT, BATCHES_YIELDED, CHUNKS_AHEAD, MAX_BATCHES_AHEAD
from kdcache.data.order import LANES
from kdcache.io.yaml_format import dump_yaml
from kdcache.loader.schedule import UNIT_ROWS, Schedule
from kdcache.runtime.formatting import format_bytes, format_count
from kdcache.training.checkpoint import Checkpoints
from kdcache.training.config import RunConfig
from kdcache.training.learning_rate import LearningRate
from kdcache.training.settings import to_plain
from kdcache.training.setup import Setup

#: Columns and rows of the plot of the learning rate.
PLOT_SIZE = (64, 8)
#: Batches that the stream of targets has put together: two ahead of the trainer's, and those given before.
_BATCHES_MADE = 2 + 1 + BATCHES_YIELDED


@dataclass(frozen=True)
class TrainPlan:
    """What a training would do; nothing of it was done.

    Attributes:
        config: resolved configuration, as config.yaml would have it.
        folder: run folder, which was neither made nor changed.
        done_steps: optimiser steps that the run in the folder has saved; 0 where a run would begin.
        steps_per_epoch, steps: optimiser steps of one epoch and of the whole training.
        learning_rates: learning rate of steps that are spread evenly over the training, the first and the last one
            among them.
        targets_bytes: most bytes of targets that one process holds in memory while it reads the cache, about; None
            where no cache is read.
    """

    config: RunConfig
    folder: Path
    done_steps: int
    steps_per_epoch: int
    steps: int
    learning_rates: tuple[float, ...]
    targets_bytes: int | None

    @classmethod
    def of(cls, setup: Setup, fresh: bool) -> "TrainPlan":
        """Return the plan of a prepared training.

        Args:
            setup: the training.
            fresh: whether it would begin anew, whatever the run folder holds.
        """
        saved = [] if fresh else Checkpoints(setup.folder / "checkpoints").steps()
        columns = min(PLOT_SIZE[0], setup.steps)
        rate = learning_rate_of(setup.config, setup.steps_per_epoch)
        steps = [column * (setup.steps - 1) // max(columns - 1, 1) for column in range(columns)]
        return cls(
            config=setup.config,
            folder=setup.folder,
            done_steps=saved[-1] if saved else 0,
            steps_per_epoch=setup.steps_per_epoch,
            steps=setup.steps,
            learning_rates=tuple(map(rate, steps)),
            targets_bytes=_targets_bytes(setup),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain values."""
        return {**vars(self), "config": to_plain(self.config), "folder": str(self.folder)}

    def lines(self) -> list[str]:
        """Return the plan as plain lines."""
        epochs, most = self.config.schedule.epochs, max(self.learning_rates)
        out = ["Settings, as config.yaml would have them:"]
        out += [f"  {line}" for line in dump_yaml(to_plain(self.config)).decode().splitlines()]
        out.append(
            f"Steps: {format_count(epochs, 'epoch')} of {format_count(self.steps_per_epoch, 'step')} of "
            f"{self.config.batch_size} images, {format_count(self.steps, 'step')} in all."
        )
        if self.done_steps:
            out.append(f"{self.folder} holds a run that would go on after step {self.done_steps:,}.")
        out.append(
            f"Learning rate: {self.learning_rates[0]:.3g} in the first step, at most {most:.3g}, "
            f"{self.learning_rates[-1]:.3g} in the last one:"
        )
        out += plot(self.learning_rates, PLOT_SIZE[1], left="epoch 1", right=f"epoch {epochs}")
        if self.targets_bytes is not None:
            out.append(
                f"Memory of cache reading: up to about {format_bytes(self.targets_bytes)} of targets in each process."
            )
        out.append(f"Dry run: nothing would be refused. Nothing was written to {self.folder}.")
        return out


def learning_rate_of(config: RunConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """Return the function that gives the learning rate of each step, counted from 0, by the scheduler of trainings.

    Steps have to be asked for in ascending order. This is the only place here that knows the scheduler.
    """
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.optimizer.lr)
    schedule = LearningRate(optimizer, config.schedule, steps_per_epoch, scored=False)

    def rate(step: int) -> float:
        schedule.set(step)
        return float(optimizer.param_groups[0]["lr"])

    return rate


def plot(values: Sequence[float], height: int, *, left: str, right: str) -> list[str]:
    """Draw values from 0 to their largest one as text, a column for each.

    Args:
        values: numbers of at least 0, one or more.
        height: number of rows of the drawing, without that of the axis.
        left, right: labels of the first and of the last column.
    """
    most = max(values)
    label = f"{most:.3g}"
    levels = [round(value / most * (height - 1)) if most else 0 for value in values]
    out = []
    for level in reversed(range(height)):
        text = label if level == height - 1 else "0" if level == 0 else ""
        marks = "".join("*" if at == level else " " for at in levels).rstrip()
        out.append(f"  {text:>{len(label)}} |{marks}".rstrip())
    out.append(f"  {'':{len(label)}} +{'-' * len(values)}")
    out.append(f"  {'':{len(label)}}  {left}{right:>{max(len(values) - len(left), len(right) + 1)}}")
    return out


def _targets_bytes(setup: Setup) -> int | None:
    if setup.stored is None:
        return None
    schedule, ranks = setup.loader.schedule, setup.loader.ranks
    return sum(targets_bytes(entry, schedule, ranks.world_size) for entry in setup.stored.entries)


def targets_bytes(entry: Entry, schedule: Schedule, world_size: int) -> int:
    """Return about how many bytes of an entry's targets `kdcache.cache.stream` holds at once, at most.

    Args:
        entry: entry of a cache that is read.
        schedule: order in which it is read.
        world_size: number of processes that share each batch.
    """
    layout, batch = entry.layout, -(-schedule.batch_size // world_size)

    def chunks_of(batches: int) -> int:
        return -(-batches * batch // layout.chunk_rows) + 1

    # What is read ahead, what batches are made of, and what is kept after its last use, in each view of a group.
    ahead = min(max(CHUNKS_AHEAD, chunks_of(BATCHES_AHEAD)), chunks_of(MAX_BATCHES_AHEAD))
    chunks = ahead + chunks_of(1) + chunks_of(BATCHES_KEPT)
    if schedule.repeats > 1:
        chunks = max(chunks, schedule.repeats * (chunks_of(BATCHES_KEPT) + 1) + ahead)
    if schedule.epochs > schedule.views:  # views are seen again: by three stretches of a unit a lane
        unit = min(UNIT_ROWS, max(1, layout.block_rows // 8))
        chunks = max(chunks, ahead + 3 * schedule.repeats * LANES * -(-unit // layout.chunk_rows))
    chunks = min(chunks, schedule.views * layout.chunks)
    chunk_bytes = sum(spec.nbytes for spec in entry.codec.arrays(layout.chunk_rows).values())
    return chunks * chunk_bytes + _BATCHES_MADE * batch * chunk_bytes // layout.chunk_rows

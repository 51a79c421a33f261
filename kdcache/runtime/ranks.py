"""The ranks of processes that a launcher such as torchrun started, from their environment variables."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from kdcache.errors import UsageError


@dataclass(frozen=True)
class Ranks:
    """The number of this process among those of one job, as torchrun numbers them.

    Attributes:
        rank: number of this process, 0 to world_size - 1; rank 0 writes and reports for all.
        world_size: number of processes.
        local_rank, local_world_size: the same among the processes on this machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Ranks":
        """Read torchrun's variables; without them, this is a single process.

        Raises UsageError if they contradict each other.
        """
        environment = os.environ if environment is None else environment
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        values = [environment.get(name, default) for name, default in zip(names, "0101", strict=True)]
        if all(value.isdecimal() for value in values):
            ranks = cls(*map(int, values))
            if ranks.rank < ranks.world_size and ranks.local_rank < ranks.local_world_size <= ranks.world_size:
                return ranks
        settings = ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
        raise UsageError(
            f"The launcher's variables are invalid: {settings}. Start the job with torchrun, or unset them."
        )

    @property
    def is_main(self) -> bool:
        """Whether this process writes, shows progress and reports for all."""
        return self.rank == 0

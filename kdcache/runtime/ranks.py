"""The processes that a launcher such as torchrun started together, as their environment tells."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from kdcache.errors import UsageError


@dataclass(frozen=True)
class Ranks:
    """This process among those that share its work.

    Attributes:
        rank: its number, 0 to world - 1; rank 0 speaks for all.
        world: how many there are.
        local_rank, local_world: the same among those on this machine.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Ranks":
        """What torchrun's variables say; one process alone where there are none.

        Raises UsageError where they contradict each other.
        """
        environment = os.environ if environment is None else environment
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        values = [environment.get(name, default) for name, default in zip(names, "0101", strict=True)]
        if all(value.isdecimal() for value in values):
            ranks = cls(*map(int, values))
            if ranks.rank < ranks.world and ranks.local_rank < ranks.local_world <= ranks.world:
                return ranks
        said = ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
        raise UsageError(f"The launcher's variables make no sense: {said}. Start the job with torchrun, or unset them.")

    @property
    def first(self) -> bool:
        """Whether this process shows progress and reports."""
        return self.rank == 0

    def total(self, *counts: int) -> list[int]:
        """The sum of each count over all processes; every process has to call it, with as many counts."""
        if self.world == 1:
            return list(counts)
        import torch
        from torch import distributed

        here = torch.tensor(counts, dtype=torch.int64)
        distributed.init_process_group("gloo")
        try:
            distributed.all_reduce(here)
        finally:
            distributed.destroy_process_group()
        return here.tolist()

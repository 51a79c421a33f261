"""The processes that train one student together, and the little that they say to each other."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from timm.utils.distributed import distribute_bn
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from kdcache.ranks import Ranks


@dataclass(frozen=True)
class Team:
    """One process alone, or one of several under torchrun: every one of them has to call each method, in one order.

    ranks: which one this is. device: what it computes on.
    """

    ranks: Ranks
    device: torch.device

    @property
    def alone(self) -> bool:
        """Whether there is nobody else."""
        return self.ranks.world == 1

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.ranks.first

    def total(self, here: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """The sum of everybody's tensors."""
        if self.alone:
            return here
        there = here.clone()
        distributed.all_reduce(there)
        return there

    def any(self, here: bool) -> bool:
        """Whether it is so for anybody."""
        return here if self.alone else bool(self.total(torch.tensor(int(here))).item())

    def gather(self, here: Shaped[Tensor, "..."]) -> list[Tensor]:
        """Everybody's tensors of one shape, by rank."""
        if self.alone:
            return [here]
        everybody = [torch.empty_like(here) for _ in range(self.ranks.world)]
        distributed.all_gather(everybody, here.contiguous())
        return everybody

    def wait(self) -> None:
        """Go on when everybody has come this far."""
        self.total(torch.zeros(1))

    def share(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over all processes: PyTorch's DDP."""
        if self.alone:
            return module
        return DistributedDataParallel(module, device_ids=[self.device] if self.device.type == "cuda" else None)

    def share_statistics(self, module: nn.Module) -> None:
        """Give everybody the first process's running statistics of batch normalisation: those that are kept.

        Before a step DDP does so for the module that it shares. After the last one, and in an average of weights, each
        process has its own, and would score another model than the one that is exported.
        """
        if not self.alone:
            distribute_bn(module, self.ranks.world, reduce=False)

    def average_gradients(self, module: nn.Module) -> None:
        """Give everybody the mean of everybody's gradients of a small module that is not shared."""
        for parameter in module.parameters():
            if parameter.grad is not None and not self.alone:
                parameter.grad = self.total(parameter.grad) / self.ranks.world


@contextmanager
def join(device: torch.device) -> Iterator[Team]:
    """This process's team, as the launcher's environment has it; NCCL between GPUs, gloo between CPUs."""
    ranks = Ranks.from_environment()
    if ranks.world == 1:
        yield Team(ranks, device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield Team(ranks, device)
    finally:
        distributed.destroy_process_group()

"""The processes that train one student together, and the little that they say to each other."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from timm.utils.distributed import distribute_bn
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from kdcache.errors import RunError, reason
from kdcache.runtime.ranks import Ranks

#: What gloo says where the other end of a connection is gone.
_GONE = r"Connection (closed|reset) by peer|Connection refused|Broken pipe"


@dataclass(frozen=True)
class Maximum:
    """A maximum over all processes that is being computed while they go on."""

    _tensor: Tensor
    _work: distributed.Work | None

    def value(self) -> int:
        """The maximum; waits where it is not there yet."""
        if self._work is not None:
            self._work.wait()
        return int(self._tensor.item())


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

    def begin_maximum(self, here: int) -> Maximum:
        """Begin to compute the greatest of everybody's numbers."""
        tensor = torch.tensor(here)
        work = None if self.alone else distributed.all_reduce(tensor, distributed.ReduceOp.MAX, async_op=True)
        return Maximum(tensor, work)

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
    except RuntimeError as error:  # gloo's is of no type of its own
        if not (isinstance(error, distributed.DistError) or re.search(_GONE, str(error))):
            raise
        raise RunError(
            f"Another process of this training has ended, and this one cannot go on without it ({reason(error)}): its "
            "own message says why. The same command goes on from the last checkpoint."
        ) from error
    finally:
        distributed.destroy_process_group()

"""The processes of one job, and the few collective operations that they need."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from timm.layers.norm_act import convert_sync_batchnorm
from timm.utils.distributed import distribute_bn
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from kdcache.errors import ConfigError, RunError, reason
from kdcache.runtime.ranks import Ranks

#: Parts of gloo's messages if the other end of a connection is gone.
_GONE = r"Connection (closed|reset) by peer|Connection refused|Broken pipe"


@dataclass(frozen=True)
class Maximum:
    """The maximum of a number over all processes, computed in the background."""

    _tensor: Tensor
    _work: distributed.Work | None

    def value(self) -> int:
        """Return the maximum; block until it is computed."""
        if self._work is not None:
            self._work.wait()
        return int(self._tensor.item())


@dataclass(frozen=True)
class Distributed:
    """The processes of one job: a single one, or several under torchrun.

    Every process has to call each method, in the same order, as with torch.distributed. A single process does without
    torch.distributed.

    Attributes:
        ranks: number of this process among them.
        device: device on which this process computes.
    """

    ranks: Ranks
    device: torch.device

    @property
    def rank(self) -> int:
        """Number of this process, 0 to world_size - 1."""
        return self.ranks.rank

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.ranks.world_size

    @property
    def is_single(self) -> bool:
        """Whether this is the only process."""
        return self.world_size == 1

    @property
    def is_main(self) -> bool:
        """Whether this process, the one of rank 0, writes and reports for all."""
        return self.ranks.is_main

    def all_reduce_sum(self, here: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Return the sum over all processes of a tensor, which has the same shape in each."""
        if self.is_single:
            return here
        there = here.clone()
        distributed.all_reduce(there)
        return there

    def sum_if_all_know(self, here: float | None) -> float | None:
        """Return the sum over all processes of a number that some may not know; None unless all know it."""
        total = self.all_reduce_sum(torch.tensor(math.nan if here is None else here, dtype=torch.float64)).item()
        return None if math.isnan(total) else total

    def all_reduce_any(self, here: bool) -> bool:
        """Return whether a condition holds in any process."""
        return here if self.is_single else bool(self.all_reduce_sum(torch.tensor(int(here))).item())

    def begin_all_reduce_max(self, here: int) -> Maximum:
        """Begin to compute the maximum of a number over all processes, without waiting for it."""
        tensor = torch.tensor(here)
        work = None if self.is_single else distributed.all_reduce(tensor, distributed.ReduceOp.MAX, async_op=True)
        return Maximum(tensor, work)

    def all_gather(self, here: Shaped[Tensor, "..."]) -> list[Tensor]:
        """Return the tensors of all processes by rank; they have the same shape."""
        if self.is_single:
            return [here]
        gathered = [torch.empty_like(here) for _ in range(self.world_size)]
        distributed.all_gather(gathered, here.contiguous())
        return gathered

    def barrier(self) -> None:
        """Block until all processes have reached this call."""
        self.all_reduce_sum(torch.zeros(1))

    def wrap_ddp(self, module: nn.Module) -> nn.Module:
        """Wrap a module in PyTorch's DDP, which averages its gradients over all processes."""
        if self.is_single:
            return module
        return DistributedDataParallel(module, device_ids=[self.device] if self.device.type == "cuda" else None)

    def average_batch_norm(self, module: nn.Module) -> None:
        """Give the running statistics of batch normalisation the mean over all processes."""
        if not self.is_single:
            distribute_bn(module, self.world_size, reduce=True)

    def sync_batch_norm(self, module: nn.Module) -> nn.Module:
        """Return a module whose batch normalisation takes its statistics over all processes; weights are shared.

        Raises:
            ConfigError: the processes compute on CPUs, for which PyTorch has none.
        """
        if self.is_single:
            return module
        if self.device.type != "cuda":
            raise ConfigError("sync_bn is set, and PyTorch has it on GPUs alone: leave it out on CPUs.")
        return convert_sync_batchnorm(module)

    def broadcast_batch_norm(self, module: nn.Module) -> None:
        """Copy the main process's running statistics of batch normalisation to all: those that are saved.

        Before each step DDP does so for the module that it wraps. After the last one, and in an average of weights,
        each process has its own, and would score another model than the one that is exported.
        """
        if not self.is_single:
            distribute_bn(module, self.world_size, reduce=False)

    def average_gradients(self, module: nn.Module) -> None:
        """Average the gradients of a small module that DDP does not wrap."""
        for parameter in module.parameters():
            if parameter.grad is not None and not self.is_single:
                parameter.grad = self.all_reduce_sum(parameter.grad) / self.world_size


@contextmanager
def join_processes(device: torch.device) -> Iterator[Distributed]:
    """Join the processes of torchrun's environment variables: NCCL between GPUs, gloo between CPUs.

    Args:
        device: device on which this process computes.

    Raises:
        RunError: another process has ended.
    """
    ranks = Ranks.from_environment()
    if ranks.world_size == 1:
        yield Distributed(ranks, device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield Distributed(ranks, device)
    except RuntimeError as error:  # gloo's is of no type of its own
        if not (isinstance(error, distributed.DistError) or re.search(_GONE, str(error))):
            raise
        raise RunError(
            f"Another process of this job has ended, and this one cannot go on without it ({reason(error)}): its own "
            "message says why. The same command continues from what was saved last."
        ) from error
    finally:
        distributed.destroy_process_group()

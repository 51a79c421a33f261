"""Collective operations of one rank by NCCL: they do nothing but show that they work with a GPU's tensors."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import timm
import torch
from torch import distributed

from gpu.page import Line, Table, cause
from gpu.setting import Setting
from kdcache.runtime.distributed import Distributed
from kdcache.runtime.ranks import Ranks


class OneRank(Distributed):
    """A job of one process that does not do without torch.distributed, as a single process of kdcache would."""

    @property
    def is_single(self) -> bool:
        """Never: every operation goes through the process group."""
        return False


def nccl(setting: Setting) -> Iterator[Table]:
    """Each operation of `Distributed`, then a step of a network in DDP with synchronised batch normalisation."""
    device = torch.device("cuda", setting.device.index or 0) if setting.on_gpu else setting.device
    backend = "cpu:gloo,cuda:nccl" if setting.on_gpu else "gloo"
    if setting.on_gpu:
        torch.cuda.set_device(device)
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as folder:
        distributed.init_process_group(
            backend, init_method=f"file://{Path(folder) / 'meeting'}", rank=0, world_size=1, device_id=None
        )
        try:
            for what, check in checks(OneRank(Ranks(), device), setting).items():
                try:
                    check()
                except Exception as error:
                    lines.append(Line((what, cause(error)), False))
                else:
                    lines.append(Line((what, "right"), True))
                yield Table(f"One rank of {backend}", ("what", "result"), tuple(lines))
        finally:
            distributed.destroy_process_group()


def checks(processes: OneRank, setting: Setting) -> dict[str, Callable[[], None]]:
    """What is tried, by its name."""
    device = processes.device
    here = torch.arange(6, device=device, dtype=torch.float32)

    def step() -> None:
        network = timm.create_model(setting.model, num_classes=10).to(device)
        if setting.on_gpu:
            network = processes.sync_batch_norm(network)
        module = processes.wrap_ddp(network)
        images = torch.rand(setting.batch, 3, setting.size, setting.size, device=device)
        module(images).logsumexp(1).mean().backward()
        require(all(bool(one.grad.isfinite().all()) for one in network.parameters() if one.grad is not None))
        processes.average_batch_norm(network)
        processes.broadcast_batch_norm(network)

    return {
        "sum of tensors on the device": lambda: require(torch.equal(processes.all_reduce_sum(here), here)),
        "sum of tensors on the host": lambda: require(torch.equal(processes.all_reduce_sum(here.cpu()), here.cpu())),
        "gathering on the device": lambda: require(torch.equal(processes.all_gather(here)[0], here)),
        "a maximum in the background": lambda: require(processes.begin_all_reduce_max(7).value() == 7),
        "barrier": processes.barrier,
        "a step in DDP, batch normalisation": step,
    }


def require(holds: bool) -> None:
    """Raise ArithmeticError unless it holds."""
    if not holds:
        raise ArithmeticError("it gives wrong numbers")

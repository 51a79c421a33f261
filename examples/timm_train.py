"""The loop of a timm training script over a cache: a task, mixed precision, moving average, schedule, DDP, checkpoints.

Command: python examples/timm_train.py --cache cache --data data --val val --model resnet50 --epochs 100
On two GPUs: torchrun --nproc-per-node 2 examples/timm_train.py --model resnet50 --epochs 100
Killed at any time and started again, it goes on from the end of the last epoch.
"""

import argparse
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3, init_distributed_device
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import kdcache


class CachedTask(nn.Module):
    """Student and objective in the form of a task of timm's: a call returns the loss, its parts and the logits.

    Attributes:
        model: the student.
        trainable_module: what runs in training: the student, or what the objective needs around it, within DDP.
        objective: the loss over cached targets, with what is learnt beside the student.
    """

    def __init__(self, model: nn.Module, objective: kdcache.ObjectiveModule) -> None:
        super().__init__()
        self.model, self.objective = model, objective
        self.trainable_module = objective.wrap_student(model)
        self.trainable_module_ema: ModelEmaV3 | None = None

    def setup_ema(self, decay: float) -> None:
        """Keep a moving average of the student."""
        self.trainable_module_ema = ModelEmaV3(self.model, decay=decay, use_warmup=True)

    def update_ema(self, step: int) -> None:
        """Let the moving average follow the student."""
        if self.trainable_module_ema is not None:
            self.trainable_module_ema.update(self.model, step=step)

    def prepare_distributed(self, device: torch.device) -> None:
        """Let DDP average the student's gradients; the objective averages its own (`average_gradients`)."""
        ids = [device] if device.type == "cuda" else None
        self.trainable_module = DistributedDataParallel(self.trainable_module, device_ids=ids)

    def forward(self, batch: kdcache.Batch, epoch: int, epochs: int) -> dict[str, Tensor]:
        """Return "loss", its parts, and "output": the logits [b, c]."""
        device = batch.images.device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            outputs = self.trainable_module(batch.images.contiguous(memory_format=torch.channels_last))
        losses: dict[str, Tensor] = self.objective(outputs, batch, epoch=epoch, epochs=epochs)
        return losses | {"output": outputs if isinstance(outputs, Tensor) else outputs.logits}


def train_one_epoch(
    epoch: int,
    loader: kdcache.CachedLoader,
    task: CachedTask,
    optimizer: torch.optim.Optimizer,
    scheduler: Scheduler,
    options: argparse.Namespace,
) -> list[float]:
    """Take the steps of an epoch and return the loss of each."""
    task.train()
    loader.set_epoch(epoch)
    losses = []
    for batch in loader:
        loss = task(batch, epoch, options.epochs)["loss"]
        optimizer.zero_grad()
        loss.backward()
        task.objective.average_gradients()
        if options.clip_grad:
            nn.utils.clip_grad_norm_(task.parameters(), options.clip_grad)
        optimizer.step()
        task.update_ema(loader.step)
        scheduler.step_update(loader.step)
        losses.append(loss.detach())
    return [float(loss) for loss in losses]


def create_task(options: argparse.Namespace, dataset: kdcache.CachedDataset, device: torch.device) -> CachedTask:
    """Return the student with its objective and moving average, the same in each process."""
    torch.manual_seed(0)
    model = timm.create_model(options.model, num_classes=dataset.num_classes, drop_path_rate=options.drop_path)
    objective = kdcache.create_objective(options.objective, dataset=dataset, student=model)
    task = CachedTask(model, objective)
    task.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    task.setup_ema(options.ema_decay)
    return task


def create_optimizer(options: argparse.Namespace, task: CachedTask) -> torch.optim.Optimizer:
    """Return timm's optimiser of the student, and of what the objective learns beside it."""
    optimizer = create_optimizer_v2(task.model, opt=options.opt, lr=options.lr, weight_decay=options.weight_decay)
    if beside := list(task.objective.parameters()):
        optimizer.add_param_group({"params": beside})
    return optimizer


def main(arguments: list[str] | None = None) -> list[float]:
    """Train a student and return the losses of the steps that were taken, of this process's rows."""
    options = parse(arguments)
    device: torch.device = init_distributed_device(options)  # type: ignore[no-untyped-call] # sets rank and others
    dataset = kdcache.open_cache(options.cache, data=options.data)
    task = create_task(options, dataset, device)
    optimizer = create_optimizer(options, task)
    if options.distributed:
        task.prepare_distributed(device)
    eats = resolve_model_data_config(task.model)  # type: ignore[no-untyped-call]
    losses: list[float] = []
    with dataset.loader(
        options.batch_size, options.epochs, image_size=options.image_size, mean=eats["mean"], std=eats["std"],
        device=device, renderer=options.renderer,
    ) as loader:  # fmt: skip
        scheduler, _ = create_scheduler_v2(
            optimizer, "cosine", options.epochs, warmup_epochs=options.warmup_epochs,
            step_on_epochs=False, updates_per_epoch=len(loader),
        )  # fmt: skip
        assert scheduler is not None
        assert task.trainable_module_ema is not None
        parts: dict[str, Any] = {"model": task.model, "ema": task.trainable_module_ema.module}
        parts |= {"objective": task.objective, "optimizer": optimizer, "loader": loader}
        load_checkpoint(options.checkpoint, parts, device)
        scheduler.step_update(loader.step)
        for epoch in range(loader.epoch, options.epochs):
            # Each process draws its own drop path, and the same ones where the epoch is begun again.
            torch.manual_seed(epoch * options.world_size + options.rank)
            losses += train_one_epoch(epoch, loader, task, optimizer, scheduler, options)
            if options.rank == 0:
                save_checkpoint(options.checkpoint, parts)
                print(f"Epoch {epoch}: loss {losses[-1]:.4f}" + score(options, task.trainable_module_ema.module))
    if options.distributed:
        torch.distributed.destroy_process_group()
    return losses


def score(options: argparse.Namespace, model: nn.Module) -> str:
    """Return top-1 of a model on the validation shards as text; nothing where there are none."""
    if options.val is None:
        return ""
    found = kdcache.evaluate(model, options.val, image_size=options.image_size, batch_size=options.batch_size)
    return f", top-1 {found.top1:.2%}"


def save_checkpoint(file: Path, parts: dict[str, Any]) -> None:
    """Write the state of all parts, so that a kill leaves the former file or the new one."""
    partial = file.with_suffix(".partial")
    torch.save({name: part.state_dict() for name, part in parts.items()}, partial)
    partial.replace(file)


def load_checkpoint(file: Path, parts: dict[str, Any], device: torch.device) -> None:
    """Restore the state of all parts, if there is a checkpoint; else they stay as they are."""
    if file.exists():
        saved = torch.load(file, map_location=device, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line, in timm's words."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", default="cache")
    parser.add_argument("--data", default="data")
    parser.add_argument("--val", help="labelled shards on which the moving average is scored after each epoch")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--objective", default="kd", help="see docs/objectives.md")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--warmup-epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=256, help="of all processes together")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--opt", default="lamb")
    parser.add_argument("--lr", type=float, default=0.005)
    parser.add_argument("--weight-decay", type=float, default=0.02)
    parser.add_argument("--clip-grad", type=float)
    parser.add_argument("--drop-path", type=float, default=0.0)
    parser.add_argument("--ema-decay", type=float, default=0.9999)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--renderer", default="dali")
    parser.add_argument("--checkpoint", type=Path, default=Path("timm_train.pt"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()

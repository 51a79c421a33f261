"""Training from a cache with Lightning: a LightningDataModule of cached batches, and a LightningModule of a student.

Command: python examples/lightning_module.py --cache cache --data data --model resnet50 --epochs 100
Lightning saves the loader's position in its checkpoints: with --resume FILE.ckpt it goes on, also in mid-epoch.
"""

import argparse
from pathlib import Path
from typing import Any

import lightning
import timm
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.data import resolve_model_data_config
from timm.optim import create_optimizer_v2
from torch import Tensor

import kdcache


class CachedDataModule(lightning.LightningDataModule):
    """The batches of a cache. The loader is made when the processes are there, so that each has its own rows."""

    def __init__(self, dataset: kdcache.CachedDataset, batch_size: int, **loader_settings: Any) -> None:
        """
        Args:
            dataset: of `kdcache.open_cache`.
            batch_size: rows of a step, of all processes together.
            loader_settings: further arguments of `CachedDataset.loader`.
        """
        super().__init__()
        self.dataset, self.batch_size, self.loader_settings = dataset, batch_size, loader_settings
        self.loader: kdcache.CachedLoader | None = None

    def setup(self, stage: str) -> None:
        """Make the loader."""
        trainer = self.trainer
        assert trainer is not None
        assert trainer.max_epochs is not None
        device = trainer.strategy.root_device
        self.loader = self.dataset.loader(self.batch_size, trainer.max_epochs, device=device, **self.loader_settings)

    def train_dataloader(self) -> kdcache.CachedLoader:
        """Return the loader. Lightning iterates over it once an epoch, and saves and restores its state."""
        assert self.loader is not None
        return self.loader

    def transfer_batch_to_device(
        self, batch: kdcache.Batch, device: torch.device, dataloader_idx: int
    ) -> kdcache.Batch:
        """Return the batch on the device. Lightning's own way changes fields in place, and a batch is frozen."""
        return batch.to(device)

    def teardown(self, stage: str) -> None:
        """End the loader's threads."""
        if self.loader is not None:
            self.loader.close()


class Student(lightning.LightningModule):
    """A timm model that learns from cached targets. Lightning's DDP holds the objective as well as the model."""

    def __init__(self, model: str, dataset: kdcache.CachedDataset, *, objective: str, lr: float) -> None:
        super().__init__()
        self.model = timm.create_model(model, num_classes=dataset.num_classes)
        self.objective = kdcache.create_objective(objective, dataset=dataset, student=self.model)
        self.student = self.objective.wrap_student(self.model)
        self.lr = lr

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [b, c]."""
        logits: Tensor = self.model(images)
        return logits

    def training_step(self, batch: kdcache.Batch, batch_index: int) -> Tensor:
        """Return the loss of a batch, and log its parts."""
        epochs = self.trainer.max_epochs
        assert epochs is not None
        losses = self.objective(self.student(batch.images), batch, epoch=self.current_epoch, epochs=epochs)
        self.log_dict(losses, batch_size=len(batch))
        loss: Tensor = losses["loss"]
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW over the student and what is learnt beside it, with a cosine schedule over all steps."""
        optimizer = create_optimizer_v2(self.model, opt="adamw", lr=self.lr, weight_decay=0.05)
        if beside := list(self.objective.parameters()):
            optimizer.add_param_group({"params": beside})
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, CachedDataModule)
        assert data.loader is not None
        # Not trainer.estimated_stepping_batches: it begins to read before Lightning has restored the loader's state.
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=data.loader.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def main(arguments: list[str] | None = None, **trainer_settings: Any) -> lightning.Trainer:
    """Train a student and return the trainer.

    Args:
        arguments: of the command line.
        trainer_settings: further arguments of `lightning.Trainer`, such as callbacks and a logger.
    """
    options = parse(arguments)
    lightning.seed_everything(0)
    dataset = kdcache.open_cache(options.cache, data=options.data)
    student = Student(options.model, dataset, objective=options.objective, lr=options.lr)
    eats = resolve_model_data_config(student.model)  # type: ignore[no-untyped-call]
    data = CachedDataModule(
        dataset,
        options.batch_size,
        image_size=options.image_size,
        mean=eats["mean"],
        std=eats["std"],
        renderer=options.renderer,
    )
    trainer = lightning.Trainer(
        max_epochs=options.epochs,
        accelerator=options.accelerator,
        default_root_dir=options.out,
        use_distributed_sampler=False,  # the loader has each process's rows already
        **trainer_settings,
    )
    trainer.fit(student, data, ckpt_path=options.resume)
    return trainer


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", default="cache")
    parser.add_argument("--data", default="data")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--objective", default="kd", help="see docs/objectives.md")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=256, help="of all processes together")
    parser.add_argument("--lr", type=float, default=0.001)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--renderer", default="dali")
    parser.add_argument("--out", type=Path, default=Path("lightning_runs"))
    parser.add_argument("--resume", type=Path, help="checkpoint of Lightning's to go on from")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()

"""A complete training loop of one's own over a cache that `kdcache dump-logits` made.

Command: python examples/own_loop.py --cache cache --data data --model resnet50 --epochs 100
Killed at any time and started again, it goes on from the end of the last epoch.
"""

import argparse
from pathlib import Path
from typing import Any

import timm
import timm.data
import timm.optim
import timm.scheduler
import torch

import kdcache


def train(options: argparse.Namespace) -> list[float]:
    """Train a student and return the loss of each step."""
    dataset = kdcache.open_cache(options.cache, data=options.data)
    torch.manual_seed(0)
    model = timm.create_model(options.model, num_classes=dataset.num_classes)
    eats = timm.data.resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    objective = kdcache.create_objective("kd", dataset=dataset, label_loss="ce")
    losses = []
    with dataset.loader(
        options.batch_size, options.epochs, image_size=options.image_size, mean=eats["mean"], std=eats["std"],
        device=options.device, renderer=options.renderer,
    ) as loader:  # fmt: skip
        model.to(loader.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = timm.optim.create_optimizer_v2(model, opt="adamw", lr=options.lr, weight_decay=0.05)
        scheduler = timm.scheduler.CosineLRScheduler(optimizer, loader.steps, t_in_epochs=False)
        parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "loader": loader}
        torch.manual_seed(0)
        if options.checkpoint.exists():
            saved = torch.load(options.checkpoint, map_location=loader.device, weights_only=True)
            for name, part in parts.items():
                part.load_state_dict(saved[name])
        scheduler.step_update(loader.step)
        for epoch in range(loader.epoch, options.epochs):
            loader.set_epoch(epoch)
            for batch in loader:
                logits = model(batch.images.contiguous(memory_format=torch.channels_last))
                loss = objective(logits, batch, epoch=epoch, epochs=options.epochs)["loss"]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step_update(loader.step)
                losses.append(loss.item())
            torch.save({name: part.state_dict() for name, part in parts.items()}, options.checkpoint)
            print(f"Epoch {epoch}: loss {losses[-1]:.4f}")
    return losses


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", default="cache")
    parser.add_argument("--data", default="data")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--lr", type=float, default=0.001)
    parser.add_argument("--image-size", type=int, help="pixels a side; by default the reference size of the policy")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--renderer", default="dali")
    parser.add_argument("--checkpoint", type=Path, default=Path("own_loop.pt"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    train(parse())

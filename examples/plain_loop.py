"""A whole training loop of one's own over a cache that `kdcache dump-logits` made, in under 40 lines of code.

Command: python examples/plain_loop.py --cache cache --data data --model resnet50 --epochs 100
With the same seed, optimiser and schedule its losses are those of `kdcache train`, bit for bit on a CPU. How a loop
goes on after it was stopped is shown in timm_train.py.
"""

import argparse

import timm
import torch
from timm.data import resolve_model_data_config
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler

import kdcache

DEFAULTS = {"--cache": "cache", "--data": "data", "--model": "resnet50", "--epochs": 100, "--batch-size": 256}
DEFAULTS |= {"--lr": 0.001, "--image-size": 224, "--device": "auto", "--renderer": "dali"}


def main(arguments: list[str] | None = None) -> list[float]:
    """Train a student and return the loss of each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in DEFAULTS.items():
        parser.add_argument(name, type=type(default), default=default, help="by default %(default)s")
    options = parser.parse_args(arguments)
    dataset = kdcache.open_cache(options.cache, data=options.data)
    objective = kdcache.create_objective("kd", dataset=dataset, label_loss="ce")
    torch.manual_seed(0)
    model = timm.create_model(options.model, num_classes=dataset.num_classes)
    eats = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    losses = []
    with dataset.loader(
        options.batch_size, options.epochs, image_size=options.image_size, mean=eats["mean"], std=eats["std"],
        device=options.device, renderer=options.renderer,
    ) as loader:  # fmt: skip
        model.to(loader.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = create_optimizer_v2(model, opt="adamw", lr=options.lr, weight_decay=0.05)
        scheduler = CosineLRScheduler(optimizer, loader.steps, t_in_epochs=False)
        for epoch in range(options.epochs):
            for batch in loader:
                loss = objective(model(batch.images), batch, epoch=epoch, epochs=options.epochs)["loss"]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step_update(loader.step)
                losses.append(loss.item())
            print(f"Epoch {epoch}: loss {losses[-1]:.4f}")
    return losses


if __name__ == "__main__":
    main()

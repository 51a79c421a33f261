"""A loop of one's own, with the losses of `kdcache train`: python examples/plain_loop.py --model resnet50"""

import timm
import torch
import typer
from timm.data import resolve_model_data_config
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler

import kdcache


def main(
    cache: str = "cache", data: str = "data", model: str = "resnet50", epochs: int = 100, batch_size: int = 256,
    lr: float = 0.001, image_size: int = 224, device: str = "auto", renderer: str = "dali",
) -> list[float]:  # fmt: skip
    dataset = kdcache.open_cache(cache, data=data)
    objective = kdcache.create_objective("kd", dataset=dataset, label_loss="ce")
    torch.manual_seed(0)
    student = timm.create_model(model, num_classes=dataset.num_classes)
    stats = {key: resolve_model_data_config(student)[key] for key in ("mean", "std")}  # type: ignore[no-untyped-call]
    losses = []
    with dataset.loader(batch_size, epochs, image_size=image_size, device=device, renderer=renderer, **stats) as loader:
        student.to(loader.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = create_optimizer_v2(student, opt="adamw", lr=lr, weight_decay=0.05)
        scheduler = CosineLRScheduler(optimizer, loader.steps, t_in_epochs=False)
        for epoch in range(epochs):
            for batch in loader:
                loss = objective(student(batch.images), batch, epoch=epoch, epochs=epochs)["loss"]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step_update(loader.step)
                losses.append(loss.item())
    return losses


if __name__ == "__main__":
    typer.run(main)

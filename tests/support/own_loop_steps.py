"""Steps of a training loop of one's own on one process's rows, with the student or all that learns within DDP."""

import timm
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import kdcache
from support.small_job import SIZE

BATCH = 24
STEPS = 2
#: With CRD's negatives few, so that a step is quick.
SETTINGS = {"cc": {}, "crd": {"negatives": 32}}


class Both(nn.Module):
    """Student and objective as one module, as Lightning's DDP holds them."""

    def __init__(self, student, objective):
        super().__init__()
        self.student, self.objective = student, objective

    def forward(self, batch):
        return self.objective(self.student(batch.images), batch, epoch=0, epochs=1)["loss"]


def gradients_of_ways(cache, data, rank, world):
    """Gradients after the last of some steps, by objective and way: DDP around the student, or around both."""
    dataset = kdcache.open_cache(cache, data=data)
    ways = ("student", "both") if world > 1 else ("alone",)
    return {(name, way): gradients(dataset, name, way) for name in SETTINGS for way in ways}


def gradients(dataset, name, way):
    """Name of a parameter -> its gradient in the last step, as an array."""
    torch.manual_seed(0)
    # Without batch norm, whose statistics are each process's own.
    model = timm.create_model("test_vit", num_classes=dataset.num_classes, img_size=SIZE)
    objective = kdcache.create_objective(name, dataset=dataset, student=model, **SETTINGS[name])
    student = objective.wrap_student(model)
    both = Both(DistributedDataParallel(student) if way == "student" else student, objective)
    step = DistributedDataParallel(both, broadcast_buffers=False) if way == "both" else both
    optimizer = torch.optim.SGD([*model.parameters(), *objective.parameters()], lr=0.05)
    with dataset.loader(BATCH, 1, image_size=SIZE, device="cpu", renderer="pillow") as loader:
        for batch, _ in zip(loader, range(STEPS), strict=False):
            optimizer.zero_grad()
            step(batch).backward()
            if way != "both":
                objective.average_gradients()
            optimizer.step()
    parts = [*model.named_parameters(), *objective.named_parameters()]
    return {key: part.grad.numpy().copy() for key, part in parts if part.grad is not None}

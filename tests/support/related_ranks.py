"""A step of every relation on a rank's share of a batch, with its gradients averaged over the ranks as DDP does."""

from dataclasses import replace

import torch
from torch import distributed, nn

from kdcache.objectives.base import LossInputs
from kdcache.objectives.cc import Embeddings, cc, cc_kernel
from kdcache.objectives.crd import Contrast, Contrasts
from kdcache.objectives.gathering import gather_rows
from kdcache.objectives.negatives import Negatives
from kdcache.objectives.pkt import pkt
from kdcache.objectives.registry import OBJECTIVES
from kdcache.objectives.rkd import rkd
from kdcache.objectives.sp import sp
from support.batches import FixedTargets

ROWS, WIDTH, SAMPLES = 8, 5, 12
OF_OBJECTIVES = ("rkd", "pkt", "sp", "cc", "crd", "dist")
RELATIONS = {"rkd": rkd, "pkt": pkt, "sp": sp, "cc_kernel": cc_kernel}


def relate(rank, world):
    """Name -> values of the losses, gradients and memories, as lists."""
    random = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    inputs, teacher, student = drawn(ROWS, 4), drawn(ROWS, 7), nn.Linear(4, WIDTH).double()
    embeddings = Embeddings(WIDTH, 7, width=3).double()
    crd = Contrast(WIDTH, 7, SAMPLES, torch.Generator().manual_seed(1), width=4).double()
    # Sample 3 comes twice, on different ranks.
    samples, negatives = torch.tensor([3, 0, 1, 2, 4, 3, 5, 6]), torch.randint(SAMPLES, (ROWS, 6), generator=random)
    for module in (student, embeddings, crd):
        for parameter in module.parameters():
            parameter.data = drawn(*parameter.shape)
    share = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
    mine, theirs = inputs[share], teacher[share]

    def embedded():
        ours, others = embeddings(student(mine), theirs)
        return cc(gather_rows(ours), gather_rows(others))

    def contrasted():
        return crd(student(mine), theirs, samples[share], negatives[share])

    contrasts = Contrasts(crd, Negatives(torch.arange(SAMPLES) % 3, seed=5), count=6)
    weight = torch.tensor([0.8, 0.8, 0.3, 0.3, 1.0, 1.0, 0.4, 0.4], dtype=torch.float64)[share]

    def of_objective(name):
        logits = student(mine)  # as good a student's as any
        targets = FixedTargets(theirs[:, :WIDTH].log_softmax(1), theirs)
        beside = {"cc": embeddings, "crd": contrasts}.get(name)
        inputs = LossInputs(logits, torch.zeros(len(mine), 2, dtype=torch.int64), weight, targets)
        inputs = replace(inputs, features=student(mine), samples=samples[share], aux_module=beside)
        return OBJECTIVES[name].distil(inputs)

    losses = {name: lambda of=of: of(gather_rows(student(mine)), gather_rows(theirs)) for name, of in RELATIONS.items()}
    losses |= {"cc": embedded, "crd": contrasted, "crd again": contrasted}
    losses |= {f"{name}()": lambda name=name: of_objective(name) for name in OF_OBJECTIVES}
    found = {}
    for name, loss in losses.items():
        value = loss()
        parameters = [*student.parameters(), *embeddings.parameters(), *crd.parameters()]
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
        found[name] = [_mean(value.detach()), *(_mean(gradient) for gradient in gradients if gradient is not None)]
    found["memory"] = [buffer.tolist() for buffer in crd.buffers()]
    return found


def _mean(values):
    if distributed.is_initialized():
        distributed.all_reduce(values)
        values /= distributed.get_world_size()
    return values.tolist()

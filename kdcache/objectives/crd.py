"""Contrastive representation distillation: which sample is it, among thousands, by the other network's memory."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.io.checked import Setting, checked
from kdcache.objectives.base import LossInputs, LossSpec
from kdcache.objectives.beyond_logits import FromFeatures
from kdcache.objectives.distillation import ANOTHER_OBJECTIVE
from kdcache.objectives.gathering import gather_rows, mean_of_ranks
from kdcache.objectives.geometry import unit
from kdcache.objectives.negatives import Negatives
from kdcache.objectives.precision import without_autocast
from kdcache.objectives.settings import KdWeight, Temperature, Width

_FLOOR = 1e-7
# Numbers of the memory that are held at a time: 256 MB of float32.
_AT_A_TIME = 2**26


class Contrast(nn.Module):
    """Noise-contrastive estimation against a memory of all samples, for both networks at once.

    Tian et al. 2020, "Contrastive Representation Distillation" (arXiv:1910.10699), Eq. 18, as its code has it. Pooled
    features are mapped to `width` numbers of length 1, s and t. Each network's embedding is held against the other's
    memory M of every sample: P(v, j) = exp(v . M_j / temperature) / Z, with Z the number of samples times the first
    batch's mean of the exponential, then fixed. With m negatives a row and N samples the loss of an embedding is

        - log(P(v, own) / (P(v, own) + m / N)) - sum over negatives j of log((m / N) / (P(v, j) + m / N)),

    and the loss of a batch is its mean over rows for the student, and the same for the teacher, whose linear map
    learns too. The code's 1e-7 stands beside m / N in the denominators. The usual weight is 0.8.

    In training mode every call then moves the memory of the batch's samples: M = momentum M + (1 - momentum) v, at
    length 1. The memory is state, not parameters: it is in the state dict and takes 2 * N * width * 4 bytes.

    Under DDP each rank calls it with its own rows; the memory sees all of them, and is equal on every rank without
    being sent (so leave its buffers out of what DDP broadcasts). Parameters are to be averaged as the student's are.

    Exact with `embedding` targets, whose features lose no more than their codec does, and with a live teacher; `topk`
    and `full` hold no features.
    """

    def __init__(
        self,
        student_width: int,
        teacher_width: int,
        samples: int,
        generator: torch.Generator,
        *,
        width: int = 128,
        temperature: float = 0.07,
        momentum: float = 0.5,
    ) -> None:
        """
        Args:
            student_width, teacher_width: widths of the pooled features.
            samples: number of samples, N.
            generator: generator of the first memory, evenly from a cube in which a vector's mean square length is 1;
                seeded alike on every rank.
        """
        super().__init__()
        self.temperature, self.momentum = temperature, momentum
        self.embed_student = nn.Linear(student_width, width)
        self.embed_teacher = nn.Linear(teacher_width, width)
        bound = 1.0 / math.sqrt(width / 3)
        for name in ("student", "teacher"):
            first = torch.rand(samples, width, generator=generator, device=generator.device) * (2 * bound) - bound
            self.register_buffer(f"{name}_memory", first)
            # 0 until the first batch.
            self.register_buffer(f"{name}_scale", torch.zeros(()))
        # Whether both scales are known, so that only the first batches wait for the device to tell.
        self._scaled = False
        self.register_load_state_dict_post_hook(lambda module, _: setattr(module, "_scaled", False))

    student_memory: Tensor
    teacher_memory: Tensor
    student_scale: Tensor
    teacher_scale: Tensor

    def forward(
        self,
        student: Float[Tensor, "b s"],
        teacher: Float[Tensor, "b t"],
        samples: Int64[Tensor, "b"],
        negatives: Int64[Tensor, "b m"],
    ) -> Float[Tensor, ""]:
        """Compute the loss of a batch.

        Args:
            student, teacher: pooled features. No gradient flows to the teacher's.
            samples: the number of each row's sample, 0..N-1.
            negatives: for each row, the numbers of other samples, m >= 1 (`Negatives`); 16,384 by custom.
        """
        with without_autocast(student):
            ours = unit(self.embed_student(student.to(self.embed_student.weight.dtype)))
            theirs = unit(self.embed_teacher(teacher.detach().to(self.embed_teacher.weight.dtype)))
            compared = torch.cat([samples[:, None], negatives], dim=1)
            loss = self._loss(ours, self.teacher_memory, compared, self.student_scale)
            loss = loss + self._loss(theirs, self.student_memory, compared, self.teacher_scale)
            self._scaled = True
            if self.training:
                everybody = gather_rows(samples)
                self._update_memory(self.student_memory, gather_rows(ours.detach()), everybody)
                self._update_memory(self.teacher_memory, gather_rows(theirs.detach()), everybody)
        return loss

    def _loss(self, rows: Tensor, memory: Tensor, compared: Tensor, scale: Tensor) -> Tensor:
        if not self._scaled and not scale:
            with torch.no_grad():
                heights = [
                    _scores(some, memory, those, self.temperature).exp().mean() * len(some) / len(rows)
                    for some, those in _parts(rows, memory, compared)
                ]
            scale.copy_(mean_of_ranks(torch.stack(heights).sum()) * len(memory))
        return _Contrasted.apply(rows, memory, compared, scale.log(), self.temperature)

    @torch.no_grad()
    def _update_memory(self, memory: Tensor, rows: Tensor, samples: Tensor) -> None:
        moved = unit(self.momentum * memory[samples] + (1 - self.momentum) * rows)
        # Repeated augmentation brings a sample several times: its last row counts, whatever order writes run in.
        places = torch.arange(1, len(samples) + 1, device=samples.device)
        last = ((samples[:, None] == samples[None, :]) * places).argmax(dim=1)
        memory[samples] = moved[last]


def nce(log_probs: Float[Tensor, "b n"], samples: int) -> Float[Tensor, "b"]:
    """Return each row's loss of telling its own sample from noise, as `Contrast` has it.

    Args:
        log_probs: log P of the own sample in column 0, of the negatives in the others; need not be below 0.
        samples: N, of which the noise draws evenly.
    """
    noise = (log_probs.shape[1] - 1) / samples
    both = torch.logaddexp(log_probs, log_probs.new_tensor(noise + _FLOOR).log())
    own = log_probs[:, 0] - both[:, 0]
    others = math.log(noise) - both[:, 1:]
    return -(own + others.sum(dim=1))


def _scores(
    rows: Float[Tensor, "b d"], memory: Float[Tensor, "n d"], compared: Int64[Tensor, "b m"], temperature: float
) -> Float[Tensor, "b m"]:
    return (memory[compared] @ rows[:, :, None]).squeeze(2) / temperature


def _parts(rows: Tensor, memory: Tensor, compared: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield rows and the numbers they are compared with, as many at a time as may be held."""
    count = max(1, _AT_A_TIME // (compared.shape[1] * memory.shape[1]))
    return zip(rows.split(count), compared.split(count), strict=True)


class _Contrasted(torch.autograd.Function):
    """The mean of `nce` over rows. Its gradient is taken part by part on the way forward, for two reasons: the vectors
    of all negatives together would take gigabytes, and the memory has moved when the gradient is asked for."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, memory: Tensor, compared: Tensor, log_scale: Tensor, temperature: float
    ) -> Tensor:
        total = rows.new_zeros(())
        gradients: list[Tensor] = []
        for some, those in _parts(rows, memory, compared):
            with torch.enable_grad():
                some = some.detach().requires_grad_()
                loss = nce(_scores(some, memory, those, temperature) - log_scale, len(memory)).sum() / len(rows)
            gradients += torch.autograd.grad(loss, some)
            total += loss.detach()
        ctx.save_for_backward(torch.cat(gradients))
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (of_rows,) = ctx.saved_tensors
        return gradients[0] * of_rows, None, None, None, None


class Contrasts(nn.Module):
    """`Contrast` with the negatives that it needs: all that CRD learns and remembers beside the student."""

    def __init__(self, contrast: Contrast, negatives: Negatives, count: int) -> None:
        """
        Args:
            contrast: loss and memories.
            negatives: source of the negatives.
            count: number of negatives of each row.
        """
        super().__init__()
        self.contrast, self.negatives, self.count = contrast, negatives, count

    def forward(
        self, student: Float[Tensor, "b s"], teacher: Float[Tensor, "b t"], samples: Int64[Tensor, "b"]
    ) -> Float[Tensor, ""]:
        """Compute the loss of a batch, as `Contrast` has it."""
        return self.contrast(student, teacher, samples, self.negatives(samples, self.count))


@checked
@dataclass(frozen=True)
class CRD(FromFeatures):
    """kd_weight * CRD + label_weight * label loss, and vanilla distillation beside it if wanted.

    The defaults are the paper's. It remembers an embedding of each sample for both networks, on the training's device
    and in every checkpoint: 2 * samples * width * 4 bytes, 1.3 GB for ImageNet.

    A mixed image counts as the sample that has the larger share in it: that is whose number it must be told from
    others, and whose memory it changes. Negatives are of other classes than that sample; a few of them can be of its
    partner's. The paper trained without mixing.

    Attributes:
        negatives: number of negatives that each row is told from; by chance the same sample may come more than once
            among them.
        width: width of the embeddings.
        temperature: temperature of the contrast.
        momentum: share of the old in what is remembered, 0..1.
    """

    name: Literal["crd"] = "crd"
    kd_weight: KdWeight = 0.8
    negatives: Width = 16_384
    width: Width = 128
    temperature: Temperature = 0.07
    momentum: Annotated[float, Setting("Share of the old in what is remembered.", least=0, below=1)] = 0.5

    def aux_module(self, spec: LossSpec) -> nn.Module | None:
        """Create embeddings, memories and negatives, drawn by torch's random state; None where nothing is told apart.

        Raises:
            UsageError: all samples are of one class.
        """
        if not self.needs.features:
            return None
        if spec.num_features is None or spec.teacher_features is None or spec.labels is None:
            raise UsageError(f"There are no features or no samples to be told apart: {ANOTHER_OBJECTIVE}.")
        contrast = Contrast(
            spec.num_features,
            spec.teacher_features,
            spec.samples,
            torch.default_generator,
            width=self.width,
            temperature=self.temperature,
            momentum=self.momentum,
        )
        negatives = Negatives(spec.labels, seed=int(torch.randint(2**62, ())))
        return Contrasts(contrast, negatives, self.negatives)

    def distil(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute `Contrast` of this process's rows, against memories that all processes fill."""
        features = self.features_of(inputs)
        if inputs.aux_module is None or inputs.samples is None:
            raise UsageError("This objective remembers samples, and neither memory nor their numbers are given.")
        return inputs.aux_module(*features, larger_share(inputs.samples, inputs.weight))


def larger_share(samples: Int64[Tensor, "b"], weight: Float[Tensor, "b"]) -> Int64[Tensor, "b"]:
    """Return the sample that has the larger share in each row: the own one where both are equal.

    Args:
        samples: each row's own sample; rows 2j and 2j+1 are mixed with each other, if at all.
        weight: each row's own share, 1 where it is not mixed.
    """
    partner = torch.arange(len(samples), device=samples.device) ^ 1
    return torch.where(weight < 0.5, samples[partner], samples)

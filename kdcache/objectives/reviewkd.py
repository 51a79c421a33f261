"""Knowledge review: every level of the student, fused with all deeper ones, learns from one level of the teacher."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from kdcache.errors import UsageError
from kdcache.io.checked import checked
from kdcache.objectives.base import LossInputs, LossSpec
from kdcache.objectives.beyond_logits import FromMaps
from kdcache.objectives.precision import at_least_float32
from kdcache.objectives.settings import WarmupEpochs, Width

_PYRAMID = (4, 2, 1)


def hierarchical_context(
    student: Sequence[Float[Tensor, "b _ _ _"]], teacher: Sequence[Float[Tensor, "b _ _ _"]]
) -> Float[Tensor, ""]:
    """Sum over levels of sum over sizes of w * mean (P(F_s) - P(F_t))^2 / sum of w.

    Chen et al. 2021, "Distilling Knowledge via Knowledge Review" (arXiv:2104.09044): the hierarchical context loss, as
    its code has it. P averages maps down to their own size, 4 x 4, 2 x 2 and 1 x 1, with w = 1, 1/2, 1/4 and 1/8;
    sizes not below a map's height are left out, and the next takes the weight. The code's weight of the whole is 1 on
    ImageNet, and 0.6 to 8 on CIFAR-100 with a warm-up of 20 epochs.

    Args:
        student: maps from `Review`, one for each of the teacher's.
        teacher: its feature maps, from fine to coarse, each as large as the student's. No gradient flows to them.

    Exact with a live teacher; no kind of targets holds feature maps, which take 3 MB a view.
    """
    total = student[0].new_zeros((), dtype=at_least_float32(student[0]).dtype)
    for ours, theirs in zip(student, teacher, strict=True):
        total = total + _context(at_least_float32(ours), at_least_float32(theirs.detach()))
    return total


def _context(student: Float[Tensor, "b c h w"], teacher: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    loss = F.mse_loss(student, teacher)
    weight = weights = 1.0
    for size in _PYRAMID:
        if size >= student.shape[2]:
            continue
        weight /= 2
        weights += weight
        # Averaging is linear, so the differences may be averaged in place of each side.
        loss = loss + weight * F.adaptive_avg_pool2d(student - teacher, size).square().mean()
    return loss / weights


def with_summary(maps: Sequence[Float[Tensor, "b _ _ _"]]) -> list[Float[Tensor, "b _ _ _"]]:
    """Return maps from fine to coarse, and behind them the mean of the last as a map of 1 x 1, the paper's last."""
    return [*maps, maps[-1].mean(dim=(2, 3), keepdim=True)]


class Fusion(nn.Module):
    """Attention-based fusion (ABF): one level's maps and those fused so far, weighed at each place by their content."""

    def __init__(self, channels: int, middle: int, out: int, *, fuses: bool) -> None:
        """
        Args:
            channels: number of channels of the student's maps.
            middle: number of channels of the maps that are handed on to the next finer level.
            out: number of channels of the teacher's maps.
            fuses: False for the coarsest level, before which nothing is fused.
        """
        super().__init__()
        inward = nn.Conv2d(channels, middle, 1, bias=False)
        outward = nn.Conv2d(middle, out, 3, padding=1, bias=False)
        for convolution in (inward, outward):
            nn.init.kaiming_uniform_(convolution.weight, a=1)
        self.inward = nn.Sequential(inward, nn.BatchNorm2d(middle))
        self.outward = nn.Sequential(outward, nn.BatchNorm2d(out))
        self.weigh = nn.Sequential(nn.Conv2d(2 * middle, 2, 1), nn.Sigmoid()) if fuses else None

    def forward(
        self, maps: Float[Tensor, "b c h w"], fused: Float[Tensor, "b middle _ _"] | None, size: tuple[int, int]
    ) -> tuple[Float[Tensor, "b out to_h to_w"], Float[Tensor, "b middle to_h to_w"]]:
        """Compute maps to compare with the teacher's, and maps to hand on; both of `size` (height, width).

        Args:
            fused: maps that the coarser level handed on; None for the coarsest.
        """
        maps = self.inward(maps)
        if self.weigh is not None and fused is not None:
            fused = F.interpolate(fused, maps.shape[2:], mode="nearest")
            own, handed = self.weigh(torch.cat([maps, fused], dim=1)).split(1, dim=1)
            maps = own * maps + handed * fused
        if tuple(maps.shape[2:]) != size:
            maps = F.interpolate(maps, size, mode="nearest")
        return self.outward(maps), maps


class Review(nn.Module):
    """The student's levels, each fused with all coarser ones; trained beside the student and never exported.

    `features_only` and `forward_intermediates` of timm give maps behind the activation, where the paper's own networks
    give those before it.
    """

    def __init__(self, student: Sequence[int], teacher: Sequence[int], middle: int = 512) -> None:
        """
        Args:
            student, teacher: channels of the maps of each level, from fine to coarse.
            middle: channels in which levels are fused; the code has 512, 256 for MobileNet, on CIFAR-100 at most the
                student's last.

        Raises:
            UsageError: levels that differ in number.
        """
        super().__init__()
        if len(student) != len(teacher) or not student:
            raise UsageError(
                f"The student gives {len(student)} levels of feature maps and the teacher {len(teacher)}, where each "
                "needs its counterpart: choose as many layers of both, at least one."
            )
        last = len(student) - 1
        self.fusions = nn.ModuleList(
            Fusion(ours, middle, theirs, fuses=level < last)
            for level, (ours, theirs) in enumerate(zip(student, teacher, strict=True))
        )

    def forward(
        self, maps: Sequence[Float[Tensor, "b _ _ _"]], sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[Float[Tensor, "b _ _ _"]]:
        """Compute the fused maps in the teacher's shapes, from fine to coarse.

        Args:
            maps: maps of the student, from fine to coarse.
            sizes: heights and widths of the teacher's maps where they differ from the student's.
        """
        fused, made = None, []
        to = [(level.shape[2], level.shape[3]) for level in maps] if sizes is None else sizes
        for fusion, level, size in reversed(list(zip(self.fusions, maps, to, strict=True))):
            out, fused = fusion(level, fused, size)
            made.append(out)
        return made[::-1]


@checked
@dataclass(frozen=True)
class ReviewKD(FromMaps):
    """kd_weight * ReviewKD + label_weight * label loss, and vanilla distillation beside it if wanted.

    On all stages and on the mean of the last. The weight is the code's for ImageNet; for CIFAR it is 5 for most pairs
    of networks (0.6 to 8), with a warm-up of 20 epochs (`reviewkd-cifar`).

    Attributes:
        middle: number of channels in which stages are fused, at most those of the student's last.
        warmup_epochs: number of epochs in which the term grows linearly to its weight; the first epoch has 1 /
            warmup_epochs of it.
    """

    name: Literal["reviewkd"] = "reviewkd"
    middle: Width = 512
    warmup_epochs: WarmupEpochs = 1

    def aux_module(self, spec: LossSpec) -> nn.Module | None:
        """Create the fusion of the student's stages; None where there is nothing to compare."""
        if not self.needs.maps:
            return None
        self.require_counterparts(spec)
        student, teacher = ([*(c for c, _, _ in maps), maps[-1][0]] for maps in (spec.maps, spec.teacher_maps))
        return Review(student, teacher, min(self.middle, student[-1]))

    def distil(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute `hierarchical_context` of all stages and of the mean of the last."""
        student, teacher = map(with_summary, self.maps_of(inputs))
        if inputs.aux_module is None:
            raise UsageError("This objective learns a fusion of feature maps, and it is not given.")
        with inputs.mixed():
            fused = inputs.aux_module(student, [(level.shape[2], level.shape[3]) for level in teacher])
        return hierarchical_context(fused, teacher)

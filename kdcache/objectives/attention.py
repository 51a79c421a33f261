"""Attention transfer: where a layer is active, not with which channels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from kdcache.io.checked import checked
from kdcache.objectives.base import LossInputs, LossSpec
from kdcache.objectives.beyond_logits import FromMaps
from kdcache.objectives.geometry import unit
from kdcache.objectives.precision import at_least_float32
from kdcache.objectives.settings import KdWeight


def attention(
    student: Sequence[Float[Tensor, "b _ _ _"]], teacher: Sequence[Float[Tensor, "b _ _ _"]]
) -> Float[Tensor, ""]:
    """Sum over layers of the mean over rows and places of (Q_s - Q_t)^2, Q the layer's `attention_map` at length 1.

    Zagoruyko and Komodakis 2017, "Paying More Attention to Attention" (arXiv:1612.03928), Eq. 2, as its code has it:
    the paper sums the distances themselves. The usual weight is 1,000.

    Args:
        student, teacher: feature maps of as many layers, in the same order. Where the sides differ in size, the larger
            is averaged down to the smaller first. No gradient flows to the teacher.

    Exact with a live teacher; no kind of targets holds feature maps. Its attention maps at the student's size would do
    (`attention_distance`).
    """
    total = student[0].new_zeros((), dtype=at_least_float32(student[0]).dtype)
    for ours, theirs in zip(student, teacher, strict=True):
        size = (min(ours.shape[2], theirs.shape[2]), min(ours.shape[3], theirs.shape[3]))
        total = total + attention_distance(attention_map(ours, size), attention_map(theirs, size))
    return total


def attention_map(
    maps: Float[Tensor, "b c h w"], size: tuple[int, int] | None = None
) -> Float[Tensor, "b out_h out_w"]:
    """Return the mean over channels of the squares; maps of another size are averaged to `size` (h, w) first."""
    maps = at_least_float32(maps)
    if size is not None and size != tuple(maps.shape[2:]):
        maps = F.adaptive_avg_pool2d(maps, size)
    return maps.square().mean(dim=1)


def attention_distance(student: Float[Tensor, "b h w"], teacher: Float[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """Compute one layer's part of `attention`, from its attention maps."""
    ours, theirs = at_least_float32(student), at_least_float32(teacher.detach())
    return (unit(ours.flatten(1)) - unit(theirs.flatten(1))).square().mean()


@checked
@dataclass(frozen=True)
class AT(FromMaps):
    """kd_weight * attention transfer + label_weight * label loss, and vanilla distillation beside it if wanted.

    The weight is the usual one for the mean that the code takes, on all stages.
    """

    name: Literal["at"] = "at"
    kd_weight: KdWeight = 1_000.0

    def aux_module(self, spec: LossSpec) -> nn.Module | None:
        """Return None, after a check that each of the student's maps has one of the teacher's."""
        if self.needs.maps:
            self.require_counterparts(spec)
        return None

    def distil(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute `attention`."""
        return attention(*self.maps_of(inputs))

"""FitNets: a layer of the student, seen through a learned regressor, becomes the teacher's."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from kdcache.errors import UsageError
from kdcache.io.checked import checked
from kdcache.objectives.base import LossInputs, LossSpec, MapShape
from kdcache.objectives.beyond_logits import FromMaps
from kdcache.objectives.precision import at_least_float32
from kdcache.objectives.settings import ComparedLayers, KdWeight


def hint(student: Float[Tensor, "b c h w"], teacher: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """Mean over everything of (r(F_s) - F_t)^2.

    Romero et al. 2015, "FitNets: Hints for Thin Deep Nets" (arXiv:1412.6550), Eq. 3, which has half of a sum. The
    mean, and training with the label loss at once in place of a stage before it, are the custom of later code; its
    usual weight is 100.

    Args:
        student: feature maps of a middle layer behind a `Regressor`.
        teacher: feature maps of the teacher's layer. No gradient flows to them.

    Exact with a live teacher; no kind of targets holds feature maps.
    """
    return F.mse_loss(at_least_float32(student), at_least_float32(teacher.detach()))


class Regressor(nn.Module):
    """Feature maps in the teacher's shape: one convolution, batch normalisation and ReLU.

    The convolution halves maps twice the teacher's size, doubles maps half its size, and otherwise takes off what is
    too large. It is trained beside the student and never exported.
    """

    def __init__(self, student: MapShape, teacher: MapShape) -> None:
        """
        Args:
            student, teacher: shapes of the feature maps of both models.

        Raises:
            UsageError: maps of sizes between which no such convolution leads.
        """
        super().__init__()
        (ours, height, width), (theirs, to_height, to_width) = student, teacher
        convolution: nn.Module
        if (height, width) == (2 * to_height, 2 * to_width):
            convolution = nn.Conv2d(ours, theirs, kernel_size=3, stride=2, padding=1)
        elif (2 * height, 2 * width) == (to_height, to_width):
            convolution = nn.ConvTranspose2d(ours, theirs, kernel_size=4, stride=2, padding=1)
        elif height >= to_height and width >= to_width:
            convolution = nn.Conv2d(ours, theirs, kernel_size=(1 + height - to_height, 1 + width - to_width))
        else:
            raise UsageError(
                f"No regressor leads from the student's maps of {height} x {width} to the teacher's of {to_height} x "
                f"{to_width}: choose layers whose sizes are equal or differ by a factor of 2, or a larger map of the "
                "student's."
            )
        self.layers = nn.Sequential(convolution, nn.BatchNorm2d(theirs), nn.ReLU(inplace=True))

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b out_c out_h out_w"]:
        """Bring the student's maps to the teacher's shape."""
        return self.layers(maps)


@checked
@dataclass(frozen=True)
class FitNet(FromMaps):
    """kd_weight * FitNet's hints + label_weight * label loss, and vanilla distillation beside it if wanted.

    The weight is that of the benchmark of Tian et al. 2020, which has the second of three stages for the hint. Of
    several layers the hints are summed.
    """

    name: Literal["fitnet"] = "fitnet"
    kd_weight: KdWeight = 100.0
    student_layers: ComparedLayers = "middle"
    teacher_layers: ComparedLayers = "middle"

    def aux_module(self, spec: LossSpec) -> nn.Module | None:
        """Create a regressor for each layer; None where there is nothing to compare."""
        if not self.needs.maps:
            return None
        self.require_counterparts(spec)
        return nn.ModuleList(Regressor(*pair) for pair in zip(spec.maps, spec.teacher_maps, strict=True))

    def distil(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute the sum over layers of `hint`."""
        student, teacher = self.maps_of(inputs)
        if not isinstance(inputs.aux_module, nn.ModuleList):
            raise UsageError("This objective learns regressors of feature maps, and they are not given.")
        with inputs.mixed():
            regressed = [regress(maps) for regress, maps in zip(inputs.aux_module, student, strict=True)]
        return torch.stack([hint(*pair) for pair in zip(regressed, teacher, strict=True)]).sum()

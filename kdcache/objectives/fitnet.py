"""FitNets: a layer of the student, seen through a learned regressor, becomes the teacher's."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from kdcache.errors import UsageError
from kdcache.objectives.base import MapShape
from kdcache.objectives.precision import at_least_float32


def hint(student: Float[Tensor, "b c h w"], teacher: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """Mean over everything of (r(F_s) - F_t)^2.

    Romero et al. 2015, "FitNets: Hints for Thin Deep Nets" (arXiv:1412.6550), Eq. 3, which has half of a sum. The
    mean, and training with the label loss at once in place of a stage before it, are the custom of later code; its
    usual weight is 100.

    Args:
        student: feature maps of a middle layer behind a `Regressor`.
        teacher: its own. No gradient flows to it.

    Needs the teacher's feature maps.
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
            student, teacher: shapes of their feature maps.

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
        """The student's maps in the teacher's shape."""
        return self.layers(maps)

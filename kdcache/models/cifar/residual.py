"""Residual networks for CIFAR (He et al. 2016, section 4.2) and wide ones (Zagoruyko and Komodakis 2016)."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from kdcache.models.cifar.backbone import CifarNetwork, Head, Stage, conv_bn, initialise


class BasicBlock(nn.Module):
    """Two convolutions with batch normalisation and a shortcut, which is a convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """`inputs`, `outputs`: channels. `stride`: of the first convolution."""
        super().__init__()
        self.conv1, self.bn1 = conv_bn(inputs, outputs, 3, stride=stride)
        self.conv2, self.bn2 = conv_bn(outputs, outputs, 3)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(*conv_bn(inputs, outputs, 1, stride=stride))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _c _h _w"]:
        """Return the sum of both ways behind a ReLU."""
        inner = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(inner)) + self.downsample(x))


class PreActivationBlock(nn.Module):
    """Normalisation and ReLU before each of two convolutions; a new shape's shortcut begins behind the first ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, drop_rate: float) -> None:
        """`inputs`, `outputs`: channels. `stride`: of the first convolution. `drop_rate`: between the convolutions."""
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1, self.bn2 = conv_bn(inputs, outputs, 3, stride=stride)
        self.dropout = nn.Dropout(drop_rate)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _c _h _w"]:
        """Return the sum of both ways, to which nothing is applied."""
        active = F.relu(self.bn1(x), inplace=True)
        inner = self.dropout(F.relu(self.bn2(self.conv1(active)), inplace=True))
        return self.conv2(inner) + (x if self.shortcut is None else self.shortcut(active))


def resnet(depth: int, width: int = 16, *, in_chans: int = 3, **head: Any) -> CifarNetwork:
    """Create a residual network of three stages of (depth - 2) / 6 blocks.

    The papers' "x4" networks are four times as wide in each stage, and twice in the stem. Where a stage begins, the
    shortcut is a convolution of size 1, as in the code of CRD; He et al. fill with zeros.

    Args:
        depth: number of layers, 6 n + 2.
        width: channels of the first stage; the others have twice and four times as many.
        in_chans: channels of an image.
        head: as `Head` has them.
    """
    stem_width = 16 if width == 16 else width // 2
    stages, inputs = [], stem_width
    for level in range(3):
        outputs, strides = width << level, (1 if level == 0 else 2, *[1] * ((depth - 2) // 6 - 1))
        blocks = [BasicBlock(outputs if number else inputs, outputs, stride) for number, stride in enumerate(strides)]
        stages.append(Stage(nn.Sequential(*blocks), outputs, 1 << level))
        inputs = outputs
    stem = nn.Sequential(*conv_bn(in_chans, stem_width, 3), nn.ReLU(inplace=True))
    network = CifarNetwork(stem, stages, nn.Identity(), inputs, Head(**head))
    initialise(network)
    return network


def wide_resnet(
    depth: int, widen: int, *, in_chans: int = 3, block_drop_rate: float = 0.0, **head: Any
) -> CifarNetwork:
    """Create a wide residual network of three stages of (depth - 4) / 6 blocks.

    Args:
        depth: number of layers, 6 n + 4.
        widen: factor of the stages' 16, 32 and 64 channels.
        in_chans: channels of an image.
        block_drop_rate: rate of dropout between the convolutions of a block.
        head: as `Head` has them.
    """
    stages, inputs = [], 16
    for level in range(3):
        outputs, strides = 16 * widen << level, (1 if level == 0 else 2, *[1] * ((depth - 4) // 6 - 1))
        blocks = [
            PreActivationBlock(outputs if number else inputs, outputs, stride, block_drop_rate)
            for number, stride in enumerate(strides)
        ]
        stages.append(Stage(nn.Sequential(*blocks), outputs, 1 << level))
        inputs = outputs
    stem = nn.Sequential(nn.Conv2d(in_chans, 16, 3, padding=1, bias=False))
    final = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True))
    network = CifarNetwork(stem, stages, final, inputs, Head(**head))
    initialise(network)
    return network

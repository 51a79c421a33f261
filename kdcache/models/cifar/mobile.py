"""Small networks of grouped convolutions for images of 32 pixels, with the strides that the code of CRD gives them.

MobileNetV2 (Sandler et al. 2018), ShuffleNet (Zhang et al. 2018) and ShuffleNet V2 (Ma et al. 2018).
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from kdcache.models.cifar.backbone import CifarNetwork, Head, Stage, conv_bn, initialise

#: Groups of ShuffleNet's convolutions, and channels and units of its stages at that number of groups.
_GROUPS, _SHUFFLE_STAGES = 3, ((240, 4), (480, 8), (960, 4))
#: The same of ShuffleNet V2 at width 1, whose last convolution has these channels.
_SHUFFLE2_STAGES, _SHUFFLE2_LAST = ((116, 4), (232, 8), (464, 4)), 1024
_SHUFFLE_STEM = 24
#: Of MobileNetV2, for each stage its rows of the paper's table 2: expansion, channels at width 1, blocks, first stride.
#: The rows of 24 channels have stride 1 in place of 2.
_MOBILE_STAGES = (
    ((1, 16, 1, 1), (6, 24, 2, 1)),
    ((6, 32, 3, 2),),
    ((6, 64, 4, 2), (6, 96, 3, 1)),
    ((6, 160, 3, 2), (6, 320, 1, 1)),
)
_MOBILE_STEM, _MOBILE_LAST = 32, 1280


class ShuffleUnit(nn.Module):
    """A unit of ShuffleNet: grouped, depthwise and grouped convolution; with stride 2 its input is put beside it."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """`inputs`, `outputs`: channels, which are equal with stride 1."""
        super().__init__()
        made = outputs - inputs if stride == 2 else outputs
        inner = made // 4
        self.groups = 1 if inputs == _SHUFFLE_STEM else _GROUPS
        self.conv1, self.bn1 = conv_bn(inputs, inner, 1, groups=self.groups)
        self.conv2, self.bn2 = conv_bn(inner, inner, 3, stride=stride, groups=inner)
        self.conv3, self.bn3 = conv_bn(inner, made, 1, groups=_GROUPS)
        self.stride = stride

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _c _h _w"]:
        """Return the unit's maps behind a ReLU."""
        made = shuffled(F.relu(self.bn1(self.conv1(x)), inplace=True), self.groups)
        # The paper has no ReLU behind the depthwise convolution; the networks of CRD's tables have one.
        made = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(made)), inplace=True)))
        if self.stride == 1:
            return F.relu(made + x)
        return F.relu(torch.cat([made, F.avg_pool2d(x, 3, stride=2, padding=1)], dim=1))


class ShuffleUnit2(nn.Module):
    """A unit of ShuffleNet V2 that convolves one half of its channels."""

    def __init__(self, channels: int) -> None:
        """`channels`: of input and output, an even number."""
        super().__init__()
        half = channels // 2
        self.layers = nn.Sequential(
            *(*conv_bn(half, half, 1), nn.ReLU(inplace=True)),
            *conv_bn(half, half, 3, groups=half),
            *(*conv_bn(half, half, 1), nn.ReLU(inplace=True)),
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return both halves, shuffled."""
        kept, convolved = x.chunk(2, dim=1)
        return shuffled(torch.cat([kept, self.layers(convolved)], dim=1), 2)


class ShuffleDown2(nn.Module):
    """A unit of ShuffleNet V2 that halves the resolution: two branches of the whole input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """`inputs`, `outputs`: channels; `outputs` is even."""
        super().__init__()
        half = outputs // 2
        self.left = nn.Sequential(
            *conv_bn(inputs, inputs, 3, stride=2, groups=inputs),
            *(*conv_bn(inputs, half, 1), nn.ReLU(inplace=True)),
        )
        self.right = nn.Sequential(
            *(*conv_bn(inputs, half, 1), nn.ReLU(inplace=True)),
            *conv_bn(half, half, 3, stride=2, groups=half),
            *(*conv_bn(half, half, 1), nn.ReLU(inplace=True)),
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _c _h _w"]:
        """Return both branches, shuffled."""
        return shuffled(torch.cat([self.left(x), self.right(x)], dim=1), 2)


class InvertedResidual(nn.Module):
    """A block of MobileNetV2: to more channels, depthwise, and to few channels without an activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        """`inputs`, `outputs`: channels. `stride`: of the depthwise convolution. `expansion`: factor of the inputs."""
        super().__init__()
        inner = inputs * expansion
        self.layers = nn.Sequential(
            *(*conv_bn(inputs, inner, 1), nn.ReLU(inplace=True)),
            *(*conv_bn(inner, inner, 3, stride=stride, groups=inner), nn.ReLU(inplace=True)),
            *conv_bn(inner, outputs, 1),
        )
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _c _h _w"]:
        """Return the block's maps, with the input added where the shape stays."""
        return x + self.layers(x) if self.has_shortcut else self.layers(x)


def shuffled(x: Float[Tensor, "b c h w"], groups: int) -> Float[Tensor, "b c h w"]:
    """Return the channels in the order that takes one of each group in turn."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def shufflenet_v1(*, in_chans: int = 3, **head: Any) -> CifarNetwork:
    """Create ShuffleNet with three groups. Arguments as `Head` has them, and `in_chans`, channels of an image."""
    stages, inputs = [], _SHUFFLE_STEM
    for level, (outputs, count) in enumerate(_SHUFFLE_STAGES, start=1):
        units = [ShuffleUnit(inputs, outputs, 2), *(ShuffleUnit(outputs, outputs, 1) for _ in range(count - 1))]
        stages.append(Stage(nn.Sequential(*units), outputs, 1 << level))
        inputs = outputs
    return CifarNetwork(_shuffle_stem(in_chans), stages, nn.Identity(), inputs, Head(**head))


def shufflenet_v2(*, in_chans: int = 3, **head: Any) -> CifarNetwork:
    """Create ShuffleNet V2 of width 1. Arguments as `shufflenet_v1` has them."""
    stages, inputs = [], _SHUFFLE_STEM
    for level, (outputs, count) in enumerate(_SHUFFLE2_STAGES, start=1):
        units = [ShuffleDown2(inputs, outputs), *(ShuffleUnit2(outputs) for _ in range(count - 1))]
        stages.append(Stage(nn.Sequential(*units), outputs, 1 << level))
        inputs = outputs
    final = nn.Sequential(*conv_bn(inputs, _SHUFFLE2_LAST, 1), nn.ReLU(inplace=True))
    return CifarNetwork(_shuffle_stem(in_chans), stages, final, _SHUFFLE2_LAST, Head(**head))


def mobilenet_v2(width: float = 0.5, *, in_chans: int = 3, **head: Any) -> CifarNetwork:
    """Create MobileNetV2 of width up to 1. `width`: factor of channels; other arguments as `shufflenet_v1` has them."""
    inputs, reduction = int(_MOBILE_STEM * width), 2
    stem = nn.Sequential(*conv_bn(in_chans, inputs, 3, stride=2), nn.ReLU(inplace=True))
    stages = []
    for rows in _MOBILE_STAGES:
        blocks = []
        for expansion, channels, count, first_stride in rows:
            outputs = int(channels * width)
            for number in range(count):
                stride = 1 if number else first_stride
                blocks.append(InvertedResidual(inputs, outputs, stride, expansion))
                inputs, reduction = outputs, reduction * stride
        stages.append(Stage(nn.Sequential(*blocks), inputs, reduction))
    final = nn.Sequential(*conv_bn(inputs, _MOBILE_LAST, 1), nn.ReLU(inplace=True))
    network = CifarNetwork(stem, stages, final, _MOBILE_LAST, Head(**head))
    initialise(network, linear_std=0.01)
    return network


def _shuffle_stem(in_chans: int) -> nn.Sequential:
    return nn.Sequential(*conv_bn(in_chans, _SHUFFLE_STEM, 1), nn.ReLU(inplace=True))

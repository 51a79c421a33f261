"""DenseNet for CIFAR (Huang et al. 2017, table 2)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kdcache.models.cifar.backbone import CifarNetwork, Head, Stage, initialise

#: Channels between the two convolutions of a layer with a bottleneck, for each channel that it adds.
_BOTTLENECK = 4
#: Share of the channels that a transition keeps in a network with bottlenecks ("BC").
_COMPRESSION = 0.5


class DenseLayer(nn.Module):
    """Adds `growth` channels to its input: normalisation, ReLU and convolution of size 3, with or without one of 1."""

    def __init__(self, inputs: int, growth: int, bottleneck: bool) -> None:
        """`inputs`: channels. `growth`: channels that are added. `bottleneck`: whether a convolution of 1 is first."""
        super().__init__()
        parts: list[nn.Module] = []
        if bottleneck:
            parts += _activated(inputs, nn.Conv2d(inputs, _BOTTLENECK * growth, 1, bias=False))
            inputs = _BOTTLENECK * growth
        parts += _activated(inputs, nn.Conv2d(inputs, growth, 3, padding=1, bias=False))
        self.layers = nn.Sequential(*parts)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _c h w"]:
        """Return the input's channels, and the new ones behind them."""
        return torch.cat([x, self.layers(x)], dim=1)


def densenet(depth: int, growth: int, *, bottleneck: bool = False, in_chans: int = 3, **head: Any) -> CifarNetwork:
    """Create a DenseNet of three dense blocks.

    Args:
        depth: number of layers, 3 n + 4; with bottlenecks 6 n + 4.
        growth: channels that each layer adds.
        bottleneck: whether layers have bottlenecks and transitions halve the channels ("DenseNet-BC").
        in_chans: channels of an image.
        head: as `Head` has them.
    """
    count = (depth - 4) // (6 if bottleneck else 3)
    channels = 2 * growth if bottleneck else 16
    stem = nn.Sequential(nn.Conv2d(in_chans, channels, 3, padding=1, bias=False))
    stages = []
    for level in range(3):
        layers: list[nn.Module] = []
        if level:
            kept = int(channels * _COMPRESSION) if bottleneck else channels
            transition = _activated(channels, nn.Conv2d(channels, kept, 1, bias=False))
            layers.append(nn.Sequential(*transition, nn.AvgPool2d(2)))
            channels = kept
        layers += [DenseLayer(channels + number * growth, growth, bottleneck) for number in range(count)]
        channels += count * growth
        stages.append(Stage(nn.Sequential(*layers), channels, 1 << level))
    final = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
    network = CifarNetwork(stem, stages, final, channels, Head(**head))
    initialise(network)
    return network


def _activated(channels: int, convolution: nn.Conv2d) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.ReLU(inplace=True), convolution]

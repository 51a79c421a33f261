"""VGG with batch normalisation (after Simonyan and Zisserman 2015) for 32 pixels, as the code of CRD has it."""

from typing import Any

from torch import nn

from kdcache.models.cifar.backbone import CifarNetwork, Head, Stage, initialise

_CHANNELS = (64, 128, 256, 512, 512)
#: Convolutions of each stage by the number of layers that have weights in the usual count, which has three linear ones.
_CONVOLUTIONS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
#: The last two stages have one resolution: four pixels a side.
_POOLED = (False, True, True, True, False)


def vgg(depth: int, *, in_chans: int = 3, **head: Any) -> CifarNetwork:
    """Create a VGG of five stages and one linear layer.

    Args:
        depth: 8, 11, 13, 16 or 19.
        in_chans: channels of an image.
        head: as `Head` has them.
    """
    stages: list[Stage] = []
    inputs, reduction = in_chans, 1
    for outputs, count, pooled in zip(_CHANNELS, _CONVOLUTIONS[depth], _POOLED, strict=True):
        reduction *= 2 if pooled else 1
        blocks = []
        for number in range(count):
            pool = [nn.MaxPool2d(2)] if pooled and number == 0 else []
            # Together in a block: gradient checkpointing saves what enters each one, and the ReLU changes its input.
            convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
            blocks.append(nn.Sequential(*pool, convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)))
            inputs = outputs
        stages.append(Stage(nn.Sequential(*blocks), outputs, reduction))
    network = CifarNetwork(nn.Identity(), stages, nn.Identity(), inputs, Head(**head))
    initialise(network, linear_std=0.01)
    return network

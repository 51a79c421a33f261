"""What timm's own augmentations would apply, written down instead of applied."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
from PIL import Image
from timm.data import auto_augment as timm_aa

from kdcache.views.operations import WARPS, Operation

OPERATIONS = {
    "AutoContrast": Operation.AUTO_CONTRAST,
    "Equalize": Operation.EQUALIZE,
    "Invert": Operation.INVERT,
    "Rotate": Operation.ROTATE,
    "Posterize": Operation.POSTERIZE,
    "Solarize": Operation.SOLARIZE,
    "SolarizeAdd": Operation.SOLARIZE_ADD,
    "Color": Operation.COLOR,
    "Contrast": Operation.CONTRAST,
    "Brightness": Operation.BRIGHTNESS,
    "Sharpness": Operation.SHARPNESS,
    "ShearX": Operation.SHEAR_X,
    "ShearY": Operation.SHEAR_Y,
    "TranslateX": Operation.TRANSLATE_X,
    "TranslateY": Operation.TRANSLATE_Y,
    "Desaturate": Operation.COLOR,
    "GaussianBlur": Operation.GAUSSIAN_BLUR,
}


def operation_of(timm_name):
    """The operation behind a timm name, whatever its levels mean."""
    for suffix in ("Increasing", "Original", "Rel", "Rand"):
        timm_name = timm_name.removesuffix(suffix)
    return OPERATIONS[timm_name]


@dataclass
class Draws:
    """Operations [n, layers], 0 where none is applied, their arguments, and whether they warp bicubically."""

    op: np.ndarray
    magnitude: np.ndarray
    cubic: np.ndarray


class _Recorded:
    """An AugmentOp that draws all that timm's draws, and writes down what it is about to do."""

    def __init__(self, op, into):
        self._op, self._into = op, into
        op.aug_fn = self._apply

    def __call__(self, image):
        before = len(self._into)
        self._op(image)
        if len(self._into) == before:
            self._into.append((0, 0.0, False))
        return image

    def _apply(self, image, argument=0.0, **kwargs):
        operation = operation_of(self._op.name)
        if self._op.name == "Desaturate":
            argument = min(1.0, max(0.0, 1.0 - argument))
        if self._op.name == "GaussianBlurRand":
            blurred = []
            timm_aa.gaussian_blur_rand(SimpleNamespace(filter=blurred.append), argument)
            argument = blurred[0].radius
        cubic = operation in WARPS and timm_aa._interpolation(kwargs) == Image.Resampling.BICUBIC
        self._into.append((operation, argument, cubic))


def record(transform, count):
    """`count` draws of timm's RandAugment or AutoAugment."""
    rows = []
    if isinstance(transform, timm_aa.RandAugment):
        transform.ops = [_Recorded(op, rows) for op in transform.ops]
    else:
        transform.policy = [[_Recorded(op, rows) for op in sequence] for sequence in transform.policy]
    for _ in range(count):
        transform(None)
    return as_draws(rows, count)


def as_draws(rows, count):
    op, magnitude, cubic = (np.array(column).reshape(count, -1) for column in zip(*rows, strict=True))
    return Draws(op.astype(np.uint8), magnitude.astype(np.float32), cubic.astype(bool))

"""Real photographs as batches, and what timm makes of them."""

from functools import cache

import numpy as np
import skimage.data
import timm.data.auto_augment as timm_operations
import torch
from PIL import Image
from torchvision.transforms import functional as torchvision_operations

from kdcache.views.operations import Operation
from kdcache.views.plan import Plan

# Those that scikit-image ships in its wheel: people, an animal, still life, night, tissue, an eye's back, stars.
NAMES = ("astronaut", "chelsea", "coffee", "rocket", "immunohistochemistry", "retina", "hubble_deep_field")

FILL = (124, 116, 104)

# Arguments of every operation: both ends of what any policy draws, values between, and some beyond.
ARGUMENTS = {
    Operation.IDENTITY: (0.0,),
    Operation.AUTO_CONTRAST: (0.0,),
    Operation.EQUALIZE: (0.0,),
    Operation.INVERT: (0.0,),
    Operation.ROTATE: (-180.0, -135.0, -30.0, -17.3, 0.0, 0.01, 9.0, 30.0, 90.0),
    Operation.POSTERIZE: (0, 1, 2, 3, 4, 5, 6, 7, 8),
    Operation.SOLARIZE: (0, 1, 77, 128, 255, 256),
    Operation.SOLARIZE_ADD: (0, 1, 33, 110, 128),
    Operation.COLOR: (0.0, 0.1, 0.64, 1.0, 1.333, 1.9, 2.5),
    Operation.CONTRAST: (0.0, 0.1, 0.64, 1.0, 1.333, 1.9, 2.5),
    Operation.BRIGHTNESS: (0.0, 0.1, 0.64, 1.0, 1.333, 1.9, 2.5),
    Operation.SHARPNESS: (0.0, 0.1, 0.64, 1.0, 1.333, 1.9, 2.5),
    Operation.SHEAR_X: (-0.9, -0.3, -0.11, 0.0, 0.21, 0.3),
    Operation.SHEAR_Y: (-0.9, -0.3, -0.11, 0.0, 0.21, 0.3),
    Operation.TRANSLATE_X: (-1.5, -0.45, -0.1, 0.0, 0.123, 0.45),
    Operation.TRANSLATE_Y: (-1.5, -0.45, -0.1, 0.0, 0.123, 0.45),
    Operation.GAUSSIAN_BLUR: (0.0, 0.1, 0.5, 1.0, 1.7, 2.0, 6.0),
    Operation.HUE: (-0.5, -0.1, -0.001, 0.0, 0.02, 0.2, 0.5),
}

_TIMM_NAMES = {
    Operation.AUTO_CONTRAST: "AutoContrast",
    Operation.EQUALIZE: "Equalize",
    Operation.INVERT: "Invert",
    Operation.ROTATE: "Rotate",
    Operation.POSTERIZE: "Posterize",
    Operation.SOLARIZE: "Solarize",
    Operation.SOLARIZE_ADD: "SolarizeAdd",
    Operation.COLOR: "Color",
    Operation.CONTRAST: "Contrast",
    Operation.BRIGHTNESS: "Brightness",
    Operation.SHARPNESS: "Sharpness",
    Operation.SHEAR_X: "ShearX",
    Operation.SHEAR_Y: "ShearY",
    Operation.TRANSLATE_X: "TranslateXRel",
    Operation.TRANSLATE_Y: "TranslateYRel",
    Operation.GAUSSIAN_BLUR: "GaussianBlur",
}
_WHOLE = (Operation.POSTERIZE, Operation.SOLARIZE, Operation.SOLARIZE_ADD)
_WITHOUT_ARGUMENT = (Operation.AUTO_CONTRAST, Operation.EQUALIZE, Operation.INVERT)


@cache
def photographs(size: int, count: int = len(NAMES)) -> torch.Tensor:
    """uint8 [count, 3, size, size]: the middle of each photograph, resized."""
    pictures = []
    for name in NAMES[:count]:
        whole = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
        side = min(whole.size)
        left, top = (whole.width - side) // 2, (whole.height - side) // 2
        pictures.append(whole.resize((size, size), box=(left, top, left + side, top + side)))
    return torch.stack([to_tensor(picture) for picture in pictures])


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """uint8 [3, h, w]."""
    return torch.from_numpy(np.array(picture).transpose(2, 0, 1).copy())


def to_picture(pixels: torch.Tensor) -> Image.Image:
    """The inverse of `to_tensor`."""
    return Image.fromarray(pixels.numpy().transpose(1, 2, 0).copy())


def as_timm_does(
    picture: Image.Image, op: Operation, argument: float, cubic: bool = False, nearest: bool = False
) -> Image.Image:
    """The operation by the function that timm's own policies call (torchvision's, for the hue)."""
    if op == Operation.IDENTITY:
        return picture
    if op == Operation.HUE:
        return torchvision_operations.adjust_hue(picture, argument)
    if op == Operation.POSTERIZE and int(argument) == 0:
        return picture.point(lambda value: 0)  # timm means the mask 0, which Pillow no longer accepts
    arguments = () if op in _WITHOUT_ARGUMENT else (int(argument) if op in _WHOLE else argument,)
    resample = Image.Resampling.BICUBIC if cubic else Image.Resampling.BILINEAR
    if nearest:
        resample = Image.Resampling.NEAREST
    return timm_operations.NAME_TO_OP[_TIMM_NAMES[op]](picture, *arguments, resample=resample, fillcolor=FILL)


def batch_as_timm_does(pixels: torch.Tensor, plan: Plan, nearest: bool = False) -> torch.Tensor:
    """Every row of a plan through timm's functions, one after the other."""
    out = []
    for row, image in enumerate(pixels):
        picture = to_picture(image)
        for op, argument, cubic in zip(plan.op[row], plan.magnitude[row], plan.op_cubic[row], strict=True):
            picture = as_timm_does(picture, Operation(op), float(argument), bool(cubic), nearest)
        out.append(to_tensor(picture))
    return torch.stack(out)


def plan_with(rows: int, **fields: np.ndarray) -> Plan:
    """A plan that does nothing but what `fields` say."""
    nothing = {
        "box": np.zeros((rows, 4), np.int32),
        "cubic": np.zeros(rows, np.bool_),
        "flip": np.zeros(rows, np.bool_),
        "shift": np.zeros((rows, 2), np.int32),
        "op": np.zeros((rows, 0), np.uint8),
        "magnitude": np.zeros((rows, 0), np.float32),
        "erase": np.zeros((rows, 0, 4), np.int32),
        "noise": np.zeros(rows, np.uint64),
        "weight": np.ones(rows // 2, np.float32),
        "cut": np.zeros((rows // 2, 4), np.int32),
    }
    given = nothing | fields
    return Plan(**{"op_cubic": np.zeros(given["op"].shape, np.bool_)} | given)


def plan_of_operations(rows: int, op: Operation, arguments: np.ndarray | float, cubic: bool = False) -> Plan:
    """A plan of one operation, the same for all rows, with an argument for each or for all."""
    return plan_with(
        rows,
        op=np.full((rows, 1), op, np.uint8),
        magnitude=np.broadcast_to(np.asarray(arguments, np.float32).reshape(-1, 1), (rows, 1)).copy(),
        op_cubic=np.full((rows, 1), cubic),
    )


def random_plan(rows: int, columns: int, seed: int) -> Plan:
    """Any operation with any of its arguments, in any order."""
    rng = np.random.default_rng(seed)
    op = rng.integers(0, len(Operation), (rows, columns)).astype(np.uint8)
    magnitude = np.array([[rng.choice(ARGUMENTS[Operation(code)]) for code in row] for row in op], np.float32)
    return plan_with(rows, op=op, magnitude=magnitude, op_cubic=rng.random((rows, columns)) < 0.5)

"""Real photographs as batches, and what timm makes of them."""

from functools import cache

import numpy as np
import skimage.data
import timm.data.auto_augment as timm_operations
import torch
from PIL import Image
from torchvision.transforms import functional as torchvision_operations

from kdcache.views.operations import Operation
from kdcache.views.pixels.kernels import pillow
from kdcache.views.plan import Plan

# Those that scikit-image ships in its wheel: people, an animal, still life, night, tissue, an eye's back, stars.
NAMES = ("astronaut", "chelsea", "coffee", "rocket", "immunohistochemistry", "retina", "hubble_deep_field")

FILL = (124, 116, 104)

_WHOLE = (Operation.POSTERIZE, Operation.SOLARIZE, Operation.SOLARIZE_ADD)
_WITHOUT_ARGUMENT = (Operation.AUTO_CONTRAST, Operation.EQUALIZE, Operation.INVERT)


@cache
def photographs(size: int, count: int = len(NAMES)) -> torch.Tensor:
    """uint8 [count, 3, size, size]: the middle of each photograph, resized."""
    images = []
    for name in NAMES[:count]:
        whole = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
        side = min(whole.size)
        left, top = (whole.width - side) // 2, (whole.height - side) // 2
        images.append(whole.resize((size, size), box=(left, top, left + side, top + side)))
    return torch.stack([to_tensor(image) for image in images])


def to_tensor(image: Image.Image) -> torch.Tensor:
    """uint8 [3, h, w]."""
    return torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())


def to_image(pixels: torch.Tensor) -> Image.Image:
    """The inverse of `to_tensor`."""
    return Image.fromarray(pixels.numpy().transpose(1, 2, 0).copy())


def as_timm_does(
    image: Image.Image, op: Operation, argument: float, cubic: bool = False, nearest: bool = False
) -> Image.Image:
    """The operation by the function that timm's own policies call, or torchvision's for the hue.

    For an operation that neither of them has, it is our own kernel for Pillow, which the batched kernel must equal.
    """
    if op == Operation.IDENTITY:
        return image
    if op == Operation.HUE:
        return torchvision_operations.adjust_hue(image, argument)
    if op == Operation.POSTERIZE and int(argument) == 0:
        return image.point(lambda value: 0)  # timm means the mask 0, which Pillow no longer accepts
    timm_name = next(iter(op.spec.levels), None)
    if timm_name not in timm_operations.NAME_TO_OP:
        return pillow.operate(image, op, argument, cubic, FILL, nearest)
    arguments = () if op in _WITHOUT_ARGUMENT else (int(argument) if op in _WHOLE else argument,)
    resample = Image.Resampling.BICUBIC if cubic else Image.Resampling.BILINEAR
    if nearest:
        resample = Image.Resampling.NEAREST
    return timm_operations.NAME_TO_OP[timm_name](image, *arguments, resample=resample, fillcolor=FILL)


def batch_as_timm_does(pixels: torch.Tensor, plan: Plan, nearest: bool = False) -> torch.Tensor:
    """Every row of a plan through timm's functions, one after the other."""
    out = []
    for row, planes in enumerate(pixels):
        image = to_image(planes)
        for op, argument, cubic in zip(plan.op[row], plan.magnitude[row], plan.op_cubic[row], strict=True):
            image = as_timm_does(image, Operation(op), float(argument), bool(cubic), nearest)
        out.append(to_tensor(image))
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
    """Any operation with any of its samples, in any order."""
    rng = np.random.default_rng(seed)
    op = rng.integers(0, len(Operation), (rows, columns)).astype(np.uint8)
    magnitude = np.array([[rng.choice(Operation(code).spec.samples) for code in row] for row in op], np.float32)
    return plan_with(rows, op=op, magnitude=magnitude, op_cubic=rng.random((rows, columns)) < 0.5)

"""What the batched kernels promise, as plain functions of a device: tests run them on the CPU, a script on a GPU.

No operation has a tolerance: every value of every operation is Pillow's, at the borders of a warp too.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from kdcache.views.operations import WARPS, Operation
from kdcache.views.pixels.augment import shift
from kdcache.views.pixels.erase import erase
from kdcache.views.pixels.kernels import batched
from kdcache.views.pixels.noise import normals, philox
from kdcache.views.policy import ERASE_MODES, Policy
from support.photographs import (
    FILL,
    NAMES,
    batch_as_timm_does,
    photographs,
    plan_of_operations,
    plan_with,
    random_plan,
)

CUBIC_OR_NOT = [(op, False) for op in Operation] + [(op, True) for op in WARPS]


def check_operation(
    device: torch.device, op: Operation, cubic: bool, size: int, count: int, nearest: bool = False
) -> None:
    """Every sample of an argument on every photograph, in one batch, against timm's operation on Pillow images."""
    samples = op.spec.samples
    arguments = np.repeat(np.array(samples, np.float32), count)
    pixels = photographs(size, count).repeat(len(samples), 1, 1, 1)
    plan = plan_of_operations(len(pixels), op, arguments, cubic)
    got = batched.operate(pixels.to(device), plan, FILL, nearest).cpu()
    wanted = batch_as_timm_does(pixels, plan, nearest)
    for argument in samples:
        rows = torch.from_numpy(arguments == np.float32(argument))
        apart = (got[rows].int() - wanted[rows].int()).abs()
        share = (apart > 0).double().mean().item()
        assert share == 0, f"{op.name} {argument}: {share:.2%} of the values differ, by up to {apart.max().item()}"


def check_random_operations(device: torch.device, rows: int = 48, size: int = 64, seed: int = 0) -> None:
    """Several operations in a row, another list for each image."""
    some = photographs(size)
    pixels = some.repeat(-(-rows // len(some)), 1, 1, 1)[:rows]
    plan = random_plan(rows, 4, seed)
    got = batched.operate(pixels.to(device), plan, FILL).cpu()
    assert torch.equal(got, batch_as_timm_does(pixels, plan))


def check_shift(device: torch.device) -> None:
    """As on the CPU."""
    pixels = photographs(32)
    offset = np.random.default_rng(0).integers(-40, 41, (len(pixels), 2)).astype(np.int32)
    assert torch.equal(shift(pixels.to(device), offset, 32).cpu(), shift(pixels, offset, 32))


def check_noise(device: torch.device) -> None:
    """The same bits as on the CPU, words and normal numbers."""
    counter = torch.from_numpy(np.random.default_rng(0).integers(0, 2**32, (100_000, 4), np.int64))
    words = philox(counter, (7, 11))
    there = philox(counter.to(device), (7, 11))
    assert torch.equal(there.cpu(), words)
    assert torch.equal(normals(there).cpu(), normals(words))


def check_erase(device: torch.device, mode: str) -> None:
    """The same bits as on the CPU."""
    pixels = photographs(48)
    rows = len(pixels)
    boxes = np.tile(np.array([[3, 5, 20, 30], [10, 0, 40, 9]], np.int32), (rows, 1, 1))
    plan = plan_with(rows, erase=boxes, noise=np.arange(rows, dtype=np.uint64) << np.uint64(40))
    policy = Policy(erase_mode=mode, reference_size=64)
    there = erase(pixels.to(device), plan.erase, plan.noise, policy).cpu()
    assert torch.equal(there, erase(pixels, plan.erase, plan.noise, policy))


CHECKS: dict[str, Callable[[torch.device], None]] = {
    **{
        f"{op.name.lower()}{'-cubic' * cubic}-{size}": partial(
            check_operation, op=op, cubic=cubic, size=size, count=count
        )
        for op, cubic in CUBIC_OR_NOT
        for size, count in ((224, 1), (96, len(NAMES)))
    },
    **{
        f"{op.name.lower()}-nearest-{size}": partial(
            check_operation, op=op, cubic=False, size=size, count=count, nearest=True
        )
        for op in WARPS
        for size, count in ((224, 1), (96, len(NAMES)))
    },
    **{f"lists-{seed}": partial(check_random_operations, seed=seed) for seed in range(3)},
    "shift": check_shift,
    "noise": check_noise,
    **{f"erase-{mode}": partial(check_erase, mode=mode) for mode in ERASE_MODES},
}
"""The checks of this module by name."""

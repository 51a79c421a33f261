"""What Triton's kernels promise: the bits of torch's batched kernels, whatever the batch.

Plain functions of a device: a GPU runs them as they are; a CPU does with TRITON_INTERPRET=1, set before Triton is
imported, so in a process of its own. Run as a program, this prints the result of each check as JSON.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from kdcache.models.network import Normaliser
from kdcache.views.operations import WARPS, Operation
from kdcache.views.pixels.erase import erase
from kdcache.views.pixels.fused import erasing, mixing, values, warps
from kdcache.views.pixels.fused import operate as fused
from kdcache.views.pixels.fused.erasing import erase_boxes
from kdcache.views.pixels.fused.mixing import mix_images
from kdcache.views.pixels.kernels import batched
from kdcache.views.pixels.mix import mix
from kdcache.views.pixels.normalisation import Normalisation
from kdcache.views.policy import ERASE_MODES, Policy
from support.photographs import FILL, photographs, plan_of_operations, plan_with, random_plan

_IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
#: Pixels a side: odd, more than one block, the last of them partly empty. The interpreter is slow: it gets few pixels.
SIZE = 19 if _IS_INTERPRETED else 131


def _same(got: torch.Tensor, wanted: torch.Tensor, what: str = "values") -> None:
    assert got.dtype == wanted.dtype
    apart = (got.double() - wanted.double()).abs()
    share = (apart > 0).double().mean().item()
    assert torch.equal(got, wanted), f"{share:.2%} of the {what} differ, by up to {apart.max().item():.3g}"


def check_operation(device: torch.device, op: Operation, cubic: bool = False, nearest: bool = False) -> None:
    """Every sample of an argument on a photograph, and on images of one and of few values."""
    generator = torch.Generator().manual_seed(0)
    few = torch.tensor([0, 3, 4, 255], dtype=torch.uint8)[torch.randint(4, (3, SIZE, SIZE), generator=generator)]
    images = torch.cat([photographs(SIZE, 1), few[None], torch.full_like(few, 7)[None]])
    images = images[:1] if op.spec.is_warp else images
    samples = op.spec.samples
    pixels = images.repeat(len(samples), 1, 1, 1)
    plan = plan_of_operations(len(pixels), op, np.repeat(np.array(samples, np.float32), len(images)), cubic)
    given = pixels.to(device)
    got = fused.operate(given, plan, FILL, nearest).cpu()
    _same(got, batched.operate(pixels, plan, FILL, nearest))
    assert torch.equal(given.cpu(), pixels), "the pixels that were given have changed"


def check_tiny(device: torch.device, size: int) -> None:
    """Several operations in a row on images of a few pixels."""
    pixels = photographs(35, 5)[:, :, :size, :size].contiguous()
    plan = random_plan(len(pixels), 2, seed=size)
    _same(fused.operate(pixels.to(device), plan, FILL).cpu(), batched.operate(pixels, plan, FILL))


def check_lists(device: torch.device, seed: int) -> None:
    """Lists of four operations, some of them none, and rows interleaved in memory."""
    pixels = photographs(SIZE).repeat(2, 1, 1, 1).contiguous(memory_format=torch.channels_last)
    plan = random_plan(len(pixels), 4, seed)
    plan.op[np.random.default_rng(seed).random(plan.op.shape) < 0.4] = Operation.IDENTITY
    plan.op[3] = Operation.IDENTITY
    assert {0, 1, 2, 3} <= {*(plan.op != Operation.IDENTITY).sum(1).tolist()}
    _same(fused.operate(pixels.to(device), plan, FILL).cpu(), batched.operate(pixels, plan, FILL))


def check_nothing(device: torch.device) -> None:
    """A plan without an operation copies."""
    pixels = photographs(SIZE, 3)
    _same(fused.operate(pixels.to(device), plan_with(3), FILL).cpu(), pixels)


def check_mix(device: torch.device, floats: bool, normalisation: Normalisation | None, rows: int = 9) -> None:
    """Pairs of each kind and a last row without a partner; float32 pixels leave 0..255 as erased ones do."""
    pixels = photographs(SIZE).repeat(2, 1, 1, 1)[:rows].contiguous()
    pixels = pixels.float() * 1.3 - 40.7 if floats else pixels
    weight = np.array([1.0, 0.3, 0.71, 1.0], np.float32)[: rows // 2]
    box = np.array([[0, 0, 0, 0], [0, 0, 0, 0], [3, 5, 12, SIZE], [0, 0, 7, 9]], np.int32)[: rows // 2]
    cuts = box[:, 2] > box[:, 0]
    got = mix_images(pixels.to(device), weight, cuts, box, normalisation).cpu()
    mixed = mix(pixels, weight, box, SIZE)
    if normalisation is None:
        _same(got, mixed)
        return
    wanted = Normaliser(normalisation.mean, normalisation.std)(mixed).to(normalisation.dtype)
    _same(got, wanted)
    _same(normalisation(mixed), wanted)
    assert got.is_contiguous(memory_format=normalisation.memory_format)


def check_erase(device: torch.device, mode: str, boxes: int = 2) -> None:
    """Boxes that overlap, rows without one, and random bits in all 64 places."""
    pixels = photographs(SIZE, 4)
    rng = np.random.default_rng(0)
    box = np.tile(np.array([[3, 5, 12, 18], [10, 0, SIZE, 9]], np.int32)[:boxes], (len(pixels), 1, 1))
    box[1] = 0
    noise = rng.integers(0, 1 << 64, len(pixels), np.uint64)
    policy = Policy(erase_mode=mode, reference_size=SIZE)
    got = erase_boxes(pixels.to(device), box, noise, policy).cpu()
    _same(got, erase(pixels, box, noise, policy))


_MODEL = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

CHECKS: dict[str, Callable[[torch.device], None]] = {
    **{op.name.lower(): partial(check_operation, op=op) for op in Operation},
    **{f"{op.name.lower()}-cubic": partial(check_operation, op=op, cubic=True) for op in WARPS},
    **{f"{op.name.lower()}-nearest": partial(check_operation, op=op, nearest=True) for op in WARPS},
    **{f"tiny-{size}": partial(check_tiny, size=size) for size in (1, 2, 3, 7)},
    **{f"lists-{seed}": partial(check_lists, seed=seed) for seed in range(2)},
    "nothing": check_nothing,
    **{
        f"mix-{'floats' if floats else 'bytes'}": partial(check_mix, floats=floats, normalisation=None)
        for floats in (0, 1)
    },
    **{
        f"mix-normalised-{dtype}-{memory_format}": partial(
            check_mix, floats=True, normalisation=replace(_MODEL, dtype=dtype, memory_format=memory_format)
        )
        for dtype, memory_format in (
            (torch.float32, torch.contiguous_format),
            (torch.float32, torch.channels_last),
            (torch.bfloat16, torch.channels_last),
            (torch.float16, torch.channels_last),
        )
        # The interpreter cuts off what a GPU rounds; a test of the compiled kernel sees the rounding.
        if not (_IS_INTERPRETED and dtype == torch.bfloat16)
    },
    "mix-one-row": partial(check_mix, floats=False, normalisation=None, rows=1),
    **{f"erase-{mode}": partial(check_erase, mode=mode) for mode in ERASE_MODES},
}
"""The checks of this module by name."""


def result_of(check: Callable[[torch.device], None], device: torch.device) -> str:
    """An empty text where the check holds, else what went wrong."""
    try:
        check(device)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main() -> None:
    """Run the checks that are named, or all, in blocks that are as small as the images."""
    for module in (erasing, mixing, values, warps):
        module._BLOCK = 128
    results = {}
    for name in sys.argv[1:] or CHECKS:
        results[name] = result_of(CHECKS[name], torch.device("cpu"))
        print(name, results[name] or "holds", file=sys.stderr, flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()

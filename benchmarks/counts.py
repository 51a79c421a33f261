"""Launches and bytes that augmenting, mixing and normalising a batch take on a GPU, by torch's kernels and by Triton's.

    python benchmarks/counts.py [--rows 256] [--size 224] [--policy NAME ...]

Nothing is computed and no GPU is needed: the plan is drawn, and tensors on PyTorch's device `meta` have shapes alone. A
launch is a kernel of Triton or an ATen call that is neither a view nor an allocation, copies of plans from the host
among them. The bytes of a launch are those of the tensors that it reads and writes, each counted once: of a tensor that
is indexed, as many as come out, and of images that a kernel takes by their rows, those rows. Every launch reads its
input from memory here; a cache may hold a part of it.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdcache.views.pixels import augment, erase, mix
from kdcache.views.pixels.fused import erasing, mixing, values, warps
from kdcache.views.pixels.normalisation import Normalisation
from kdcache.views.plan import Plan, make_plan
from kdcache.views.policies import NAMED
from kdcache.views.policy import Policy

POLICIES = ("crop-mix", "a2", "b", "three-augment")
#: Operations that take of their first argument as many elements as they give.
INDEXING = ("index", "gather", "index_select")
ALLOCATING = ("empty", "new_empty", "empty_like", "empty_strided")
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass
class Count:
    """Launches so far, and the bytes that they read and write."""

    launches: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        """Count a launch."""
        self.launches += 1
        self.bytes += size


def memory(tensor: Tensor) -> int:
    """The bytes of a tensor; what is expanded lies in memory once."""
    dimensions = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.element_size() * math.prod(extent for extent, stride in dimensions if stride != 0 or extent == 0)


class CountedCalls(TorchDispatchMode):
    """Counts ATen calls."""

    def __init__(self, count: Count) -> None:
        super().__init__()
        self.count = count

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if func.is_view or name in ALLOCATING or name == "detach":
            return out
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        written = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if name in INDEXING:
            size = 2 * memory(written[0]) + sum(map(memory, read[1:]))
        elif name in ("index_put_", "index_put"):
            size = 2 * memory(read[-1]) + sum(map(memory, read[1:-1]))
        else:
            size = sum(map(memory, read)) + sum(map(memory, written))
        self.count.add(size)
        return out


@contextmanager
def triton_kernels(count: Count) -> Iterator[None]:
    """Take Triton's path, and count its launches instead of making them."""

    def counted(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        images = 2 * grid[0] if kernel is mixing.mix_kernel else grid[0]
        tensors = [each for each in arguments if isinstance(each, Tensor)]
        # An empty batch of images has no size of its own.
        count.add(
            sum(min(memory(each), images * memory(each[0])) if each.ndim == 4 else memory(each) for each in tensors)
        )

    with ExitStack() as stack:
        for module in (augment, erase, mix):
            stack.enter_context(patch.object(module, "runs_on", lambda device: True))
        for kernels in (erasing, mixing, values, warps):
            stack.enter_context(patch.object(kernels, "launch", counted))
        yield


def path(policy: Policy, plan: Plan, size: int) -> None:
    """What a loader of a GPU does with a batch that is rendered."""
    pixels = torch.empty(len(plan.op), 3, size, size, dtype=torch.uint8, device="meta")
    with augment.Augmenter(policy, threads=1) as augmenter:
        augmented = augmenter.apply(pixels, plan)
    mix.mix_and_normalise(augmented, plan.weight, plan.cut, policy.reference_size, IMAGENET)


def count_of(policy: Policy, plan: Plan, size: int, triton: bool) -> Count:
    """Launches and bytes of a batch."""
    count = Count()
    with CountedCalls(count), ExitStack() as stack:
        if triton:
            stack.enter_context(triton_kernels(count))
        path(policy, plan, size)
    return count


def plan_of(policy: Policy, rows: int) -> Plan:
    """The plan of view 0 of photographs of 500 x 375 pixels."""
    keys = np.random.default_rng(0).integers(0, 1 << 63, rows).astype(np.uint64)
    return make_plan(policy, 0, 0, keys, np.full(rows, 375), np.full(rows, 500))


def table(policies: Sequence[str], rows: int, size: int) -> str:
    """The counts as a table in Markdown."""
    lines = [
        "| policy | torch: launches | torch: GB | Triton: launches | Triton: GB |",
        "|---|---:|---:|---:|---:|",
    ]
    for name in policies:
        policy = NAMED[name]
        plan = plan_of(policy, rows)
        torch_path, triton_path = (count_of(policy, plan, size, triton) for triton in (False, True))
        lines.append(
            f"| {name} | {torch_path.launches:,} | {torch_path.bytes / 1e9:.2f} "
            f"| {triton_path.launches} | {triton_path.bytes / 1e9:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256, help="images of the batch")
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--policy", nargs="+", default=POLICIES, choices=sorted(NAMED))
    asked = parser.parse_args()
    print(
        f"{asked.rows} images of {asked.size} x {asked.size} pixels, normalised in float32, torch {torch.__version__}\n"
    )
    print(table(asked.policy, asked.rows, asked.size))


if __name__ == "__main__":
    main()

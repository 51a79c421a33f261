"""Each kernel of Triton compiled for a GPU that need not be there: as a program, prints its PTX as JSON.

Not with TRITON_INTERPRET=1, which leaves nothing to compile.
"""

import json
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kdcache.views.pixels.fused import erasing, mixing, values, warps

HOPPER = GPUTarget("cuda", 90, 32)

#: Kernel, types of its arguments in their order, and values of its constants.
KERNELS: dict[str, tuple[Any, tuple[str, ...], dict[str, Any]]] = {
    "values": (values.values_kernel, ("*u8", "*u8", "*i32", "*u8", "i32"), {"block": 1024}),
    "measure": (values.measure_kernel, ("*u8", "*u8", "*i32", "i32"), {"block": 4096}),
    "warp": (warps.warp_kernel, ("*u8", "*u8", "*i32", "*fp64", "i32", "i32"), {"block": 256}),
    "nearest": (warps.nearest_kernel, ("*u8", "*u8", "*i32", "*i64", "*i32", "i32", "i32"), {"block": 256}),
    "erase": (
        erasing.erase_kernel,
        ("*u8", "*fp32", "*i32", "*i64", "*fp64", "i32"),
        {"boxes_a_row": 1, "mode": 2, "block": 512},
    ),
    "mix": (
        mixing.mix_kernel,
        ("*fp32", "*bf16", "*i32", "*fp32", "i32", "i32"),
        {"channels": 3, "normalised": True, "interleaved": True, "block": 1024},
    ),
    "hue": (values.hue_kernel, ("*u8", "*u8", "*i32", "i32"), {"block": 1024}),
}


def ptx_of(name: str) -> str:
    """The PTX of a kernel for sm_90, without fused multiply-adds."""
    kernel, types, constants = KERNELS[name]
    names = [name for name in kernel.arg_names if name not in constants]
    signature = {**dict(zip(names, types, strict=True)), **dict.fromkeys(constants, "constexpr")}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=HOPPER, options={"enable_fp_fusion": False})
    text: str = compiled.asm["ptx"]
    return text


if __name__ == "__main__":
    print(json.dumps({name: ptx_of(name) for name in sys.argv[1:] or KERNELS}))

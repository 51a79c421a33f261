"""The same contract with pixels on a GPU, where there is one: they are rendered on the CPU and copied.

What is decoded on the GPU differs from Pillow's by rounding, which `benchmarks/gpu_checks.py` measures.
"""

import pytest
import torch

from support.renderer_contract import RendererContract

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


class TestDaliForAGpu(RendererContract):
    name = "dali"
    device = "cuda:0"


class TestPillowForAGpu(RendererContract):
    name = "pillow"
    device = "cuda:0"

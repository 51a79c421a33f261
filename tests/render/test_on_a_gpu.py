"""The same contract with pixels on a GPU, where there is one: rendered there, or on the CPU and copied."""

import pytest
import torch

from kdcache.errors import BrokenImageError
from support.images import encode, photograph, png_that_dali_refuses
from support.renderer_contract import RendererContract, request

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


class OnAGpu(RendererContract):
    device = "cuda:0"

    def test_the_host_waits_for_nothing_that_the_gpu_has_yet_to_do(self) -> None:
        """Pixels are handed over while the GPU is still busy with what was asked of it before."""
        one = request([encode(photograph(), "JPEG")] * 8, [(0, 0, 300, 300)] * 8)
        done = torch.cuda.Event()
        with self.open() as renderer:
            wanted = self.rendered(renderer, one)
            torch.cuda.synchronize()
            torch.cuda._sleep(10**10)  # cycles: some seconds
            done.record()
            pixels = self.rendered(renderer, one)
            assert not done.query(), "rendering waited for the GPU"
            assert torch.equal(pixels, wanted)


class TestDaliDecodingOnTheGpu(OnAGpu):
    name = "dali"
    decode = "gpu"
    decoding_error = 0.5

    def test_an_image_that_dali_refuses_here_may_be_decoded_on_the_cpu(self) -> None:
        odd = request([png_that_dali_refuses(20, 20)], [(0, 0, 9, 9)])
        with self.open() as renderer, pytest.raises(BrokenImageError, match=r"use --decode cpu, or repair that sample"):
            self.rendered(renderer, odd)


class TestDaliDecodingInHardware(OnAGpu):
    """Where a GPU has no such decoder, its cores decode."""

    name = "dali"
    decode = "hardware"
    decoding_error = 2.0  # as without fancy upsampling; not measured yet


class TestDaliDecodingOnTheCpu(OnAGpu):
    name = "dali"


class TestPillow(OnAGpu):
    name = "pillow"

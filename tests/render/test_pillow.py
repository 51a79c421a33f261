import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from support.images import encode, photograph
from support.renderer_contract import RendererContract, channels_first, request


class TestPillowRenderer(RendererContract):
    name = "pillow"

    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
    def test_pixels_are_those_of_torchvision(self, interpolation: str) -> None:
        photo = photograph("coffee")
        box = (31, 77, 250, 333)
        wanted = F.hflip(F.resized_crop(photo, *box, [96, 96], InterpolationMode(interpolation)))
        with self.open(size=96) as renderer:
            cubic = [interpolation == "bicubic"]
            (pixels,) = renderer.stream([request([encode(photo, "PNG")], [box], [True], cubic)])
        assert torch.equal(pixels[0], channels_first(wanted))

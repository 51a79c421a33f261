import re

import numpy as np
import pytest
import torch

from kdcache.errors import DeviceError, UsageError
from kdcache.render.base import RenderRequest
from kdcache.render.opening import open_renderer
from support.images import encode, photograph


def request(images: int, boxes: int, cubic: int, flips: int) -> RenderRequest:
    return RenderRequest(
        [b""] * images, np.ones((boxes, 4), np.int32), cubic=np.zeros(cubic, bool), flips=np.zeros(flips, bool)
    )


@pytest.mark.parametrize("counts", [(2, 1, 1, 1), (1, 2, 2, 2)])
def test_a_request_has_one_box_one_filter_and_one_flip_for_each_image(counts: tuple[int, int, int, int]) -> None:
    message = "has {} images, {} boxes, {} filters and {} flips".format(*counts)
    with pytest.raises(UsageError, match=message):
        request(*counts)


def test_a_request_is_not_empty() -> None:
    with pytest.raises(UsageError, match="at least one image"):
        request(0, 0, 0, 0)


@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, -1, 5, 5), (0, 0, 0, 5), (0, 0, 5, 0)])
def test_a_box_is_not_empty_and_starts_inside(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(UsageError, match="A box must start at 0"):
        RenderRequest([b""], np.array([box], np.int32), cubic=np.zeros(1, bool), flips=np.zeros(1, bool))


def test_an_unknown_renderer_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no renderer 'opencv'; use dali or pillow"):
        open_renderer("opencv", size=8, max_batch=1)


@pytest.mark.parametrize("number", ["size", "max_batch", "threads"])
def test_numbers_are_at_least_one(number: str) -> None:
    numbers = {"size": 8, "max_batch": 1, "threads": 1} | {number: 0}
    with pytest.raises(UsageError, match="of at least 1"):
        open_renderer("pillow", **numbers)


@pytest.mark.parametrize("name", ["dali", "pillow"])
def test_a_gpu_that_is_not_there_is_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="no usable GPU"):
        open_renderer(name, size=8, max_batch=1, device="cuda")


@pytest.mark.parametrize("name", ["dali", "pillow"])
@pytest.mark.parametrize("decode", ["auto", "cpu"])
def test_without_a_gpu_images_are_decoded_on_the_cpu_and_the_version_says_so(name: str, decode: str) -> None:
    with open_renderer(name, size=8, max_batch=1, decode=decode) as renderer:
        assert renderer.decode == "cpu"
        assert re.fullmatch(rf"{name} [0-9.]+ cpu", renderer.version)


@pytest.mark.parametrize(
    ("name", "decode", "error", "message"),
    [
        ("dali", "gpu", DeviceError, "pixels on the device cpu: use --decode cpu, or --device cuda"),
        ("pillow", "gpu", DeviceError, "pillow decodes on the CPU alone: use --decode cpu, or --renderer dali"),
        ("dali", "hardware", DeviceError, "pixels on the device cpu: use --decode cpu, or --device cuda"),
        ("pillow", "hardware", DeviceError, "pillow decodes on the CPU alone: use --decode cpu, or --renderer dali"),
        ("dali", "tpu", UsageError, "no place to decode called 'tpu'; use auto, cpu, gpu, hardware"),
    ],
)
def test_a_place_to_decode_that_is_not_there_is_refused(name: str, decode: str, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        open_renderer(name, size=8, max_batch=1, decode=decode)


@pytest.mark.parametrize("name", ["dali", "pillow"])
def test_what_is_decoded_on_the_cpu_goes_to_a_gpu_from_pinned_memory_and_nobody_waits(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU, torch is watched instead; `benchmarks/gpu/sitting.py` sees it happen on one."""
    allocate, pinned, copies = torch.empty, [], []

    def empty(*shape: object, pin_memory: bool = False, **options: object) -> torch.Tensor:
        pinned.append(pin_memory)
        return allocate(*shape, **options)

    def to(pixels: torch.Tensor, device: torch.device, **options: object) -> torch.Tensor:
        copies.append((str(device), options))
        return pixels

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with open_renderer(name, size=8, max_batch=2, device="cuda", decode="cpu") as renderer:
        monkeypatch.setattr(torch, "empty", empty)
        monkeypatch.setattr(torch.Tensor, "to", to)
        two = [encode(photograph(), "JPEG")] * 2
        no = np.zeros(2, bool)
        pixels = renderer.render(two, np.full((2, 4), 9, np.int32), cubic=no, flips=no)
        monkeypatch.undo()
    assert pinned == [True]
    assert copies == [("cuda", {"non_blocking": True})]
    assert torch.equal(pixels[0], pixels[1])

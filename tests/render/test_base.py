import numpy as np
import pytest
import torch

from kdcache.errors import DeviceError, UsageError
from kdcache.render.base import RenderRequest
from kdcache.render.opening import open_renderer


def test_a_request_has_one_box_and_one_flip_for_each_image() -> None:
    with pytest.raises(UsageError, match="has 2 images, 1 boxes and 1 flips"):
        RenderRequest([b"", b""], np.ones((1, 4), np.int32), np.zeros(1, bool))


def test_a_request_is_not_empty() -> None:
    with pytest.raises(UsageError, match="at least one image"):
        RenderRequest([], np.ones((0, 4), np.int32), np.zeros(0, bool))


@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, -1, 5, 5), (0, 0, 0, 5), (0, 0, 5, 0)])
def test_a_box_is_not_empty_and_starts_inside(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(UsageError, match="A box must start at 0"):
        RenderRequest([b""], np.array([box], np.int32), np.zeros(1, bool))


def test_an_unknown_renderer_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no renderer 'opencv'; use dali or pillow"):
        open_renderer("opencv", size=8, interpolation="bilinear", max_batch=1)


def test_an_unknown_interpolation_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no interpolation 'nearest'; use bilinear or bicubic"):
        open_renderer("pillow", size=8, interpolation="nearest", max_batch=1)


@pytest.mark.parametrize("number", ["size", "max_batch", "threads"])
def test_numbers_are_at_least_one(number: str) -> None:
    numbers = {"size": 8, "max_batch": 1, "threads": 1} | {number: 0}
    with pytest.raises(UsageError, match="of at least 1"):
        open_renderer("pillow", interpolation="bilinear", **numbers)


@pytest.mark.parametrize("name", ["dali", "pillow"])
def test_a_gpu_that_is_not_there_is_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="no usable GPU"):
        open_renderer(name, size=8, interpolation="bilinear", max_batch=1, device="cuda")

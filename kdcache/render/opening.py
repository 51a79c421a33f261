"""Choosing a renderer by name."""

import torch

from kdcache.errors import DeviceError, UsageError
from kdcache.render.base import RENDERERS, Renderer


def open_renderer(
    name: str,
    *,
    size: int,
    max_batch: int,
    threads: int | None = None,
    device: torch.device | str = "cpu",
    decode: str = "auto",
) -> Renderer:
    """The renderer called `name`: "dali", or "pillow", the reference that works anywhere.

    threads: how many decode at once; by default as many as this process has cores. decode: "cpu", "gpu", or "auto":
    on the GPU where the device is one and the renderer can. Raises UsageError for an unknown name, DeviceError when
    DALI is not installed or the device is not there.
    """
    renderer = _renderer_class(name)
    return renderer(size=size, max_batch=max_batch, threads=threads, device=device, decode=decode)


def renderer_version(name: str, *, device: torch.device | str = "cpu", decode: str = "auto") -> str:
    """What a renderer says of itself in `Renderer.version`.

    Opens one for a moment, so it raises what `open_renderer` would raise: a renderer that cannot work here is told
    before anything else is done.
    """
    with open_renderer(name, size=8, max_batch=2, threads=1, device=device, decode=decode) as renderer:
        return renderer.version


def _renderer_class(name: str) -> type[Renderer]:
    """Only the renderer that was asked for is imported: DALI exists on Linux alone."""
    match name:
        case "pillow":
            from kdcache.render.pillow import PillowRenderer

            return PillowRenderer
        case "dali":
            try:
                from kdcache.render.dali import DaliRenderer
            except ImportError as error:
                raise DeviceError(
                    f"The renderer dali cannot be loaded ({error}). "
                    "Use --renderer pillow, or install nvidia-dali-cuda120."
                ) from error
            return DaliRenderer
    raise UsageError(f"There is no renderer {name!r}; use {' or '.join(RENDERERS)}.")

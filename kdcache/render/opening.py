"""Opens a renderer by its name."""

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
    """Open a renderer.

    Args:
        name: "dali", or "pillow", which is the reference and works anywhere.
        size: height and width of the results in pixels.
        max_batch: largest number of images in a request.
        threads: number of threads that decode; None for as many as the process has cores.
        device: device of the results.
        decode: place where images are decoded, "cpu", "gpu" or "hardware", a GPU's decoder of JPEGs; "auto" is "gpu"
            if `device` is one and the renderer can decode there.

    Raises:
        UsageError: there is no renderer of that name.
        DeviceError: DALI is not installed, or the device is not there.
    """
    renderer = _renderer_class(name)
    return renderer(size=size, max_batch=max_batch, threads=threads, device=device, decode=decode)


def renderer_version(name: str, *, device: torch.device | str = "cpu", decode: str = "auto") -> str:
    """Return the `Renderer.version` of a renderer.

    The renderer is opened for a moment. So a renderer that cannot work here is found before anything else is done.

    Raises:
        UsageError, DeviceError: as for `open_renderer`.
    """
    with open_renderer(name, size=8, max_batch=2, threads=1, device=device, decode=decode) as renderer:
        return renderer.version


def _renderer_class(name: str) -> type[Renderer]:
    """Return the class of a renderer. It alone is imported, because DALI exists for Linux only."""
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

"""The interface of all renderers: encoded bytes, crop boxes and flips go in, pixels of one size come out.

A renderer draws no random numbers, and the pixels of one image are a function of its own bytes, box and flip: its
batch, its place there, the number of threads and what was rendered before change nothing. Two renderers agree exactly
in geometry, and in pixels within the rounding of their resize.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import KW_ONLY, dataclass
from types import TracebackType
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int32, UInt8
from torch import Tensor

from kdcache.errors import DeviceError, UsageError
from kdcache.render.encoded import DATA
from kdcache.runtime.device import share_of_cores
from kdcache.runtime.reused_memory import ReusedMemory

RENDERERS = ("dali", "pillow")
DECODES = ("auto", "cpu", "gpu", "hardware")

#: Where a renderer decodes: "gpu" is by kernels on its cores, "hardware" by the decoder of JPEGs that some GPUs have.
Decoder = Literal["cpu", "gpu", "hardware"]


def describe_position(position: int) -> str:
    """Return the name of an image in an error if nothing but its place in the batch is known."""
    return f"image {position} of the batch"


@dataclass(frozen=True, eq=False)
class RenderRequest:
    """One batch to render.

    Attributes:
        encoded: image files, one `bytes` for each image.
        boxes: part of each image to show, in source pixels: top, left, height, width.
        cubic: whether the antialiased resize of that part is bicubic; otherwise it is bilinear.
        flips: whether the part is mirrored left to right.
        crop_pct: None resizes each part to the square. With a number, the part is resized until its shorter side has
            floor(size / crop_pct) pixels, and the central square is cut out, as in timm's evaluation transform.
        describe: function from a position in the request to the image's name in an error, such as "KEY in SHARD at
            byte OFFSET".
        data: shards of the images, as the command that an error advises takes them.

    Raises:
        UsageError: there is no image, the lengths differ, or a box is empty or starts below zero.
    """

    encoded: Sequence[bytes]
    boxes: Int32[np.ndarray, "b 4"]
    _: KW_ONLY
    cubic: Bool[np.ndarray, "b"]
    flips: Bool[np.ndarray, "b"]
    crop_pct: float | None = None
    describe: Callable[[int], str] = describe_position
    data: str = DATA

    def __post_init__(self) -> None:
        if not len(self.encoded) == len(self.boxes) == len(self.cubic) == len(self.flips) > 0:
            raise UsageError(
                "A request must have one box, one filter and one flip for each image, and at least one image, but has "
                f"{len(self.encoded)} images, {len(self.boxes)} boxes, {len(self.cubic)} filters and "
                f"{len(self.flips)} flips."
            )
        if self.boxes[:, :2].min() < 0 or self.boxes[:, 2:].min() < 1:
            raise UsageError("A box must start at 0 or later and be at least one pixel high and wide.")
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise UsageError(f"A request's crop_pct is a share of the side, over 0 to 1, not {self.crop_pct}.")

    def __len__(self) -> int:
        return len(self.encoded)


class Renderer(ABC):
    """Renders requests to pixels of one size.

    Close a renderer to end its threads, or use it as a context manager.

    Attributes:
        size: height and width of the results in pixels.
        max_batch: largest number of images in a request.
        threads: number of threads that decode.
        device: device of the results; pixels that are computed on the CPU are copied there.
        decode: place where images are decoded, "cpu", "gpu" or "hardware".
    """

    name: ClassVar[str]
    decodes_on_gpu: ClassVar[bool]

    def __init__(
        self,
        *,
        size: int,
        max_batch: int,
        threads: int | None = None,
        device: torch.device | str = "cpu",
        decode: str = "auto",
    ) -> None:
        if size < 1 or max_batch < 1 or (threads is not None and threads < 1):
            raise UsageError(
                f"A renderer needs a size, a batch and threads of at least 1, not {size}, {max_batch} and {threads}."
            )
        self.size = size
        self.max_batch = max_batch
        self.threads = threads or share_of_cores()
        self.device = torch.device(device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise DeviceError(
                f"Pixels on {self.device} were asked for, but there is no usable GPU. "
                "Use the device cpu, or check the driver."
            )
        self.decode = self._choose_decode(decode)
        self._streaming = False
        self._closed = False
        self._memory = ReusedMemory()
        self._open()

    def _choose_decode(self, decode: str) -> Decoder:
        """Where to decode, for one of `DECODES`. Raises DeviceError or UsageError for what is not possible."""
        match decode:
            case "auto":
                return "gpu" if self.decodes_on_gpu and self.device.type == "cuda" else "cpu"
            case "cpu":
                return "cpu"
            case "gpu" | "hardware" if not self.decodes_on_gpu:
                raise DeviceError(
                    f"The renderer {self.name} decodes on the CPU alone: use --decode cpu, or --renderer dali."
                )
            case "gpu" | "hardware" if self.device.type != "cuda":
                raise DeviceError(
                    f"Images cannot be decoded on the GPU for pixels on the device {self.device}: use --decode cpu, or "
                    "--device cuda where there is a GPU."
                )
            case "gpu" | "hardware":
                return decode
        raise UsageError(f"There is no place to decode called {decode!r}; use {', '.join(DECODES)}.")

    def stream(self, requests: Iterable[RenderRequest]) -> Iterator[UInt8[Tensor, "b 3 s s"]]:
        """Render requests in order: uint8 [b, 3, size, size] for each, on the renderer's device.

        A bounded number of requests is taken and rendered ahead of the consumer, who may keep the tensors. The
        errors about an image name it, and are raised after all earlier requests have been delivered; the renderer can
        be used again afterwards.

        Raises:
            BrokenImageError: an image cannot be decoded.
            DataError: a box reaches over the edge of its image.
            UsageError: another stream of this renderer has not ended, a request is too large, or the renderer is
                closed.
        """
        self._require_open()
        if self._streaming:
            raise UsageError("This renderer is still streaming; end that stream first, or open a second renderer.")
        self._streaming = True
        try:
            with closing(self._stream(self._check_sizes(requests))) as rendered:
                for pixels in rendered:
                    yield pixels
                    self._require_open()
        finally:
            self._streaming = False

    def render(
        self,
        encoded: Sequence[bytes],
        boxes: Int32[np.ndarray, "b 4"],
        *,
        cubic: Bool[np.ndarray, "b"],
        flips: Bool[np.ndarray, "b"],
        crop_pct: float | None = None,
        describe: Callable[[int], str] = describe_position,
    ) -> UInt8[Tensor, "b 3 s s"]:
        """Render one batch to uint8 [b, 3, size, size]. Arguments are those of `RenderRequest`, errors of `stream`."""
        request = RenderRequest(encoded, boxes, cubic=cubic, flips=flips, crop_pct=crop_pct, describe=describe)
        (pixels,) = self.stream([request])
        return pixels

    def close(self) -> None:
        """End the renderer's threads and free its memory; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._close()

    @property
    @abstractmethod
    def version(self) -> str:
        """The library, its version and where it decodes, as provenance of pixels: "pillow 13.0.0 cpu"."""

    def __enter__(self) -> "Renderer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _require_open(self) -> None:
        if self._closed:
            raise UsageError("This renderer is closed; open another one.")

    def _check_sizes(self, requests: Iterable[RenderRequest]) -> Iterator[RenderRequest]:
        """Pass requests on. Raises UsageError at one with more than `max_batch` images."""
        for request in requests:
            if len(request) > self.max_batch:
                raise UsageError(
                    f"A request has {len(request)} images, but this renderer was opened for at most {self.max_batch}."
                )
            yield request

    def _allocate(self, count: int) -> UInt8[Tensor, "b 3 s s"]:
        """Memory of the CPU for finished pixels; it is pinned if they are copied to a GPU."""
        shape = (count, 3, self.size, self.size)
        if self.device.type == "cuda":
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        return self._memory.empty(shape, torch.uint8)

    def _to_device(self, pixels: UInt8[Tensor, "b 3 s s"]) -> UInt8[Tensor, "b 3 s s"]:
        """Copy memory from `_allocate` to the device; only later computations there wait for the copy."""
        return pixels.to(self.device, non_blocking=True)

    @abstractmethod
    def _open(self) -> None:
        """Start what the renderer needs. It is called once, after the arguments have been checked."""

    @abstractmethod
    def _stream(self, requests: Iterator[RenderRequest]) -> Generator[UInt8[Tensor, "b 3 s s"], None, None]:
        """Render requests as `stream` promises; each has a valid size. If closed early, it leaves nothing in flight."""

    @abstractmethod
    def _close(self) -> None:
        """End what `_open` started. It is called once."""

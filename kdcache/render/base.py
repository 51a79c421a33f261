"""What every renderer does: encoded bytes, crop boxes and flips go in, pixels of one size come out.

A renderer obeys. It draws no random numbers, and the pixels of one image are a function of its own bytes, box
and flip: the batch it came in, its place there, the number of threads and what was rendered before change
nothing. Two renderers agree in geometry exactly, and in pixels within the rounding of their resize.
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

RENDERERS = ("dali", "pillow")
DECODES = ("auto", "cpu", "gpu")


def describe_position(position: int) -> str:
    """How an image is named where nothing better than its place in the batch is known."""
    return f"image {position} of the batch"


@dataclass(frozen=True, eq=False)
class RenderRequest:
    """One batch to render.

    encoded: the image files, one `bytes` each.
    boxes: int32 [b, 4], the part of each image to show: top, left, height, width in source pixels.
    cubic: bool [b], whether the antialiased resize of that part is bicubic, else bilinear.
    flips: bool [b], whether it is mirrored, left to right.
    crop_pct: None resizes each part to the square. A number makes of it what timm's evaluation transform would: the
        part is resized until its shorter side has floor(size / crop_pct) pixels, and the centre is cut out.
    describe: position in this request -> how an error names that image ("KEY in SHARD at byte OFFSET").
    data: the shards they come from, as the command takes them that an error advises.

    Raises UsageError when there is no image, the lengths differ, or a box is empty or starts below zero.
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
    """Makes pixels of one size out of requests.

    size: height and width of the pixels; max_batch: the most images a request may have; threads: how many decode
    at once; device: where the pixels lie; decode: where images are decoded, "cpu" or "gpu" (pixels that were made on
    the CPU are copied to the device). Close a renderer to end its threads, or use it as a context manager.
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
        self.decode = self._place_to_decode(decode)
        self._streaming = False
        self._closed = False
        self._open()

    def _place_to_decode(self, asked: str) -> Literal["cpu", "gpu"]:
        match asked:
            case "auto":
                return "gpu" if self.decodes_on_gpu and self.device.type == "cuda" else "cpu"
            case "cpu":
                return "cpu"
            case "gpu" if not self.decodes_on_gpu:
                raise DeviceError(
                    f"The renderer {self.name} decodes on the CPU alone: use --decode cpu, or --renderer dali."
                )
            case "gpu" if self.device.type != "cuda":
                raise DeviceError(
                    f"Images cannot be decoded on the GPU for pixels on the device {self.device}: use --decode cpu, or "
                    "--device cuda where there is a GPU."
                )
            case "gpu":
                return "gpu"
        raise UsageError(f"There is no place to decode called {asked!r}; use {', '.join(DECODES)}.")

    def stream(self, requests: Iterable[RenderRequest]) -> Iterator[UInt8[Tensor, "b 3 s s"]]:
        """Render each request, in order: one uint8 [b, 3, size, size] a request, on the renderer's device.

        Requests are taken and rendered ahead of the consumer by a bounded number; the tensors are the
        consumer's to keep. An image that cannot be decoded raises BrokenImageError, a box that reaches over
        its image's edge DataError; both name the image, and come once every request before has been delivered.
        The renderer works on with the next call. One stream at a time: end or close a stream before the next
        one, else UsageError.
        """
        self._require_open()
        if self._streaming:
            raise UsageError("This renderer is still streaming; end that stream first, or open a second renderer.")
        self._streaming = True
        try:
            with closing(self._stream(self._checked(requests))) as rendered:
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
        """Render one batch: uint8 [b, 3, size, size]; see `RenderRequest` and `stream`."""
        request = RenderRequest(encoded, boxes, cubic=cubic, flips=flips, crop_pct=crop_pct, describe=describe)
        (pixels,) = self.stream([request])
        return pixels

    def close(self) -> None:
        """End the renderer's threads and give its memory back; closing twice does no harm."""
        if not self._closed:
            self._closed = True
            self._close()

    @property
    @abstractmethod
    def version(self) -> str:
        """What renders and where it decodes, for the provenance of pixels: "pillow 13.0.0 cpu", "dali 2.4.0 gpu"."""

    def __enter__(self) -> "Renderer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _require_open(self) -> None:
        if self._closed:
            raise UsageError("This renderer is closed; open another one.")

    def _checked(self, requests: Iterable[RenderRequest]) -> Iterator[RenderRequest]:
        for request in requests:
            if len(request) > self.max_batch:
                raise UsageError(
                    f"A request has {len(request)} images, but this renderer was opened for at most {self.max_batch}."
                )
            yield request

    def _room(self, count: int) -> UInt8[Tensor, "b 3 s s"]:
        """Memory of the CPU for finished pixels; pinned where a GPU takes them from it."""
        shape = (count, 3, self.size, self.size)
        return torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")

    def _hand_over(self, pixels: UInt8[Tensor, "b 3 s s"]) -> UInt8[Tensor, "b 3 s s"]:
        """What `_room` gave, on the device; nobody waits for the copy but what is computed there afterwards."""
        return pixels.to(self.device, non_blocking=True)

    @abstractmethod
    def _open(self) -> None:
        """Called once, when everything that was asked for is known and possible."""

    @abstractmethod
    def _stream(self, requests: Iterator[RenderRequest]) -> Generator[UInt8[Tensor, "b 3 s s"], None, None]:
        """What `stream` promises, for requests that fit; closed early, it leaves nothing in flight."""

    @abstractmethod
    def _close(self) -> None:
        """Called once."""

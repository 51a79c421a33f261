"""Images that an import makes smaller."""

from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from kdcache.data.images import open_image, to_rgb
from kdcache.data.writer import NewSample
from kdcache.errors import DataError, UsageError

#: Quality of JPEG where none is asked for.
DEFAULT_QUALITY = 90


@dataclass(frozen=True)
class Resizing:
    """Makes large images smaller: the shorter side gets `side` pixels, and the image becomes a JPEG.

    Images whose shorter side is not longer than that are copied unchanged. The filter is Pillow's bicubic one, which
    takes all pixels into account. What a renderer ignores is dropped: rotation in EXIF, transparency, colour profiles.
    The quality goes from 1 to 100.
    """

    side: int
    quality: int = DEFAULT_QUALITY

    def __post_init__(self) -> None:
        """Raise UsageError for a side below 1 and a quality out of its range."""
        if self.side < 1:
            raise UsageError(f"Images cannot be resized to {self.side} pixels. Give a number from 1.")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"JPEG has no quality {self.quality}. Give a number from 1 to 100.")

    def apply(self, sample: NewSample) -> NewSample:
        """Return the sample with a smaller image. Raises DataError if it cannot be decoded."""
        smaller = self._smaller(sample.data, sample.key)
        return sample if smaller is None else sample._replace(data=smaller, extension="jpg")

    def apply_to_bytes(self, data: bytes, where: str) -> bytes:
        """Return an encoded image, smaller; `where` names it in the message of a DataError."""
        smaller = self._smaller(data, where)
        return data if smaller is None else smaller

    def _smaller(self, data: bytes, where: str) -> bytes | None:
        """Return a smaller JPEG, or None where the image is small enough."""
        try:
            with open_image(BytesIO(data)) as image:
                shorter = min(image.size)
                if shorter <= self.side:
                    return None
                width, height = (max(self.side, round(edge * self.side / shorter)) for edge in image.size)
                pixels = image if image.mode == "L" else to_rgb(image)
                smaller = pixels.resize((width, height), Image.Resampling.BICUBIC)
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError and others
            raise DataError(
                f"{where} cannot be decoded: {error}. Replace or remove the image, and run the import again."
            ) from error
        buffer = BytesIO()
        smaller.save(buffer, "JPEG", quality=self.quality)
        return buffer.getvalue()

"""A contact sheet: images in lines and columns with captions below them, as one HTML file or one PNG."""

import base64
import html
import io
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from kdcache.errors import RunError, UsageError, printable
from kdcache.io.atomic import replace_file
from kdcache.io.disk import make_root
from kdcache.io.failures import cannot_write

FORMATS = (".html", ".png")
_SMALL = 96  # pixels; smaller images are enlarged without interpolation
_GAP, _LINE = 12, 15  # pixels between cells, and of a line of text
_INK, _CLASSES, _PAPER = (30, 30, 30), (0, 90, 160), (255, 255, 255)


@dataclass(frozen=True, eq=False)
class CaptionedImage:
    """An image, its caption, and the teacher's likeliest classes; one item per line."""

    pixels: UInt8[np.ndarray, "h w 3"]
    caption: tuple[str, ...]
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Cell:
    """Images that are shown side by side, such as a mixed pair."""

    images: tuple[CaptionedImage, ...]


@dataclass(frozen=True, eq=False)
class Sheet:
    """The content of a contact sheet.

    Attributes:
        title: lines above the table, of which the first is the heading.
        columns: one heading for each cell of a line.
        lines: rows of cells.
    """

    title: tuple[str, ...]
    columns: tuple[str, ...]
    lines: tuple[tuple[Cell, ...], ...]


def require_format(out: Path) -> None:
    """Raise UsageError where no sheet can be written to `out`, by its extension."""
    if out.suffix not in FORMATS:
        raise UsageError(f"{out} is neither .html nor .png. Name the file --out accordingly.")


def write_sheet(sheet: Sheet, out: Path) -> None:
    """Write the sheet in the format of `out`'s extension, one of `FORMATS`, and replace an existing file.

    Raises RunError if it cannot be written; an existing file is unchanged then.
    """
    sheet = printable_sheet(sheet)
    content = _to_html(sheet).encode() if out.suffix == ".html" else _to_png(sheet)
    try:
        make_root(out.parent)
        replace_file(out.parent, out.name, content)
    except OSError as error:
        raise RunError(cannot_write(out, error, "An existing file is unchanged")) from error


def png_of(sheet: Sheet) -> bytes:
    """Return the sheet as the bytes of a PNG."""
    return _to_png(printable_sheet(sheet))


def printable_sheet(sheet: Sheet) -> Sheet:
    """Return the sheet with unprintable characters escaped, which keys and class names may contain."""

    def seen(texts: Iterable[str]) -> tuple[str, ...]:
        return tuple(map(printable, texts))

    def cell(of: Cell) -> Cell:
        images = (CaptionedImage(each.pixels, seen(each.caption), seen(each.classes)) for each in of.images)
        return Cell(tuple(images))

    return Sheet(seen(sheet.title), seen(sheet.columns), tuple(tuple(map(cell, line)) for line in sheet.lines))


# HTML: one file, without scripts, fonts or other files

# Cells of a line wrap, each under its own heading, so that nothing is cut on a narrow screen; a pair stays together.
_STYLE = f"""
:root {{ color-scheme: light dark; --ink: rgb{_INK}; --paper: rgb{_PAPER}; --classes: rgb{_CLASSES}; --tint: #eef1f5; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e6e6e6; --paper: #16181b; --classes: #7cc0ff; --tint: #262a30; }}
}}
body {{ font: 14px/1.35 system-ui, sans-serif; margin: clamp(10px, 2vw, 24px); }}
body {{ color: var(--ink); background: var(--paper); }}
h1 {{ font-size: 22px; margin: 0 0 6px; overflow-wrap: anywhere; }}
body > p {{ margin: 0 0 4px; }}
table, tbody {{ display: block; }}
tr {{ display: flex; flex-wrap: wrap; gap: 12px; padding: 14px 0; border-top: 1px solid var(--tint); }}
tr:first-child {{ display: none; }}
td {{ display: block; padding: 8px; max-width: 100%; box-sizing: border-box; border-radius: 6px; }}
td.pair {{ background: var(--tint); }}
td::before {{ content: attr(data-column); display: block; font-weight: 600; margin-bottom: 4px; }}
.cell {{ display: flex; gap: 6px; }}
figure {{ margin: 0; flex: 0 1 var(--width); min-width: 0; }}
figcaption p {{ margin: 2px 0 0; overflow-wrap: anywhere; }}
figcaption .classes {{ color: var(--classes); font-weight: 600; font-variant-numeric: tabular-nums; }}
img {{ display: block; max-width: 100%; height: auto; }}
img.small {{ width: 192px; image-rendering: pixelated; }}
"""


def _to_html(sheet: Sheet) -> str:
    heading, *rest = (html.escape(line) for line in sheet.title)
    head = "".join(f"<th>{html.escape(column)}</th>" for column in sheet.columns)
    body = "\n".join(f"<tr>{''.join(map(_cell_to_html, sheet.columns, cells))}</tr>" for cells in sheet.lines)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{heading}</title>\n<style>{_STYLE}</style></head>\n<body>\n<h1>{heading}</h1>\n"
        + "".join(f"<p>{line}</p>\n" for line in rest)
        + f"<table>\n<tr>{head}</tr>\n{body}\n</table>\n</body>\n</html>\n"
    )


def _cell_to_html(column: str, cell: Cell) -> str:
    pair = len(cell.images) > 1
    heading = html.escape(f"{column}, a mixed pair" if pair else column)
    images = "".join(map(_image_to_html, cell.images))
    return f'<td{" class=pair" * pair} data-column="{heading}"><div class="cell">{images}</div></td>\n'


def to_data_url(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    """Return an image as a URL that holds all of it: a PNG if it is small, else a JPEG."""
    format, settings = ("PNG", {}) if _is_small(pixels) else ("JPEG", {"quality": 92})
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **settings)
    return f"data:image/{format.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def _is_small(pixels: UInt8[np.ndarray, "h w 3"]) -> bool:
    return max(pixels.shape[:2]) < _SMALL


def _image_to_html(captioned: CaptionedImage) -> str:
    height, width = captioned.pixels.shape[:2]
    source = to_data_url(captioned.pixels)
    caption = "".join(f"<p>{html.escape(line)}</p>" for line in captioned.caption)
    classes = "".join(f'<p class="classes">{html.escape(line)}</p>' for line in captioned.classes)
    kind = ' class="small"' if _is_small(captioned.pixels) else ""
    image = f'<img{kind} width="{width}" height="{height}" alt="" src="{source}">'
    text = f"<figcaption>{caption}{classes}</figcaption>"
    return f'<figure style="--width: {max(width, 2 * _SMALL)}px">{image}{text}</figure>'


# PNG


class _Text:
    """Draws text of one font size, with line breaks."""

    def __init__(self) -> None:
        self._font = ImageFont.load_default(size=12)

    def broken(self, lines: Iterable[str], width: int) -> list[str]:
        """Break each line that is wider than `width` pixels, at a space if possible."""
        out: list[str] = []
        for line in lines:
            current = ""
            for word in line.split(" "):
                longer = f"{current} {word}".strip()
                if current and self._font.getlength(longer) > width:
                    out.append(current)
                    longer = word
                while len(longer) > 1 and self._font.getlength(longer) > width:
                    lengths = [self._font.getlength(longer[:end]) for end in range(1, len(longer))]
                    fitting = max(1, bisect_right(lengths, width))
                    out.append(longer[:fitting])
                    longer = longer[fitting:]
                current = longer
            out.append(current)
        return out

    def draw(self, canvas: ImageDraw.ImageDraw, at: tuple[int, int], lines: Sequence[str], colour: object) -> None:
        """Draw lines below each other, from the upper left corner `at`."""
        for number, line in enumerate(lines):
            canvas.text((at[0], at[1] + number * _LINE), line, fill=colour, font=self._font)  # type: ignore[arg-type]


def _to_png(sheet: Sheet) -> bytes:
    text = _Text()
    grid = [[[_Tile(text, captioned) for captioned in cell.images] for cell in cells] for cells in sheet.lines]
    widths = [max(_width(line[column]) for line in grid) for column in range(len(sheet.columns))]
    heights = [max(tile.height for cell in line for tile in cell) for line in grid]
    width = sum(widths) + _GAP * (len(widths) + 1)
    title = text.broken(sheet.title, width - 2 * _GAP)
    top = _GAP + _LINE * (len(title) + 2)
    image = Image.new("RGB", (width, top + sum(heights) + _GAP * (len(heights) + 1)), _PAPER)
    canvas = ImageDraw.Draw(image)
    text.draw(canvas, (_GAP, _GAP), title, _INK)
    lefts = [_GAP + sum(widths[:column]) + _GAP * column for column in range(len(widths))]
    for left, column in zip(lefts, sheet.columns, strict=True):
        text.draw(canvas, (left, top - _LINE), [column], _INK)
    y = top + _GAP
    for line, height in zip(grid, heights, strict=True):
        for left, cell in zip(lefts, line, strict=True):
            x = left
            for tile in cell:
                tile.draw(image, canvas, x, y)
                x += tile.width + 4
        y += height + _GAP
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _width(cell: Sequence["_Tile"]) -> int:
    return sum(tile.width for tile in cell) + 4 * (len(cell) - 1)


class _Tile:
    """The layout of an image with its caption below."""

    def __init__(self, text: _Text, captioned: CaptionedImage) -> None:
        height, width = captioned.pixels.shape[:2]
        enlarged = max(1, -(-_SMALL * 2 // max(height, width))) if max(height, width) < _SMALL else 1
        self._image = Image.fromarray(captioned.pixels).resize(
            (width * enlarged, height * enlarged), Image.Resampling.NEAREST
        )
        self._text = text
        self.width = max(self._image.width, 2 * _SMALL - 32)
        self._caption = text.broken(captioned.caption, self.width)
        self._classes = text.broken(captioned.classes, self.width)
        self.height = self._image.height + _LINE * (len(self._caption) + len(self._classes)) + 6

    def draw(self, image: Image.Image, canvas: ImageDraw.ImageDraw, x: int, y: int) -> None:
        """Draw the tile with its upper left corner at x, y."""
        image.paste(self._image, (x, y))
        below = y + self._image.height + 4
        self._text.draw(canvas, (x, below), self._caption, _INK)
        self._text.draw(canvas, (x, below + _LINE * len(self._caption)), self._classes, _CLASSES)

"""What a page is made of: tables, charts, bars and figures, as plain values; the templates write them as HTML."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True)
class Table:
    """A table of text. The first cell of each row is its heading.

    Attributes:
        caption: what the table shows, in a phrase.
        notes: sentences below it.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chart:
    """A chart, and its numbers as a table for those who cannot see it.

    Attributes:
        svg: the drawing, whose colours are variables of the page.
        summary: what the chart shows, in a sentence, for screen readers.
        note: a sentence below it; empty for none.
    """

    title: str
    svg: Markup
    summary: str
    table: Table
    note: str = ""


@dataclass(frozen=True)
class Bar:
    """A labelled bar.

    Attributes:
        share: length, 0 to 1.
        text: the number that it shows.
    """

    label: str
    share: float
    text: str


@dataclass(frozen=True)
class Figure:
    """An image with captions.

    Attributes:
        source: the image as a data URL.
        alt: description for screen readers.
        caption: lines below it.
        classes: for each model, its name and its likeliest classes.
    """

    source: str
    width: int
    height: int
    alt: str
    caption: tuple[str, ...]
    classes: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True)
class Gallery:
    """Images in lines; a line has the image and its views.

    Attributes:
        notes: sentences above it.
        lines: for each image, headings with the figures below each.
    """

    notes: tuple[str, ...]
    lines: tuple[tuple[tuple[str, tuple[Figure, ...]], ...], ...]


@dataclass(frozen=True)
class Examples:
    """Images that have something in common.

    Attributes:
        heading: what they have in common, in a phrase.
        text: a sentence about all that have it.
    """

    heading: str
    text: str
    figures: tuple[Figure, ...]


def evenly(numbers: Sequence[float], most: int) -> list[float]:
    """Return at most `most` of the numbers, evenly spread over them, with the first and the last."""
    if len(numbers) <= most:
        return list(numbers)
    places = sorted({round(place * (len(numbers) - 1) / (most - 1)) for place in range(most)})
    return [numbers[place] for place in places]

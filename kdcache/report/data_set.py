"""What a page shows of a data set: its classes, the sizes of its images, and its broken images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from kdcache.data.index import Index
from kdcache.errors import printable
from kdcache.report.parts import Bar, Table
from kdcache.runtime.formatting import format_bytes, format_count

#: Broken images that are listed, classes in the table, and classes that are drawn as bars.
MOST_BROKEN, MOST_CLASSES, MOST_BARS = 200, 1000, 10
#: Ends of the groups of the shorter side in pixels; a group is below its end.
_SIDES = (32, 64, 128, 224, 256, 384, 512, 768, 1024, 2048)
#: Ends of the groups of files by their bytes.
_BYTES = (2**10, 2**12, 2**14, 2**16, 2**17, 2**18, 2**19, 2**20, 2**22, 2**24)


@dataclass(frozen=True)
class DataSetSection:
    """What a page shows of a data set.

    Attributes:
        bars: headings, each with its bars.
        classes: number of images of each class; None without labels.
        broken: lines about broken images.
    """

    facts: Table
    bars: tuple[tuple[str, tuple[Bar, ...]], ...] = ()
    classes: Table | None = None
    broken: tuple[str, ...] = ()


def data_set_section(index: Index, broken: Sequence[str] = ()) -> DataSetSection:
    """Return the section about the samples of an index.

    Args:
        broken: bad samples that a check has found, a line each; those that the index knows as lost are added.
    """
    images = (f"{len(index):,}" if len(index) else "none") + (", a part of the shards" if index.is_part else "")
    rows = [
        ("images", images),
        ("shards", f"{len(index.shards):,}"),
        ("classes", f"{index.num_classes:,}" if index.num_classes else "no labels"),
        ("bytes of the images", format_bytes(int(index.length.sum()))),
        ("checked", _checked(index)),
        ("fingerprint", index.fingerprint[:16]),
    ]
    if len(index):
        sides = np.minimum(index.height, index.width)
        small, large = int(sides.argmin()), int(sides.argmax())
        rows[3:3] = [
            ("median size", f"{np.median(index.width):,.0f} x {np.median(index.height):,.0f} pixels"),
            ("smallest by its shorter side", _size(index, small)),
            ("largest by its shorter side", _size(index, large)),
        ]
    counts = _counts(index)
    bars = [
        ("Shorter side of the images", _groups(np.minimum(index.height, index.width), _SIDES, lambda n: f"{n:,} px")),
        ("Bytes of the image files", _groups(index.length, _BYTES, format_bytes)),
        *_class_bars(index, counts),
    ]
    return DataSetSection(
        facts=Table("The data set", ("", "value"), tuple(rows)),
        bars=tuple((heading, found) for heading, found in bars if found),
        classes=_class_table(index, counts) if len(counts) else None,
        broken=_broken([*broken, *(f"marked as lost: {index.describe(int(row))}" for row in index.lost[:MOST_BROKEN])]),
    )


def broken_section(broken: Sequence[str]) -> DataSetSection:
    """Return the section about shards of which there is no index, as a check has found broken images in them."""
    facts = Table("The data set", ("", "value"), (("broken images", f"{len(broken):,}"), ("index", "none yet")))
    return DataSetSection(facts, broken=_broken(broken))


def _checked(index: Index) -> str:
    if index.crc is None:
        return "no image was decoded yet"
    left_out, lost = format_count(index.left_out, "bad image"), f"{len(index.lost):,}"
    return f"every image was decoded; {left_out} left out, {lost} marked as lost"


def _size(index: Index, sample: int) -> str:
    return f"{index.width[sample]:,} x {index.height[sample]:,} pixels: {printable(index.key(sample))}"


def _broken(lines: Sequence[str]) -> tuple[str, ...]:
    shown = dict.fromkeys(map(printable, lines))
    more = len(shown) - MOST_BROKEN
    return (*list(shown)[:MOST_BROKEN], *([f"... and {more:,} more"] if more > 0 else []))


def _groups(values: np.ndarray, ends: Sequence[int], text: Callable[[int], str]) -> tuple[Bar, ...]:
    """Return a bar for each group of values that has any; a group reaches from an end to the next."""
    if not len(values):
        return ()
    counts = np.bincount(np.searchsorted(ends, values, side="right"), minlength=len(ends) + 1)
    bars = []
    for number in np.flatnonzero(counts).tolist():
        if number == 0:
            label = f"below {text(ends[0])}"
        elif number == len(ends):
            label = f"{text(ends[-1])} and more"
        else:
            label = f"{text(ends[number - 1])} to {text(ends[number])}"
        bars.append(Bar(label, counts[number] / len(values), format_count(int(counts[number]), "image")))
    return tuple(bars)


def _counts(index: Index) -> Int64[np.ndarray, "c"]:
    labels = index.label[index.label >= 0]
    return np.bincount(labels, minlength=index.num_classes).astype(np.int64) if len(labels) else np.empty(0, np.int64)


def _name(index: Index, label: int) -> str:
    names = index.class_names
    return printable(names[label]) if names and label < len(names) else f"class {label}"


def _class_bars(index: Index, counts: Int64[np.ndarray, "c"]) -> list[tuple[str, tuple[Bar, ...]]]:
    """Return bars of all classes, or of the largest and of the smallest where they are many."""
    if not len(counts):
        return []
    order = np.argsort(-counts, kind="stable").tolist()

    def bars(labels: list[int]) -> tuple[Bar, ...]:
        most = max(1, int(counts.max()))
        return tuple(
            Bar(_name(index, label), counts[label] / most, format_count(int(counts[label]), "image"))
            for label in labels
        )

    if len(order) <= 2 * MOST_BARS:
        return [("Images by class", bars(order))]
    return [
        ("Classes with the most images", bars(order[:MOST_BARS])),
        ("Classes with the fewest images", bars(order[-MOST_BARS:])),
    ]


def _class_table(index: Index, counts: Int64[np.ndarray, "c"]) -> Table:
    rows = tuple(
        (f"{label}", _name(index, label), f"{counts[label]:,}") for label in range(min(len(counts), MOST_CLASSES))
    )
    more = len(counts) - len(rows)
    notes = (f"{more:,} more classes are left out.",) if more else ()
    return Table("Images of each class", ("label", "class", "images"), rows, notes)

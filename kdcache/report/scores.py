"""What a page shows of scores: their table, reliability diagrams, the weakest classes, and confusions with images."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from kdcache.data.index import Index, open_index
from kdcache.data.reader import SampleReader
from kdcache.errors import DataError, printable
from kdcache.evaluation.report import Scores, ScoreTable
from kdcache.inspection.contact_sheet import to_data_url
from kdcache.render.encoded import UndecodableError, decode_rgb
from kdcache.report.charts import reliability_chart
from kdcache.report.page import Page, table_of
from kdcache.report.palette import MOST_SERIES
from kdcache.report.parts import Examples, Figure, Table
from kdcache.runtime.formatting import format_count
from kdcache.runtime.progress import Progress

#: Models whose confusions are shown on each data set, and pixels of the longer side of an example.
MOST_MODELS, EXAMPLE_SIDE = 4, 160
#: Classes in the table of the weakest.
WEAKEST = 10


def with_scores(
    page: Page,
    table: ScoreTable,
    number_of: Mapping[str, int],
    progress: Progress,
    *,
    reference: str | None = None,
) -> Page:
    """Return the page with the scores of a table.

    Args:
        number_of: numbers of the colours of those models that have one already; others get the next ones.
        reference: model whose confusions are not shown; None for no such model.
    """
    sets = list(dict.fromkeys(row.data for row in table.rows))
    numbers = dict(number_of)
    for row in table.rows:
        numbers.setdefault(row.model, len(numbers))
    drawn = {name: number for name, number in numbers.items() if number < MOST_SERIES}
    left_out = [f"{name} is not drawn: a chart has {MOST_SERIES} lines at most." for name in numbers.keys() - drawn]
    confused: list[Examples] = []
    for data in sets:
        rows = [row for row in table.rows if row.data == data and row.model != reference]
        confused += _confused(rows[:MOST_MODELS], open_index(data, progress=progress))
    return replace(
        page,
        others=tuple((number, printable(name)) for name, number in drawn.items() if name not in number_of),
        comparison=table_of(f"Scores on {', '.join(map(printable, sets))}", table.cells()),
        seeds=table_of("Runs that differ in their seeds alone", table.seed_cells()) if table.seeds else None,
        reliability=tuple(
            reliability_chart([_printable(row) for row in _rows_of(table, data, drawn)], _by_printable(drawn))
            for data in sets
        ),
        classes=tuple(_weakest(row) for row in table.rows if row.model != reference),
        confused=tuple(confused),
        notes=(*page.notes, *map(printable, (*table.notes, *sorted(left_out)))),
    )


def _rows_of(table: ScoreTable, data: str, models: Container[str]) -> list[Scores]:
    return [row for row in table.rows if row.data == data and row.model in models]


def _printable(row: Scores) -> Scores:
    return replace(row, model=printable(row.model), data=printable(row.data))


def _by_printable(numbers: Mapping[str, int]) -> dict[str, int]:
    return {printable(name): number for name, number in numbers.items()}


def _name(row: Scores, label: int) -> str:
    return printable(row.class_names[label]) if row.class_names and label < len(row.class_names) else f"class {label}"


def _weakest(row: Scores) -> Table:
    """Return the classes of which a model knows the smallest share."""
    known = np.flatnonzero(row.class_counts)
    order = known[np.argsort(row.class_accuracy[known], kind="stable")][:WEAKEST].tolist()
    rows = tuple(
        (f"{label}", _name(row, label), f"{row.class_accuracy[label]:.2%}", f"{row.class_counts[label]:,}")
        for label in order
    )
    notes = (f"{len(order)} of {len(known):,} classes.",) if len(order) < len(known) else ()
    caption = f"Classes with the lowest accuracy: {printable(row.model)} on {printable(row.data)}"
    return Table(caption, ("label", "class", "right", "images"), rows, notes)


def _confused(rows: Sequence[Scores], index: Index) -> list[Examples]:
    """Return the confusions of several models on one data set, each with images."""
    found = []
    with SampleReader(index) as reader:
        for row in rows:
            for pair in row.confused:
                heading = f"{printable(row.model)} takes {_name(row, pair.label)} for {_name(row, pair.predicted)}"
                images = f"{format_count(pair.count, 'image')} of {printable(row.data)}"
                text = f"{images}: {pair.within:.2%} of those labelled {_name(row, pair.label)}."
                figures = [_figure(index, reader, sample, heading) for sample in pair.samples]
                found.append(Examples(heading, text, tuple(figure for figure in figures if figure is not None)))
    return found


def _figure(index: Index, reader: SampleReader, sample: int, heading: str) -> Figure | None:
    """Return an image that is confused, made smaller; None where it cannot be read any more."""
    try:
        (encoded,) = reader.read(np.array([sample], np.int64))
        image = decode_rgb(encoded)
    except (DataError, UndecodableError):
        return None
    image.thumbnail((EXAMPLE_SIDE, EXAMPLE_SIDE), Image.Resampling.BICUBIC)
    key = printable(index.key(sample))
    return Figure(to_data_url(np.asarray(image)), image.width, image.height, f"{key}: {heading}", (key,))

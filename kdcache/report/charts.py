"""Charts as SVG, drawn by Vega-Lite while the report is written.

Vega-Lite's own drawing has names of axes and values for screen readers, and its colours may be variables of the page,
so that one drawing serves the light and the dark theme. The page then needs no script: inlined, plotly.js has 4.7 MB
and vega 0.8 MB, and a chart that is drawn before has some 10 KB.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from kdcache.errors import UsageError
from kdcache.evaluation.report import Scores
from kdcache.report.palette import colour_of, dashes_of
from kdcache.report.parts import Chart, Table, evenly
from kdcache.report.runs import RunRecord

#: Pixels of the area that data are drawn in. Page and chart scale together, so that text stays readable at 400 pixels.
WIDTH, HEIGHT = 300, 190
#: Points of a series that are drawn; a chart has fewer pixels. With more than `MOST_MARKED`, only the line is drawn.
MOST_POINTS, MOST_MARKED = 400, 40
#: Rows of the table below a chart; metrics.csv has all.
MOST_ROWS = 40

#: The title of each column of metrics.csv that is drawn, Vega's format of its numbers, and a note.
METRICS = {
    "val_top1": ("Accuracy (top-1) on --val", ".1%", ""),
    "loss": ("Training loss", ".4~g", "Losses of different objectives cannot be compared with each other."),
    "val_loss": ("Cross-entropy on --val", ".4~g", ""),
    "lr": ("Learning rate", ".2~g", ""),
    "images_per_s": ("Images per second", ",.0f", "Without evaluation and saving."),
    "wait_share": ("Share of the time that waited for data", ".1%", "Of the time of the optimiser steps alone."),
}

_AXIS = {
    **{f"{part}Color": "var(--ink)" for part in ("label", "title", "domain", "tick")},
    "gridColor": "var(--rule)",
    "labelFontSize": 12,
    "titleFontSize": 12,
    "titleFontWeight": "normal",
}
_CONFIG = {"font": "system-ui, sans-serif", "view": {"stroke": None}, "axis": _AXIS}
_SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
_NAMESPACES = re.compile(r' (?:xmlns(?::xlink)?="[^"]*"|version="1\.1")')
_POINT = re.compile(r'<path aria-label="([^"]*)"([^>]*?aria-roledescription="point"[^>]*)/>')


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        name: for screen readers.
        number: number of its colour, which is that of its run.
        points: x and y.
    """

    name: str
    number: int
    points: Mapping[float, float]


@dataclass(frozen=True)
class Axes:
    """Titles of both axes, Vega's formats of their numbers, and their ends; None for those of the data."""

    x: str
    y: str
    x_format: str
    y_format: str
    ends: tuple[float, float] | None = None
    diagonal: bool = False


def metric_charts(runs: Sequence[RunRecord]) -> list[Chart]:
    """Return a chart for each column of `METRICS` that any of the runs has."""
    charts = []
    for column, (title, numbers, note) in METRICS.items():
        series = [Series(run.name, number, run.values(column)) for number, run in enumerate(runs)]
        drawn = [one for one in series if one.points]
        if drawn:
            axes = Axes("epoch", "", "d", numbers)
            charts.append(_chart(title, drawn, axes, note))
    return charts


def reliability_chart(scores: Sequence[Scores], number_of: Mapping[str, int]) -> Chart:
    """Return the reliability diagrams of several models over each other.

    Args:
        scores: scores on one data set.
        number_of: number of each model's colour, by its name.
    """
    series = []
    for one in scores:
        bins = [row for row in one.reliability.to_json() if row["samples"]]
        points = {row["confidence"]: row["accuracy"] for row in bins if row["confidence"] is not None}
        series.append(Series(one.model, number_of[one.model], points))
    axes = Axes("mean confidence", "share that is right", ".0%", ".0%", ends=(0.0, 1.0), diagonal=True)
    note = "On the grey diagonal, confidence and accuracy are the same; below it a model is too sure."
    return _chart(f"Reliability on {scores[0].data}", [one for one in series if one.points], axes, note)


def _chart(title: str, series: Sequence[Series], axes: Axes, note: str) -> Chart:
    ends = [f"{one.name}: {_format(list(one.points.values())[-1], axes.y_format)}" for one in series]
    return Chart(
        title=title,
        svg=draw(series, axes),
        summary=f"{title} by {axes.x}. The last values: {'; '.join(ends)}.",
        table=_table(title, series, axes),
        note=note,
    )


def _table(title: str, series: Sequence[Series], axes: Axes) -> Table:
    places = sorted({x for one in series for x in one.points})
    rows = []
    for x in evenly(places, MOST_ROWS):
        cells = [_format(one.points[x], axes.y_format) if x in one.points else "-" for one in series]
        rows.append((_format(x, axes.x_format), *cells))
    notes = (f"{len(rows)} of {len(places):,} rows, evenly spread.",) if len(rows) < len(places) else ()
    return Table(title, (axes.x, *(one.name for one in series)), tuple(rows), notes)


def _format(value: float, numbers: str) -> str:
    """Format a number as Vega does, with Python's names of the same formats."""
    return f"{value:,.0f}" if numbers == "d" else f"{value:{numbers.replace('~', '')}}"


def require_charts() -> None:
    """Raise UsageError where Vega-Lite is not installed."""
    try:
        import vl_convert  # noqa: F401
    except ImportError:
        raise UsageError(
            "The charts are drawn by vl-convert-python, which is not installed: pip install 'kdcache[report]'."
        ) from None


def draw(series: Sequence[Series], axes: Axes) -> Markup:
    """Draw lines over each other, as SVG that can stand in a page.

    Raises:
        UsageError: Vega-Lite is not installed.
    """
    require_charts()
    import vl_convert

    ticks = whole_ticks([x for one in series for x in one.points]) if axes.x_format == "d" else []
    spec = {
        "$schema": _SCHEMA,
        "width": WIDTH,
        "height": HEIGHT,
        "background": None,
        "config": _CONFIG,
        "layer": [
            *([_diagonal()] if axes.diagonal else []),
            *(layer for one in series for layer in _layers(one, axes, ticks)),
        ],
    }
    svg = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    svg = _NAMESPACES.sub("", svg, count=3)
    # What a screen reader says of a point is shown as a tooltip, too.
    svg = _POINT.sub(r'<path aria-label="\1"\2><title>\1</title></path>', svg)
    return Markup(svg)  # Vega escapes all text; no name reaches it but through the JSON of the data


def whole_ticks(values: Sequence[float], most: int = 7) -> list[int]:
    """Return at most about `most` whole numbers between the least and the largest value, in steps of 1, 2 or 5."""
    first, last = math.ceil(min(values)), math.floor(max(values))
    step = next(
        step
        for step in (factor * 10**power for power in range(20) for factor in (1, 2, 5))
        if (last - first) / step < most
    )
    return list(range(-(-first // step) * step, last + 1, step))


def _diagonal() -> dict[str, Any]:
    ends = {name: {"field": name, "type": "quantitative"} for name in ("x", "y")}
    return {
        "data": {"values": [{"x": 0, "y": 0}, {"x": 1, "y": 1}]},
        "mark": {"type": "line", "stroke": "var(--faint)", "strokeWidth": 1, "aria": False},
        "encoding": ends,
    }


def _layers(series: Series, axes: Axes, ticks: Sequence[int]) -> list[dict[str, Any]]:
    kept = evenly(list(series.points), MOST_POINTS)
    values = [
        {
            "x": x,
            "y": series.points[x],
            "text": f"{series.name}, {axes.x} {_format(x, axes.x_format)}: {_format(series.points[x], axes.y_format)}",
        }
        for x in kept
    ]
    encoding = {
        "x": _axis("x", axes.x, axes.x_format, axes.ends, ticks),
        "y": _axis("y", axes.y, axes.y_format, axes.ends),
        "description": {"field": "text", "type": "nominal"},
    }
    colour = colour_of(series.number)
    line = {"type": "line", "stroke": colour, "strokeWidth": 2, "aria": False}
    if dashes_of(series.number):
        line["strokeDash"] = list(dashes_of(series.number))
    marks = [("line", line)]
    if len(values) <= MOST_MARKED:
        marks.append(("points", {"type": "point", "fill": colour, "filled": True, "size": 28, "opacity": 1}))
    return [
        # Vega makes the name a class of the drawing, by which the page hides a run; dashes would become underscores.
        {"name": f"series_{series.number}_{kind}", "data": {"values": values}, "mark": mark, "encoding": encoding}
        for kind, mark in marks
    ]


def _axis(
    field: str, title: str, numbers: str, ends: tuple[float, float] | None, ticks: Sequence[int] = ()
) -> dict[str, Any]:
    axis: dict[str, Any] = {"format": numbers, "tickCount": 6}
    scale: dict[str, Any] = {"zero": False, "nice": field == "y"}
    if ticks:
        axis["values"] = ticks
    if ends is not None:
        scale["domain"] = list(ends)
    return {"field": field, "type": "quantitative", "title": title or None, "axis": axis, "scale": scale}

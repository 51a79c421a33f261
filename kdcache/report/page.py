"""A page: its parts as one HTML file that needs no network and no script.

Names of runs, classes and samples are other people's text. jinja2 escapes all of it, `printable` shows what would not
be seen, and the page's own policy forbids scripts, fonts, forms and every request, whatever a name holds.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from kdcache.errors import RunError, UsageError, printable
from kdcache.io.atomic import replace_file
from kdcache.io.disk import make_root
from kdcache.io.failures import cannot_write
from kdcache.io.folder_lock import hold_beside
from kdcache.report.cache import CacheSection
from kdcache.report.data_set import DataSetSection
from kdcache.report.palette import COLOURS, DARK, LIGHT, MOST_SERIES, colour_of, dashes_of
from kdcache.report.parts import Chart, Examples, Gallery, Table
from kdcache.runtime.progress import Progress
from kdcache.version import __version__


@dataclass(frozen=True)
class Page:
    """The content of a page. A part that is None or empty is left out, and so is its heading.

    Attributes:
        runs: names of the runs, in the order of their colours.
        others: models that are drawn beside them, with the numbers of their colours.
        comparison: scores of the students, beside those of the reference where there is one.
        seeds: means and deviations of runs that differ in their seeds.
        classes: for each model, the classes of which it knows the fewest images.
        confused: classes that the models take for others, with images.
        data_set: what an index holds.
        refresh: seconds after which a browser loads the page again; None for never.
        notes: sentences about what was left out.
    """

    title: str
    runs: tuple[str, ...] = ()
    others: tuple[tuple[int, str], ...] = ()
    summary: Table | None = None
    charts: tuple[Chart, ...] = ()
    comparison: Table | None = None
    seeds: Table | None = None
    reliability: tuple[Chart, ...] = ()
    classes: tuple[Table, ...] = ()
    confused: tuple[Examples, ...] = ()
    data_set: DataSetSection | None = None
    cache: CacheSection | None = None
    gallery: Gallery | None = None
    cost: Table | None = None
    changed: Table | None = None
    settings: Table | None = None
    notes: tuple[str, ...] = ()
    refresh: int | None = None

    def sections(self) -> tuple[tuple[str, str], ...]:
        """Return anchor and heading of each section that is there."""
        found = (
            ("runs", "Runs", self.summary is not None),
            ("curves", "Curves", bool(self.charts)),
            ("scores", "Student and teacher", self.comparison is not None),
            ("confusions", "Confusions", bool(self.confused)),
            ("data", "Data set", self.data_set is not None),
            ("cache", "Cache", self.cache is not None),
            ("gallery", "Gallery", self.gallery is not None),
            ("cost", "Cost", self.cost is not None),
            ("settings", "Configuration", self.settings is not None),
        )
        return tuple((anchor, heading) for anchor, heading, is_there in found if is_there)


def to_html(page: Page) -> str:
    """Return the page as HTML."""
    # Everything is escaped, whatever a template is called; a name that a template misspells is an error.
    environment = Environment(
        loader=PackageLoader("kdcache.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    return environment.get_template("page.html.jinja").render(
        page=page,
        version=__version__,
        light=LIGHT.to_css(),
        dark=DARK.to_css(),
        series=[(number, colour_of(number), " ".join(map(str, dashes_of(number)))) for number in range(MOST_SERIES)],
        colours=COLOURS,
    )


def _breakable(text: str) -> Markup:
    """Return escaped text that browsers may break behind a slash, as paths have no spaces."""
    return Markup(str(escape(text)).replace("/", "/<wbr>"))


def require_html(out: Path) -> None:
    """Raise UsageError where `out` is no name of an HTML file."""
    if out.suffix not in (".html", ".htm"):
        raise UsageError(f"{out} does not end in .html, by which browsers know a page: give such a name.")


@contextmanager
def hold_page(out: Path, option: str, progress: Progress) -> Iterator[None]:
    """Hold the file that is to be written.

    Args:
        option: option of the command that names the file, for messages.

    Raises:
        UsageError: no name of an HTML file.
        FolderHeldError: another process writes the same file.
        RunError: the folder cannot be written.
    """
    require_html(out)
    remedy = f"Wait until it has ended, or give another {option}."
    try:
        lock = hold_beside(out, f"The file {out}", remedy, progress.say)
    except OSError as error:
        raise RunError(cannot_write(out, error, "An existing file is unchanged")) from error
    with lock:
        yield


def write_page(page: Page, out: Path) -> None:
    """Write the page, and replace an existing file. Raises RunError where that fails; the file is unchanged then."""
    content = to_html(page).encode("utf-8")
    try:
        make_root(out.parent)
        replace_file(out.parent, out.name, content)
    except OSError as error:
        raise RunError(cannot_write(out, error, "An existing file is unchanged")) from error


def table_of(caption: str, cells: Sequence[Sequence[str]]) -> Table:
    """Return rows of text, the first of which is the header, as a table."""
    header, *rows = (tuple(map(printable, row)) for row in cells)
    return Table(caption, header, tuple(rows))

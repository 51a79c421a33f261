"""The page of `kdcache index --html`; torch is not imported for it."""

from collections.abc import Sequence
from pathlib import Path

from kdcache.data.index import Index
from kdcache.errors import printable
from kdcache.report.data_set import broken_section, data_set_section
from kdcache.report.page import Page, hold_page, write_page
from kdcache.runtime.progress import Progress


def write_index_page(
    data: str | Path, index: Index | None, broken: Sequence[str], out: Path, progress: Progress
) -> Path:
    """Write what `kdcache index` has found as a page: classes, sizes, broken images; return its path.

    Args:
        data: the shards, as they were named.
        index: None where there is none, as broken images were found before it could be made.
        broken: lines about bad samples that a check has found.

    Raises:
        UsageError: no name of an HTML file.
        RunError: it cannot be written.
        FolderHeldError: another process writes the same file.
    """
    section = broken_section(broken) if index is None else data_set_section(index, broken)
    with hold_page(out, "--html", progress):
        write_page(Page(title=f"Data set {printable(str(data))}", data_set=section), out)
    progress.say(f"The page: {out}")
    return out

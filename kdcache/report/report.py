"""`kdcache report`: what several runs have learned, how, from what, and at what cost, as one page."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kdcache.errors import UsageError, printable
from kdcache.evaluation.evaluate import TableOptions, evaluate_table
from kdcache.evaluation.report import ScoreTable
from kdcache.inspection.contents import InspectReport
from kdcache.inspection.inspect import InspectOptions, inspect
from kdcache.report.cache import cache_section
from kdcache.report.charts import metric_charts
from kdcache.report.costs import DumpRecord, cost_table, read_dumps
from kdcache.report.gallery import GalleryOptions, build_gallery
from kdcache.report.options import ReportOptions as ReportOptions
from kdcache.report.page import Page, hold_page, write_page
from kdcache.report.parts import Gallery
from kdcache.report.runs import RunRecord, read_runs, settings_tables, summary_table
from kdcache.report.scores import with_scores
from kdcache.runtime.progress import Progress, logged

#: Targets of each teacher that are read for the statistics of a page.
DEFAULT_SAMPLES = 10_000


def report(options: ReportOptions, progress: Progress = logged) -> Path:
    """Write the page and return its path. Nothing is read but what the options name.

    Raises:
        UsageError: options that belong to others that are missing, too many runs, or no library that draws charts.
        RunError: a folder is none of a run.
        KdcacheError: models, data or cache cannot be read or do not belong together.
        FolderHeldError: another process writes the same file.
    """
    _require_sane(options)
    with hold_page(options.out, "--out", progress):
        runs = read_runs(options.runs)
        page = page_of_runs(runs, read_dumps(options.dumps))
        if options.data is not None:
            page = _with_scores(page, runs, options, progress)
        if options.cache is not None:
            found = inspect(InspectOptions(options.cache, options.cache_data, DEFAULT_SAMPLES), progress)
            page = replace(page, cache=cache_section(found))
            if options.cache_data is not None:
                page = replace(page, gallery=_gallery(found, runs, options, progress))
        write_page(page, options.out)
    progress.say(f"The report: {options.out}")
    return options.out


def _require_sane(options: ReportOptions) -> None:
    for option, value, needed, there in (
        ("--reference", options.reference, "--data", options.data),
        ("--reference-weights", options.reference_weights, "--reference", options.reference),
        ("--cache-data", options.cache_data, "--cache", options.cache),
        ("--teacher", options.teacher, "--cache-data", options.cache_data),
    ):
        if value is not None and there is None:
            raise UsageError(f"{option} has no use without {needed}: give both, or none of them.")


def page_of_runs(runs: Sequence[RunRecord], dumps: Sequence[DumpRecord] = ()) -> Page:
    """Return the page of what the folders of runs, and the reports of dumps, tell by themselves."""
    changed, settings = settings_tables(runs)
    return Page(
        title=runs[0].name if len(runs) == 1 else f"{len(runs)} runs",
        runs=tuple(run.name for run in runs),
        summary=summary_table(runs),
        charts=tuple(metric_charts(runs)),
        cost=cost_table(runs, dumps),
        changed=changed if len(runs) > 1 else None,
        settings=settings,
        notes=tuple(f"{run.name} has not ended an epoch yet." for run in runs if not run.rows),
    )


def _with_scores(page: Page, runs: Sequence[RunRecord], options: ReportOptions, progress: Progress) -> Page:
    """Return the page with the scores of those runs that have exported weights, and of the reference."""
    assert options.data is not None
    scored = tuple(str(run.folder) for run in runs if run.has_weights)
    left_out = [f"{run.name} has no exported weights yet, so it is not scored." for run in runs if not run.has_weights]
    if not scored:
        return replace(page, notes=(*page.notes, *left_out))
    table = evaluate_table(
        TableOptions(
            models=scored,
            data=(options.data,),
            reference=options.reference,
            reference_weights=options.reference_weights,
            device=options.device,
            imports=options.imports,
        ),
        progress,
    )
    # Colours of runs are those of the curves; a reference beside them has the next one.
    number_of = {str(run.folder): number for number, run in enumerate(runs)}
    page = replace(page, notes=(*page.notes, *left_out))
    return with_scores(page, table, number_of, progress, reference=options.reference)


def _gallery(found: InspectReport, runs: Sequence[RunRecord], options: ReportOptions, progress: Progress) -> Gallery:
    assert options.cache is not None
    assert options.cache_data is not None
    teacher = options.teacher
    if teacher is None and len(found.teachers) == 1:
        teacher = str(found.teachers[0].identity["name"])
    return build_gallery(GalleryOptions(options.cache, options.cache_data, teacher, options.renderer), runs, progress)


def write_inspection(found: InspectReport, out: Path, progress: Progress = logged) -> Path:
    """Write what `kdcache inspect` has found as a page, in the form that it has in a report; return its path.

    Raises:
        UsageError: no name of an HTML file.
        RunError: it cannot be written.
        FolderHeldError: another process writes the same file.
    """
    with hold_page(out, "--html", progress):
        write_page(Page(title=f"Cache {printable(found.cache)}", cache=cache_section(found)), out)
    progress.say(f"The page: {out}")
    return out


def write_evaluation(table: ScoreTable, out: Path, reference: str | None = None, progress: Progress = logged) -> Path:
    """Write the scores of `kdcache evaluate` as a page, in the form that they have in a report; return its path.

    Args:
        reference: model that the others were compared with, as it was named.

    Raises:
        UsageError: no name of an HTML file, or no library that draws charts.
        RunError: it cannot be written.
        FolderHeldError: another process writes the same file.
    """
    with hold_page(out, "--html", progress):
        write_page(with_scores(Page(title="Scores"), table, {}, progress, reference=reference), out)
    progress.say(f"The page: {out}")
    return out

"""The page of `train --report`, which is written at each epoch's end into the folder of the run."""

from dataclasses import replace
from pathlib import Path

from kdcache.report.page import write_page
from kdcache.report.report import page_of_runs
from kdcache.report.runs import read_run
from kdcache.runtime.progress import Progress
from kdcache.training.files import REPORT

#: Seconds after which an open page loads itself again while the run goes on.
REFRESH_SECONDS = 60


def write_running_report(folder: Path, progress: Progress) -> None:
    """Write the page of a run that goes on, in place of the one before; a failure is a warning, and ends nothing.

    The process that trains calls it, which holds the run folder.
    """
    file = folder / REPORT
    try:
        run = read_run(str(folder))
        write_page(replace(page_of_runs([run]), refresh=None if run.is_done else REFRESH_SECONDS), file)
    except Exception as error:  # of a library that draws, of the disk, or of a file that somebody has changed
        text = " ".join(str(error).split()) or type(error).__name__
        progress.warn(f"{file} was not written at this epoch's end ({text:.300}); the training goes on.")

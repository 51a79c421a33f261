"""`train --report`: a page in the run folder at each epoch's end, which shows the run going on and ends no training."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest

from kdcache import jobs
from kdcache.errors import UsageError
from kdcache.report import running
from kdcache.training.files import REPORT
from support.html_page import HtmlPage, require_safe
from support.small_job import MODEL, SETTINGS, Heard


def refresh_of(page: HtmlPage) -> list[str]:
    pairs = [(tag, name, value) for tag, name, value in page.attributes if tag == "meta"]
    return [value for (_, name, kind), (_, _, value) in pairwise(pairs) if (name, kind) == ("http-equiv", "refresh")]


def train(job, out, heard, **options):
    return jobs.train(
        MODEL, job.data, str(job.cache), out=out, epochs=2, recipe="fashion-mnist", device="cpu", renderer="pillow",
        overrides=SETTINGS, report=True, progress=heard, **options,
    )  # fmt: skip


def test_each_epoch_rewrites_the_page_and_no_failure_of_it_ends_the_training(job, tmp_path, monkeypatch):
    """After the first epoch the page reloads itself, after the last it does not; then one that cannot be written."""
    out, heard, pages = tmp_path / "run", Heard(), []
    write = running.write_page

    def keep(page, file: Path):
        write(page, file)
        pages.append(HtmlPage(file.read_text("utf-8")))

    monkeypatch.setattr(running, "write_page", keep)
    assert train(job, out, heard).epochs == 2
    assert not [line for line in heard.warned if REPORT in line]
    for page, epochs, refresh in zip(pages, ("1 of 2", "2 of 2"), (["60"], []), strict=True):
        require_safe(page)
        assert epochs in page.text
        assert refresh_of(page) == refresh
        assert ("The run goes on" in page.text) == bool(refresh)
    assert [path.name for path in out.iterdir() if "report" in path.name] == [REPORT]

    def fail(page, file: Path):
        raise RuntimeError("no drawing today")

    monkeypatch.setattr(running, "write_page", fail)
    assert train(job, out, heard, fresh=True).epochs == 2
    assert not (out / REPORT).exists()  # that of the run before is not left beside the new one
    assert len([line for line in heard.warned if "no drawing today" in line and "the training goes on" in line]) == 2


def test_without_the_library_of_charts_nothing_is_trained(job, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(UsageError, match=r"pip install 'kdcache\[report\]'"):
        train(job, tmp_path / "run", Heard())
    assert not (tmp_path / "run").exists()

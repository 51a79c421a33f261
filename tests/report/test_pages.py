"""The pages of `evaluate --html` and `index --html`, which share the parts of the report."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from kdcache.data.index import open_index
from kdcache.errors import BadSamplesError
from kdcache.evaluation.confusions import most_confused
from kdcache.evaluation.predictions import Predictions
from kdcache.inspection.inspect import InspectOptions, inspect
from kdcache.report.cache import cache_section
from kdcache.report.data_set import MOST_BROKEN, data_set_section
from kdcache.report.index_page import write_index_page
from kdcache.runtime.progress import silent
from kdcache_cli.main import app
from support.html_page import HtmlPage, require_safe

#: Somebody else's name that is markup, a template and a turn of direction.
HOSTILE = "<img src=x onerror=alert(1)>\"'&{{7*7}}]]>\u202e"
SHOWN = HOSTILE.replace("\u202e", "\\u202e")


def read(file: Path) -> HtmlPage:
    page = HtmlPage(file.read_text("utf-8"))
    require_safe(page)
    return page


def predictions(labels: list[int], predicted: list[int], confidence: list[float]) -> Predictions:
    top = np.array(predicted)[:, None]
    logs = np.log(np.array(confidence))
    return Predictions(np.arange(len(labels)) * 10, np.array(labels), top, logs, logs)


def test_the_most_confused_classes_come_with_the_samples_of_which_the_model_was_surest() -> None:
    found = predictions([0, 0, 0, 1, 2, 2], [1, 1, 0, 2, -1, 0], [0.5, 0.9, 0.8, 0.7, 0.6, 0.4])
    first, *others = most_confused(found)
    assert (first.label, first.predicted, first.count, first.samples) == (0, 1, 2, (10, 0))
    assert first.within == pytest.approx(2 / 3)
    assert {(one.label, one.predicted) for one in others} == {(1, 2), (2, 0)}  # -1 is no prediction
    assert most_confused(predictions([0, 1], [0, 1], [0.5, 0.5])) == ()


def test_evaluate_writes_its_scores_as_a_page_with_images_of_confusions(job, tmp_path):
    from support.small_job import make_teacher

    out, model = tmp_path / "scores.html", str(job.weights.parent)
    other = str(make_teacher(tmp_path / "other", seed=8).parent)
    asked = ["evaluate", other, "--reference", model, "--data", job.data, "--device", "cpu", "--html", str(out)]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    page = read(out)
    for phrase in ("Scores on", "agreement", "Reliability on", "Classes with the lowest accuracy", f"{other} takes "):
        assert phrase in page.text, phrase
    assert f"{model} takes " not in page.text  # the reference is not the one that is looked at
    sources = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    assert sources
    assert all(" takes " in text for text in page.values("alt"))
    # Either line of the chart can be hidden.
    assert {value for tag, name, value in page.attributes if (tag, name) == ("input", "id")} == {"show-0", "show-1"}


@pytest.mark.parametrize("command", ["evaluate", "index"])
def test_a_page_needs_a_name_of_a_page(command, job, tmp_path):
    asked = {"evaluate": ["evaluate", "test_resnet", "--data", job.data], "index": ["index", job.data]}[command]
    result = CliRunner().invoke(app, [*asked, "--html", str(tmp_path / "page.pdf")])
    assert result.exit_code == 2
    assert not (tmp_path / "page.pdf").exists()


def test_index_writes_a_page_of_classes_and_sizes(job, tmp_path):
    out = tmp_path / "index.html"
    result = CliRunner().invoke(app, ["index", job.data, "--html", str(out)])
    assert result.exit_code == 0, result.output
    page, index = read(out), open_index(job.data)
    for phrase in ("Data set", f"{len(index):,}", "44 x 36 pixels", "32 px to 64 px", "no image was decoded yet"):
        assert phrase in page.text, phrase
    for count in np.bincount(index.label):
        assert f"{count:,} images" in page.text


def test_broken_images_are_listed_as_text_and_not_without_end(job, tmp_path):
    index = replace(open_index(job.data), lost=np.array([3]))
    page = read(write_and_return(tmp_path / "index.html", job.data, index, [HOSTILE]))
    assert SHOWN in page.text
    assert f"marked as lost: {index.key(3)} in " in page.text
    many = data_set_section(index, [f"bad {number}" for number in range(MOST_BROKEN + 5)])
    assert len(many.broken) == MOST_BROKEN + 1
    assert many.broken[-1] == "... and 6 more"


def write_and_return(out: Path, data: str, index: object, broken: list[str]) -> Path:
    return write_index_page(data, index, broken, out, silent)


def test_a_check_that_fails_has_a_page_of_what_it_found(job, tmp_path, monkeypatch):
    """Also where there is no index yet."""

    def refuse(*_: object) -> None:
        raise BadSamplesError("bad samples", ["img-7 in a.tar"])

    monkeypatch.setattr("kdcache.inspection.index.index", refuse)
    monkeypatch.setattr("kdcache.data.index.find_index", lambda *_, **__: None)
    out = tmp_path / "index.html"
    assert CliRunner().invoke(app, ["index", job.data, "--check", "--html", str(out)]).exit_code != 0
    assert "img-7 in a.tar" in read(out).text


def test_many_classes_are_shown_by_their_ends(job):
    index = open_index(job.data)
    names = tuple(f"name {number}" for number in range(30))
    section = data_set_section(replace(index, num_classes=30, class_names=names))
    headings = dict(section.bars)
    assert len(headings["Classes with the most images"]) == len(headings["Classes with the fewest images"]) == 10
    assert headings["Classes with the fewest images"][-1].text == "0 images"
    assert section.classes is not None
    assert len(section.classes.rows) == 30


def test_the_error_of_targets_is_shown_by_view_and_block(job):
    found = inspect(InspectOptions(str(job.cache)), silent)
    (teacher,) = found.teachers
    # Full targets lose little; what a dump measures is what is shown.
    measured = [kl for blocks in teacher.block_kl.values() for kl in blocks.values()]
    assert (teacher.kl is None) == (not measured)
    errors = {view: {0: 0.25 * view, 1: 0.75 * view} for view in range(1, 31)}
    (section,) = cache_section(replace(found, teachers=(replace(teacher, block_kl=errors),))).teachers
    assert section.kl[0].text == "0.5 nats, blocks 0.25 to 0.75"
    assert (section.kl[-1].label, section.kl[-1].share) == ("view 30", 1)
    assert len(section.kl) == 20
    assert section.kl_blocks is not None
    assert section.kl_blocks.rows[0] == ("view 30, block 1", "22.5")
    (section,) = cache_section(replace(found, teachers=(replace(teacher, block_kl={}),))).teachers
    assert (section.kl, section.kl_blocks) == ((), None)

"""The page about runs: what it says, that nothing in it is taken for code, and that it needs nothing from elsewhere."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from kdcache.errors import RunError, UsageError
from kdcache.io.yaml_format import dump_yaml
from kdcache.report.costs import cost_of_run, cost_table, read_dumps
from kdcache.report.palette import DARK, LIGHT, MOST_SERIES, colour_of, dashes_of
from kdcache.report.parts import evenly
from kdcache.report.report import ReportOptions, report, write_inspection
from kdcache.report.runs import read_run, read_runs, settings_tables
from kdcache.runtime.progress import silent
from kdcache_cli.main import app
from support.html_page import HtmlPage as Page
from support.html_page import require_safe

CONFIG = {
    "student": {"name": "resnet18", "size": 32},
    "optimizer": {"name": "adamw", "lr": 0.01},
    "schedule": {"epochs": 4},
    "batch_size": 100,
    "objective": {"name": "kd", "temperature": 1.0},
}
CACHED = {"teacher": {"name": "beit"}, "num_classes": 10}
LIVE = {"teacher": {"name": "beit", "live": True}, "num_classes": 10}
METRICS = (
    "step,epoch,lr,images_per_s,loss,kd,val_top1,val_top5,val_loss,wait_share\n"
    "10,1,0.001,{rate},2.5,2.0,0.25,0.5,1.5,0.5\n"
    "20,2,0.01,{rate},1.25,1.0,0.625,0.75,0.75,0.1\n"
)
#: A name of a folder, a model and a setting that is markup, a template, a quote's end and a turn of direction.
HOSTILE = "<img src=x onerror=alert(1)>\"'&{{7*7}}]]>\u202e"


def make_run(folder, *, identity=CACHED, metrics=None, **changes):
    """Write the files of a run that a report reads."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_bytes(dump_yaml(CONFIG | changes))
    (folder / "run_identity.json").write_text(json.dumps(identity))
    (folder / "metrics.csv").write_text(metrics or METRICS.format(rate=200))
    return str(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    objective = {"name": HOSTILE, "temperature": 4.0, HOSTILE: "</style></pre>"}
    return (
        make_run(root / "cached"),
        make_run(root / "live", identity=LIVE, metrics=METRICS.format(rate=50)),
        make_run(root / HOSTILE, objective=objective, student={"name": HOSTILE}),
    )


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "report.html"
    result = CliRunner().invoke(app, ["report", *runs, "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="module")
def page(written):
    return Page(written.read_text("utf-8"))


def test_the_page_tells_of_students_teachers_scores_and_settings(page):
    for phrase in (
        "3 runs",
        "resnet18",
        "beit, from the cache",
        "beit, live",
        "2 of 4",
        "62.50%",
        "objective.temperature",
    ):
        assert phrase in page.text
    charts = (
        "Accuracy (top-1) on --val",
        "Training loss",
        "Cross-entropy",
        "Learning rate",
        "Images per second",
        "waited for data",
    )
    assert all(title in page.text for title in charts)
    assert any("62.5%" in label and label.startswith("Accuracy") for label in page.values("aria-label"))


def test_names_are_shown_as_text_and_nothing_in_the_page_is_run_or_fetched(page):
    require_safe(page)
    shown = HOSTILE.replace("\u202e", "\\u202e")
    assert shown in page.text
    assert "</style></pre>" in page.text
    assert "\u202e" not in page.source


def test_each_run_of_the_legend_can_be_hidden_in_each_chart(page):
    """The rule of a checkbox names a class that the drawings of this run have."""
    boxes = {value for tag, name, value in page.attributes if (tag, name) == ("input", "id")}
    assert boxes == {"show-0", "show-1", "show-2"}
    classes = " ".join(value for value in page.values("class") if value)
    for number in range(3):
        assert len(re.findall(rf"series_{number}_line", classes)) == 6
        assert f'body:has(#show-{number}:not(:checked)) .chart [class*="series_{number}_"]' in page.source


def test_the_table_below_a_chart_has_its_numbers(page):
    assert {"25.0%", "62.5%", "2.5", "1.25", "0.001", "0.01"} <= set(page.words)


def test_what_a_cache_saves_is_told_beside_a_run_with_its_teacher_live(runs):
    cached, live, other = cost_table(read_runs(runs)).rows
    # 2,000 images: 10 seconds at 200 images/s, 40 at 50.
    assert cached[1:] == ("2,000 images", "10 seconds", "3 seconds", "200", "-", "4.00", "30 seconds saved")
    assert live[1:] == ("2,000 images", "40 seconds", "12 seconds", "50", "-", "-", "is the live teacher")
    assert other[-1] == "-"  # another student
    assert "--online-teacher" in cost_table(read_runs(runs[:1])).notes[-1]


def test_the_time_and_energy_of_a_dump_and_of_runs_are_told(runs, tmp_path):
    file = tmp_path / "dump.json"
    told = {"teacher": "beitv2_b", "rows": 4_000, "seconds": 60.0, "joules": 7.2e5}
    file.write_text(json.dumps(told), encoding="utf-8")
    cached, live = read_runs(runs[:2])
    measured = replace(cached, rows=tuple(row | {"energy_joules": 1800.0} for row in cached.rows))
    table = cost_table([measured, live], read_dumps([file]))
    dump, run, other = table.rows
    assert dump == ("dump of beitv2_b", "4,000 images", "60 seconds", "-", "67", "200 Wh", "-", "-")
    assert run[5] == f"{len(measured.rows) * 0.5:.2g} Wh"
    assert other[5] == "-"
    assert "saved 30 seconds together: 0.5 times as much" in " ".join(table.notes)
    # An epoch whose energy is not known leaves the sum unknown.
    lacking = replace(measured, rows=(cached.rows[0], *measured.rows[1:]))
    assert cost_table([lacking]).rows[0][5] == "-"


@pytest.mark.parametrize("text", ["{", "[]", '{"rows": 10, "seconds": null}', '{"rows": "10", "seconds": 3}'])
def test_what_is_no_report_of_a_dump_is_refused(tmp_path, text):
    file = tmp_path / "dump.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="kdcache dump-logits --json"):
        read_dumps([file])


def test_settings_that_differ_are_found(runs):
    changed, whole = settings_tables(read_runs([runs[0], runs[2]]))
    rows = {row[0]: row[1:] for row in changed.rows}
    assert rows["objective.temperature"] == ("1.0", "4.0")
    assert rows["student.size"] == ("32", "-")
    assert "batch_size" not in rows
    assert "batch_size" in {row[0] for row in whole.rows}


def test_numbers_that_are_not_finite_are_left_out(tmp_path):
    metrics = METRICS.format(rate=200) + "30,3,nan,inf,nan,,,,,\n40,4,0.1,0,1,1,1e400,1,1,nan\n"
    run = read_run(make_run(tmp_path / "run", metrics=metrics))
    assert run.values("loss") == {1: 2.5, 2: 1.25, 4: 1}
    assert run.values("val_top1") == {1: 0.25, 2: 0.625}
    cost = cost_of_run(run)
    assert cost is not None
    assert cost.seconds == 10


def test_a_run_that_has_just_begun_has_a_page(tmp_path):
    run = make_run(tmp_path / "run", metrics="step,epoch,lr\n")
    page = Page(report(ReportOptions((run,), tmp_path / "report.html"), silent).read_text("utf-8"))
    assert "has not ended an epoch yet" in page.text
    assert "0 of 4" in page.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runs": ()}, "at least one run"),
        ({"runs": tuple(map(str, range(16)))}, "at most 15"),
        ({"runs": ("nowhere",)}, "no config.yaml"),
        ({"out": Path("report.pdf")}, "does not end in .html"),
        ({"reference": "beit"}, "--reference has no use without --data"),
        ({"cache_data": "data"}, "--cache-data has no use without --cache"),
    ],
)
def test_what_makes_no_report_is_refused(options, message, runs, tmp_path):
    asked = ReportOptions(runs[:1], tmp_path / "report.html")
    with pytest.raises((RunError, UsageError), match=message):
        report(replace(asked, **options), silent)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [("metrics.csv", "step,epoch\n1,one\n"), ("config.yaml", "[" * 10_000), ("run_identity.json", "[]")],
)
def test_a_file_that_cannot_be_read_is_named_with_a_remedy(name, content, tmp_path):
    run = Path(make_run(tmp_path / "run"))
    (run / name).write_text(content)
    with pytest.raises(RunError, match=rf"{re.escape(name)} .*leave this run out"):
        read_run(str(run))


def test_without_the_library_of_charts_the_message_says_what_to_install(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(UsageError, match=r"pip install 'kdcache\[report\]'"):
        report(ReportOptions(runs[:1], tmp_path / "report.html"), silent)


def test_long_series_are_thinned_with_both_ends():
    assert evenly([float(number) for number in range(1000)], 5) == [0, 250, 500, 749, 999]
    assert evenly([1.0, 2.0], 5) == [1, 2]


def test_ticks_of_epochs_are_whole_numbers():
    from kdcache.report.charts import whole_ticks

    assert whole_ticks([1.0, 2.0]) == [1, 2]
    assert whole_ticks([3.0]) == [3]
    assert whole_ticks([1.0, 300.0]) == [50, 100, 150, 200, 250, 300]
    assert len(whole_ticks([1.0, 1e6])) <= 8


# The palette


def linear(colour):
    """Linear red, green and blue, 0 to 1, of a colour such as #0072b2."""
    value = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """The contrast ratio of WCAG 2.2."""
    light, dark = sorted((float(linear(each) @ [0.2126, 0.7152, 0.0722]) for each in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def lab(rgb):
    """CIE L*a*b* of linear sRGB, for white D65."""
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.clip(matrix @ rgb, 1e-6, None) / (matrix @ np.ones(3)))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


#: Machado et al. 2009, "A Physiologically-based Model for Simulation of Color Vision Deficiency", severity 1.
VISION = {
    "all cones": np.eye(3),
    "no red": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "no green": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "no blue": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_lines_have_the_contrast_that_wcag_asks_for(theme):
    assert all(contrast(text, theme.paper) >= 4.5 for text in (theme.ink, theme.faint, theme.accent))
    assert all(contrast(colour, theme.paper) >= 3 for colour in theme.series)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_the_colour_blind_tell_series_apart(theme, vision):
    """By a distance of 10 in CIE L*a*b*, where 2.3 is just noticeable."""
    seen = [lab(np.clip(VISION[vision] @ linear(colour), 0, 1)) for colour in theme.series]
    assert min(float(np.linalg.norm(one - other)) for one, other in combinations(seen, 2)) >= 10


def test_all_series_look_different():
    assert len({(colour_of(number), dashes_of(number)) for number in range(MOST_SERIES)}) == MOST_SERIES


# With a cache and weights


def test_scores_cache_and_gallery_are_shown(job, tmp_path):
    from support.small_job import make_teacher

    run = Path(make_run(tmp_path / "run"))
    make_teacher(run / "export")
    unfinished = make_run(tmp_path / "unfinished")
    out = tmp_path / "report.html"
    report(
        ReportOptions(
            (str(run), unfinished), out, data=job.data, reference=str(job.weights.parent), cache=str(job.cache),
            cache_data=job.data, device="cpu", renderer="pillow",
        ),
        silent,
    )  # fmt: skip
    page = Page(out.read_text("utf-8"))
    require_safe(page)
    for phrase in ("agreement", "100.00%", "Reliability on", "entropy", "Bytes by array", "records", "view 2", "crop "):
        assert phrase in page.text, phrase
    assert f"{unfinished} has no exported weights yet, so it is not scored." in page.text
    assert page.words.count(str(run)) >= 12  # its classes below each of 4 images in 3 views
    assert len(page.values("alt")) >= 16
    assert all(page.values("alt"))


def test_inspect_writes_the_part_about_the_cache_as_a_page(job, tmp_path):
    from kdcache.inspection.inspect import InspectOptions, inspect

    found = inspect(InspectOptions(str(job.cache)), silent)
    hostile = replace(found, cache=HOSTILE, problems={HOSTILE: HOSTILE})
    page = Page(write_inspection(hostile, tmp_path / "cache.html", silent).read_text("utf-8"))
    require_safe(page)
    assert HOSTILE.replace("\u202e", "\\u202e") in page.text
    assert f"{found.teachers[0].stored_targets:,}" in page.text
    assert "10: 0-9" in page.text
    assert not [name for name in page.values("class") if name and name.startswith("chart")]


# In a browser

BROWSER = next(
    filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"))), None
)
SCRIPT = """<script>
const lines = () => [...document.querySelectorAll('[class*="series_0_line"]')];
const shown = () => lines().filter(line => getComputedStyle(line).display !== 'none').length;
const before = shown();
document.querySelector('label:has(#show-0)').click();
document.title = [before, shown(), document.documentElement.scrollWidth <= innerWidth].join(' ');
</script>"""


def look_at(file, width):
    """The page after a browser has loaded it, and what it has written to its console."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900"]
    command += ["--enable-logging=stderr", "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
def test_a_browser_shows_the_page_without_complaint(written, page):
    text, console = look_at(written, 1600)
    assert not console
    assert Page(text).text.split("Configuration")[0].strip() == page.text.split("Configuration")[0].strip()


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
@pytest.mark.parametrize("width", [400, 1600])
def test_a_click_in_the_legend_hides_a_run_and_the_page_is_no_wider_than_the_window(written, tmp_path, width):
    file = tmp_path / "clicked.html"
    text = re.sub(r"<meta http-equiv[^>]*>", "", written.read_text("utf-8"))  # which forbids the script of the test
    file.write_text(text.replace("</body>", f"{SCRIPT}</body>"), "utf-8")
    assert "<title>6 0 true</title>" in look_at(file, width)[0]

"""Commands that the documentation tells to run: their values are known, and those that can run here do, on small data.

Trainings and dumps run with --dry-run, which refuses what a run would refuse. What is only parsed is listed with why.
"""

import re
import subprocess
from pathlib import Path

import pytest
from test_docs import RUN, text_of

from support.command_line import kdcache
from support.documented import code_blocks, simple_commands, values_of
from support.small_workplace import make_workplace, on_small_data

ROOT = Path(__file__).resolve().parent.parent

#: Commands that are only parsed, by a pattern that finds them, with the reason.
ONLY_PARSED = {
    r"^(doctor|demo)\b": "has tests of its own (tests/doctor, tests/end_to_end), and takes long",
    r"^import (imagenet|cifar|hf|webdataset)\b": "needs archives; tests/data/importers has small ones",
    r"(s3|hf|https)://": "needs an object store or a hub; tests have local ones",
    r"^report\b": "needs runs with their metrics; tests/report has them",
    r"^export\b.*(onnx|torch|-ema|--push-to-hub)": "needs a run; tests/exporting",
    r"^verify\b.*--teacher": "runs a teacher again; tests/inspection does so",
    r"--import": "needs code of the user's; tests/end_to_end has some",
    r"--real-labels": "needs labels of ImageNet; tests/evaluation has some",
    r"--teachers ": "needs a cache of two teachers; tests/loader has one",
    r"@epoch=": "needs a run that keeps epochs; tests/training has one",
    r"--teacher teacher-epoch-35|--teacher resnet152-full": "names an entry that the line above it makes",
    r"objective.name=(crd|reviewkd)": "needs other targets or maps than the small cache; tests/objectives has them",
    r"views.count=": "needs as many views; tests/training has small numbers of them",
    r"--data (cifar100|data-1)\b|caches/": "needs data that the line above it makes",
    r"--set student.weights=": "needs weights from the hub; tests/models has a run's",
    r"--targets embedding|--for |--label-space": "needs a teacher of more classes; tests/dumping has one",
}


def only_parsed(words: list[str]) -> str | None:
    """Why a command is only parsed, or None if it runs."""
    line = " ".join(words)
    return next((reason for pattern, reason in ONLY_PARSED.items() if re.search(pattern, line)), None)


def runnable() -> list[list[str]]:
    """Commands of the pages in which every option and setting that can run is run once, and few more, for speed.

    The tables of docs/papers.md are left out, as tests/training/test_papers.py runs their commands, and those of
    docs/results.md, which tests/benchmarks/test_results.py does.
    """
    left_out = ("docs/papers.md", "docs/results.md")
    lines = [words for page, words in RUN if page not in left_out and only_parsed(words) is None]
    chosen: list[list[str]] = []
    seen: set[tuple[str, str]] = set()
    for words in sorted(lines, key=len, reverse=True):
        parts = {(words[0], re.split("[=0-9]", word)[0]) for word in words[1:] if re.match(r"--|[a-z_.]+=", word)}
        parts.add((words[0], words[1] if words[0] in ("import", "recipes", "cache") else ""))
        if parts - seen:
            chosen.append(words)
            seen |= parts
    return chosen


@pytest.fixture(scope="session")
def workplace(job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all commands."""
    folder = make_workplace(tmp_path_factory.mktemp("workplace"), job, text_of("docs/views.md"))
    assert kdcache("index", "val", cwd=folder).returncode == 0
    return folder


@pytest.mark.parametrize("words", runnable(), ids=" ".join)
def test_what_a_page_tells_to_run_does_what_it_says(words: list[str], workplace: Path, job, tmp_path: Path) -> None:
    given = on_small_data(words, job.weights, str(tmp_path / "fresh"))
    done = kdcache(*given, cwd=workplace)
    assert done.returncode == 0, f"kdcache {' '.join(given)}\n{done.stdout}\n{done.stderr}"


def test_what_is_only_parsed_is_there() -> None:
    """A pattern that finds nothing would hide that its command is gone."""
    lines = [" ".join(words) for _, words in RUN]
    assert not [pattern for pattern in ONLY_PARSED if not any(re.search(pattern, line) for line in lines)]


def test_most_kinds_of_commands_run() -> None:
    """Else the list above would be too long."""
    kinds = {words[0] for words in runnable()}
    assert {words[0] for _, words in RUN} - kinds <= {"doctor", "demo", "report"}
    assert len(kinds) > 10


def test_names_in_commands_are_known() -> None:
    """Recipes, settings, objectives, policies and models; files and folders of the reader's are not there."""
    from kdcache.models.names import resolve_name
    from kdcache.objectives.registry import OBJECTIVES
    from kdcache.training.config import load_config
    from kdcache.views.policies import load_policy

    mine = re.compile(r"[/@]|\.(yaml|json)$|^own|^module")
    seen = set()
    for page, words in RUN:
        _, values = values_of(words)
        names = {name: values.get(name) for name in ("objectives", "policy", "student", "online_teacher")}
        names["teacher"] = values["teacher"] if words[0] == "dump-logits" else None
        for name in filter(None, (names.pop("objectives") or "").split(",")):
            assert name in OBJECTIVES, (page, words)
        for option, name in names.items():
            if name and (option, name) not in seen and not mine.search(name):
                (load_policy if option == "policy" else resolve_name)(name)
                seen.add((option, name))
        if words[0] == "train" and page != "docs/papers.md" and not mine.search(values["recipe"] or ""):
            named = {"student.name": values["student"], "schedule.epochs": values["epochs"] or 300}
            load_config(values["recipe"] or "a2", options=named, assignments=values["overrides"])


@pytest.mark.parametrize(
    "page", sorted({page for page, _ in RUN} | {"docs/accuracy.md", "docs/speed.md", "docs/gpu.md"})
)
def test_the_shell_of_a_page_can_be_parsed(page: str) -> None:
    for block in code_blocks(text_of(page), "sh"):
        checked = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True, check=False)
        assert not checked.stderr, block


def test_scripts_that_pages_call_are_there_with_their_options() -> None:
    found = set()
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        inline = [[*code.split()] for code in re.findall(r"`(python [\w/]+\.py[^`]*)`", text)]
        for command in [*inline, *(line for block in code_blocks(text, "sh") for line in simple_commands(block))]:
            if command[0].endswith("python") and len(command) > 1 and command[1].endswith(".py"):
                source = (ROOT / command[1]).read_text(encoding="utf-8")
                options = {word.strip("[]").partition("=")[0] for word in command if word.strip("[]").startswith("--")}
                assert not {option for option in options if f'"{option}"' not in source}, (page.name, command)
                found.add(command[1])
    assert len(found) > 5

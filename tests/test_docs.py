"""README, CONTRIBUTING and docs/: links lead somewhere, and what is told to run is taken by the command line."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from test_architecture import ROWS

from support.documented import code_blocks, find_command, kdcache_lines, options_of, pages, parse, prose

ROOT = Path(__file__).resolve().parent.parent
PAGES = [page.relative_to(ROOT).as_posix() for page in pages(ROOT)]
EVERY_PAGE = pytest.mark.parametrize("page", PAGES)

#: What a reader puts something of his own in the place of, in a line that is not run.
PLACEHOLDER = re.compile(r"^(\[?[A-Z][A-Z_]*\]?|\.\.\.)$")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def anchors(text: str) -> set[str]:
    """The names by which the headings of a page are linked to, as GitHub makes them."""
    headings = re.findall(r"^#{1,6} (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@EVERY_PAGE
def test_links_lead_to_files_and_headings_that_are_there(page: str) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text_of(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        if not file.exists() or (heading and heading not in anchors(file.read_text(encoding="utf-8"))):
            wrong.append(target)
    assert not wrong


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text_of("README.md"))}
    assert {page for page in PAGES if page not in ("README.md", "CHANGELOG.md")} <= linked


def told_to_run() -> list[tuple[str, list[str]]]:
    """Each command of a page that runs kdcache, as the page and the words behind the program's name."""
    return [(page, words) for page in PAGES for words in kdcache_lines(text_of(page))]


RUN = told_to_run()


@pytest.mark.parametrize(("page", "words"), RUN, ids=lambda part: part if isinstance(part, str) else " ".join(part))
def test_what_a_page_tells_to_run_is_taken_by_the_command(page: str, words: list[str]) -> None:
    parse(words)


def test_lines_to_run_are_found() -> None:
    """Else the test above would say nothing."""
    commands = {find_command(words)[0].name for _, words in RUN}
    assert {"dump-logits", "train", "evaluate", "verify", "folder", "index", "policies", "preview"} <= commands
    assert len(RUN) > 30


@EVERY_PAGE
def test_commands_within_sentences_are_there_with_their_options(page: str) -> None:
    for code in re.findall(r"`(kdcache [^`]+)`", prose(text_of(page))):
        words = [word for word in shlex.split(code)[1:] if not PLACEHOLDER.match(word)]
        command, rest = find_command(words)
        options = {word.partition("=")[0] for word in rest if word.startswith("-")}
        assert options <= options_of(command), code


def mentioned(text: str) -> set[str]:
    """Files and folders of the checkout that a page names; NAME is for the reader to fill in."""
    files = re.findall(r"(?<![\w/.-])((?:kdcache|cli|tests|benchmarks|docker|docs)/[\w./-]*\w(?:/|\b))", text)
    return {file for file in files if "NAME" not in file}


@EVERY_PAGE
def test_files_that_a_page_names_are_there(page: str) -> None:
    assert not {name for name in mentioned(prose(text_of(page))) if not (ROOT / name).exists()}


@EVERY_PAGE
def test_modules_that_a_page_names_are_there(page: str) -> None:
    for name in re.findall(r"`(kdcache(?:\.\w+)+)`", prose(text_of(page))):
        parts = name.split(".")
        module = next(stop for stop in range(len(parts), 0, -1) if _is_module(parts[:stop]))
        found = import_module(".".join(parts[:module]))
        for part in parts[module:]:
            found = getattr(found, part)


def _is_module(parts: list[str]) -> bool:
    place = ROOT.joinpath(*parts)
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


@EVERY_PAGE
def test_python_that_a_page_shows_can_be_compiled(page: str) -> None:
    for block in code_blocks(text_of(page), "python"):
        compile(block, page, "exec")


@EVERY_PAGE
def test_lines_can_be_read_without_wrapping(page: str) -> None:
    """Tables and blocks of code have the length that they need."""
    long = [line for line in prose(text_of(page)).splitlines() if len(line) > 140 and not line.startswith("|")]
    assert not long


def test_the_page_on_architecture_has_the_house_as_it_is_tested() -> None:
    """Its table names every folder once, and one that may import another stands above it."""
    table = re.findall(r"^\| `kdcache/(\w+)(?:/|\.py)` \|", text_of("docs/architecture.md"), re.MULTILINE)
    row_of = {room: number for number, row in enumerate(ROWS) for room in row}
    assert sorted(table) == sorted(row_of)
    assert [row_of[room] for room in table] == sorted(row_of.values(), reverse=True)


def test_the_workflow_and_the_hooks_run_what_has_to_pass() -> None:
    """The forge calls the script that anybody can call; hooks take the versions of the project's own environment."""
    workflow = yaml.safe_load(text_of(".github/workflows/test.yml"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert [step["run"] for step in steps if ".ci/run" in step.get("run", "")] == [".ci/run"]
    hooks = [hook for repo in yaml.safe_load(text_of(".pre-commit-config.yaml"))["repos"] for hook in repo["hooks"]]
    makefile = text_of("Makefile")
    for hook in hooks:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/python -m ")
        module = hook["entry"].removeprefix(".venv/bin/python -m ")
        assert f"$(BIN) -m {module}" in makefile
    assert {hook["entry"].split()[2] for hook in hooks} == {"ruff", "mypy"}


def test_names_that_contributors_are_told_of_are_in_the_code() -> None:
    """So a renaming changes the page as well."""
    sources = [path for folder in ("kdcache", "cli", "tests") for path in (ROOT / folder).rglob("*.py")]
    known = set(re.findall(r"\w+", "\n".join(path.read_text(encoding="utf-8") for path in sources)))
    named = re.findall(r"`([A-Za-z_]\w+)`", prose(text_of("CONTRIBUTING.md")))
    assert len(named) > 20
    assert not {name for name in named if not name.startswith("NAME")} - known

"""What the documentation claims beside its commands: messages, figures with what wrote them, and the site."""

import html
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import kdcache
from support.documented import prose
from support.messages import is_in_the_code

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

#: Pages with measurements.
MEASURED = ("accuracy", "choosing", "compact", "demo", "gpu", "speed", "targets")
#: What measures: a benchmark, or a command of kdcache.
MEASURES = re.compile(r"python benchmarks/\w+\.py|`?kdcache (demo|dump-logits|inspect|verify|evaluate)|`?make demo")


def messages() -> list[str]:
    """The messages that the page on troubleshooting explains."""
    return re.findall(r"^\*\*`(.+)`\*\*$", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("message", messages())
def test_a_message_that_is_explained_is_in_the_code(message: str) -> None:
    assert is_in_the_code(message, ROOT)
    assert len(re.findall(r"\w{2,}", message)) >= 2 or message.startswith("Cannot "), "too little to be found by"


def test_each_message_has_its_explanation() -> None:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    assert len(messages()) >= 25
    assert len(messages()) == len(set(messages()))
    assert len(re.findall(r"^\*\*`.+`\*\*\n\n[^\n*#]", text, re.MULTILINE)) == len(messages())


def sections(text: str) -> list[str]:
    """The parts of a page from one heading of the first or second level to the next."""
    return re.split(r"^(?=##? )", text, flags=re.MULTILINE)


def tables(text: str) -> list[str]:
    """Tables that hold measurements: three numbers with a decimal point or more."""
    found = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [table for table in found if len(re.findall(r"\d\.\d", table)) >= 3]


@pytest.mark.parametrize("page", MEASURED)
def test_figures_stand_beside_the_command_that_wrote_them(page: str) -> None:
    parts = [part for part in sections((DOCS / f"{page}.md").read_text(encoding="utf-8")) if tables(part)]
    assert parts
    assert not [part.splitlines()[0] for part in parts if not MEASURES.search(part)]


def test_figures_of_choosing_are_those_of_the_measurements() -> None:
    """Its tables repeat rows of docs/compact.md, rounded, and reckon gigabytes from them."""
    measured = {}
    for row in re.findall(r"^\| (.+) \|$", (DOCS / "compact.md").read_text(encoding="utf-8"), re.MULTILINE):
        cells = [cell.strip() for cell in row.split(" | ")]
        measured.setdefault(cells[0], cells)
    text = (DOCS / "choosing.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (p > [\d.]+|`full`, uint8)[^|]*\| ([\d.]+) \| ([\d.]+) \|(?: ([\d.]+) \|)?$", text, re.MULTILINE
    )
    assert len(rows) > 5
    for name, kl, size, gigabytes in rows:
        _, exact_kl, exact_size, *_ = measured[name.replace("`", "")]
        assert size == exact_size
        assert float(kl) == pytest.approx(float(exact_kl), abs=0.0006)
        if gigabytes:
            assert float(gigabytes) == pytest.approx(float(size) * 300 * 1281167 / 1e9, rel=0.02)


class _Ignoring(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags name functions."""


_Ignoring.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def menu() -> list[str]:
    """The pages of the site's menu, in order."""
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=_Ignoring)["nav"]
    values = [value for entry in nav for value in entry.values()]
    return [page for value in values for page in ([value] if isinstance(value, str) else _names(value))]


def _names(entries: list[dict[str, str]]) -> list[str]:
    return [name for entry in entries for name in entry.values()]


def test_the_menu_has_every_page_once() -> None:
    pages = [*(page.name for page in DOCS.glob("*.md")), "index.md", "CONTRIBUTING.md", "CHANGELOG.md"]
    assert sorted(menu()) == sorted(pages)


def test_lists_and_tables_stand_apart_from_the_text_above_them() -> None:
    """A forge shows them all the same, and the site would show one paragraph."""
    for page in DOCS.glob("*.md"):
        lines = prose(page.read_text(encoding="utf-8")).splitlines()
        for above, line in itertools.pairwise(lines):
            begins_list = re.match(r"[-*] |\d+\. ", line) and not re.match(r"[-*] |\d+\. |  ", above)
            begins_table = line.startswith("|") and not above.startswith(("|", "<!--"))
            assert not (above and (begins_list or begins_table)), (page.name, line)


#: Addresses that a browser loads with a page; links are those that a reader follows.
LOADED = re.compile(r"""<(?:script|img|iframe)\b[^>]*?\bsrc=["']?([^"'\s>]+)|<link\b[^>]*?\bhref=["']?([^"'\s>]+)""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` builds it."""
    out = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(out)],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return out


def test_the_site_is_built_without_warnings_and_loads_nothing_from_elsewhere(site: Path) -> None:
    assert {Path(page).with_suffix(".html").name for page in menu()} <= {page.name for page in site.glob("*.html")}
    for page in site.glob("*.html"):
        loaded = ["".join(found) for found in LOADED.findall(page.read_text(encoding="utf-8"))]
        assert loaded
        assert not [address for address in loaded if address.startswith(("http:", "https:", "//"))], page


def test_the_site_has_signatures_with_types_and_the_examples(site: Path) -> None:
    page = (site / "api.html").read_text(encoding="utf-8")
    text = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", "", page)))
    public = {name for name in kdcache.__all__ if not name.startswith("__")}
    assert public <= set(re.findall(r'id="kdcache\.(\w+)"', page))
    assert "data: str | Path" in text
    assert ">>> dataset = kdcache.open_cache" in text
    assert (site / "files" / "examples" / "plain_loop.py").read_text() == (
        ROOT / "examples" / "plain_loop.py"
    ).read_text()

"""A hook of mkdocs: files of the checkout that the pages link to are part of the site, and links lead to them there.

README.md is the site's first page, CONTRIBUTING.md and CHANGELOG.md are pages, examples are files beside them.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

import kdcache

ROOT = Path(__file__).resolve().parent.parent
#: Files of the checkout, and their places in the site.
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
_LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
#: Blocks of code, in which nothing is a link.
_CODE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
#: Stands for mkdocstrings' directives, which a forge would show as they are written.
_EVERY_NAME = "<!-- mkdocstrings: every public name -->"


def places() -> dict[str, str]:
    """Return the place in the site of each file that lies outside of docs/ and belongs to the site."""
    files = [*sorted((ROOT / "examples").glob("*.py")), ROOT / "kdcache" / "data" / "sample" / "README.md"]
    names = [file.relative_to(ROOT).as_posix() for file in files]
    return PAGES | {name: f"files/{name.replace('/README.md', '.md')}" for name in names}


def on_files(files: Files, *, config: Any, **_: object) -> Files:
    """Add the files that lie outside of docs/."""
    for name, place in places().items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: object) -> str:
    """Let links lead to the site's own copies, and let mkdocstrings see its directives."""
    here = next((name for name, place in places().items() if place == page.file.src_uri), f"docs/{page.file.src_uri}")
    parts = _CODE.split(markdown)
    parts[::2] = [_LINK.sub(lambda link: link[1] + _in_site(link[2], here, page.file.src_uri) + link[3], part)
                  for part in parts[::2]]  # fmt: skip
    return "".join(parts).replace(_EVERY_NAME, "\n\n".join(f"::: kdcache.{name}" for name in public_names()))


def public_names() -> list[str]:
    """Return the names of the Python API that are described."""
    return [name for name in kdcache.__all__ if not name.startswith("__")]


def _in_site(target: str, here: str, place: str) -> str:
    """Return a link of the file `here` of the checkout as it is written at its place in the site."""
    parts: list[str] = []
    for part in (PurePosixPath(here).parent / target).parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    name = "/".join(parts)
    aim = places().get(name) or name.removeprefix("docs/")
    return "../" * place.count("/") + aim

"""A sound cache of two teachers, and a copy of it to damage."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.damage import VIEWS
from support.small_cache import FULL, TOPK, fill, kept, open_entry, small_chunks


@pytest.fixture(scope="module", autouse=True)
def several_in_a_file() -> Iterator[None]:
    """Of the second teacher, a file has two chunks."""
    with small_chunks():
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two teachers, one of each kind; the second has a view that is not complete."""
    path = tmp_path_factory.mktemp("made") / "cache"
    fill(open_entry(path, TOPK), VIEWS)
    other = open_entry(path, FULL, name="other")
    fill(other, VIEWS)
    other.write_block(VIEWS, 1, kept(FULL, VIEWS, 4, 8), {"renderer": "pillow"})
    return path


@pytest.fixture
def cache(made: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(made, tmp_path / "cache"))

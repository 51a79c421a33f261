"""What a cache lacks is told with what a training takes meanwhile."""

from pathlib import Path

import pytest

from kdcache.cache.coverage import Coverage, missing_views
from support.small_cache import fill, open_entry

BLOCKS = 3

CASES = [
    # Views dumped, blocks that are gone, views that share an order, and what is said.
    (4, [], 1, None),
    (
        4,
        [(1, 0)],
        1,
        "teacher lacks block 0 of view 1: until the same dump-logits has made it, trainings take view 0 only, "
        "of 3 views that are whole.",
    ),
    (
        4,
        [(3, 1), (3, 2)],
        1,
        "teacher lacks blocks 1-2 of view 3: until the same dump-logits has made them, trainings take views 0-2 only.",
    ),
    (
        2,
        [(0, 1)],
        1,
        "teacher lacks block 1 of view 0: until the same dump-logits has made it, trainings take none of its views, "
        "of 1 view that is whole.",
    ),
    (
        1,
        [(0, 1)],
        1,
        "teacher lacks block 1 of view 0: until the same dump-logits has made it, trainings take none of its views.",
    ),
    (
        4,
        [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 1)],
        1,
        "teacher lacks block 1 of view 2 and views 0-1: until dump-logits has made them, or kdcache cache copy brought "
        "them, trainings take none of its views, of 1 view that is whole.",
    ),
    (
        6,
        [(view, 0) for view in range(1, 6)],
        1,
        "teacher lacks block 0 of view 1, block 0 of view 2, block 0 of view 3 and blocks of 2 other views: until the "
        "same dump-logits has made them, trainings take view 0 only.",
    ),
    (6, [(5, 0)], 3, "trainings take views 0-2 only."),  # no whole group lies behind it
    (6, [(1, 0)], 3, "trainings take none of its views, of 5 views that are whole."),
    (5, [], 2, "teacher lacks view 5: until dump-logits has made it"),
]


@pytest.mark.parametrize(("views", "gone", "repeats", "words"), CASES)
def test_what_is_missing_is_told_with_what_a_training_takes(
    tmp_path: Path, views: int, gone: list[tuple[int, int]], repeats: int, words: str | None
) -> None:
    entry = fill(open_entry(tmp_path / "cache"), views=views)
    assert entry.layout.blocks == BLOCKS
    for view, block in gone:
        entry.drop_record(view, block)
    found = missing_views(entry, repeats)
    assert (found is None) == (words is None)
    assert found is None or words in found.describe()


def test_nothing_is_missing_where_nothing_was_begun(tmp_path: Path) -> None:
    assert missing_views(open_entry(tmp_path / "cache"), 1) is None


@pytest.mark.parametrize(
    ("whole", "repeats", "usable", "is_cut"),
    [
        ((), 1, 0, False),
        ((0, 1, 2), 1, 3, False),
        ((0, 2), 1, 1, True),
        ((0, 1, 2, 3), 3, 3, False),
        ((0, 1, 3, 4, 5), 3, 0, True),
        ((1, 2, 3), 1, 0, True),
    ],
)
def test_a_training_takes_whole_groups_from_the_first_on(
    whole: tuple[int, ...], repeats: int, usable: int, is_cut: bool
) -> None:
    coverage = Coverage(whole, repeats)
    assert (coverage.usable, coverage.is_cut) == (usable, is_cut)

"""A false shape or dtype fails the tests: in functions, methods, class methods and dataclasses of kdcache."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from beartype.roar import BeartypeCallHintViolation

from kdcache.targets.ragged import row_sums
from support.checked_shapes import check_shapes_of

MODULE = '''"""A module with shapes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

Row = Float32[np.ndarray, "n"]


@dataclass(frozen=True)
class Pair:
    first: Row
    second: Row

    def both(self, other: Row | None) -> Float32[np.ndarray, "n 2"]:
        return np.stack([self.first, self.second if other is None else other], 1)

    @classmethod
    def twice(cls, row: Row) -> "Pair":
        return cls(row, row)


def plain(number: int) -> int:
    return number


def rows(values: list[Row]) -> Row:
    def inner(row: Row) -> Row:
        return row[:1]

    return inner(values[0])


def pieces(row: Row) -> Iterator[Row]:
    yield row


def count(row: Row) -> int:
    return len([piece for piece in pieces(row[:1])])
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "shapes_of_a_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    check_shapes_of("shapes_of_a_test")
    yield importlib.import_module("shapes_of_a_test")
    del sys.modules["shapes_of_a_test"]


def row(length: int, dtype: str = "float32") -> np.ndarray:
    return np.zeros(length, dtype)


def test_shapes_that_are_true_pass(module: ModuleType) -> None:
    assert module.Pair.twice(row(3)).both(row(3)).shape == (3, 2)
    assert module.rows([row(1)]).shape == (1,)
    assert module.count(row(3)) == 1, "a generator has dimensions of its own"


def test_shapes_and_dtypes_that_are_false_fail(module: ModuleType) -> None:
    for call in (
        lambda: module.Pair(row(3), row(4)),
        lambda: module.Pair(row(3), row(3, "float64")),
        lambda: module.Pair.twice(row(3, "int32")),
        lambda: module.Pair.twice(row(3)).both(row(3, "float64")),
        lambda: module.rows([row(3, "float64")]),
        lambda: module.rows([row(3)]),
    ):
        with pytest.raises(BeartypeCallHintViolation):
            call()


def test_what_has_no_array_is_left_as_it_is(module: ModuleType) -> None:
    assert module.plain("no number") == "no number"


def test_a_package_that_is_there_already_is_refused() -> None:
    with pytest.raises(RuntimeError, match="would go unchecked"):
        check_shapes_of("kdcache")


def test_the_functions_of_kdcache_are_checked() -> None:
    with pytest.raises(BeartypeCallHintViolation):
        row_sums(row(3), row(1))

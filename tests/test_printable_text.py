import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.errors import CacheError, DataError, IdentityError, KdcacheError, ModelError, printable, printable_excerpt


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("n01440764/n01440764_18.JPEG", None),
        ("Käfer, жук, 甲虫, 🐞 [red]\\x1b %s {}", None),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[31m\x9b0m\x7f\x00", r"\x1b[31m\x9b0m\x7f\x00"),
        ("\u202egpj.exe\u2066\u200b\u200d\ufeff", r"\u202egpj.exe\u2066\u200b\u200d\ufeff"),
        ("\u2028\u2029\xa0\u3000", r"\u2028\u2029\xa0\u3000"),
        (b"caf\xe9.tar".decode("utf-8", "surrogateescape"), r"caf\xe9.tar"),
        ("\ud800", r"\ud800"),
        ("\U000e0041\U0010ffff", r"\U000e0041\U0010ffff"),
        ("\u3164\u034f", r"\u3164\u034f"),
    ],
)
def test_what_is_not_seen_as_itself_is_escaped(text: str, shown: str | None) -> None:
    assert printable(text) == (text if shown is None else shown)


@given(st.text(st.characters(exclude_categories=())))
def test_what_is_shown_is_one_line_that_can_be_written_and_escaped_again(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1
    assert shown.encode().decode() == printable(shown)


@given(st.text(st.characters(exclude_categories=())), st.integers(1, 20))
def test_an_excerpt_is_no_longer_than_it_may_be(text: str, length: int) -> None:
    shown = printable_excerpt(text, length, "unknown")
    assert printable(text).startswith(shown) if text else shown == "unknown"
    assert shown == "unknown" or len(shown) <= length


@pytest.mark.parametrize("kind", [KdcacheError, DataError, CacheError, ModelError])
def test_the_text_of_an_error_can_be_shown(kind: type[KdcacheError]) -> None:
    error = kind("The sample \x1b[2J\u202e in x.tar is broken.\nerror: not so")
    assert str(error) == r"The sample \x1b[2J\u202e in x.tar is broken.\nerror: not so"
    assert str(DataError(f"It is so: {error}")) == f"It is so: {error}"
    assert str(IdentityError("a\nb", field="x")) == r"a\nb"

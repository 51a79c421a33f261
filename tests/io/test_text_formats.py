"""JSON and YAML of others: whatever the bytes are, there is a plain value within the limits, or a FormatError."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.io import json_format, yaml_format
from kdcache.io.json_format import parse_json
from kdcache.io.plain_values import FormatError
from kdcache.io.yaml_format import dump_yaml, parse_yaml

TEXT = st.text(st.characters(exclude_categories=("Cs",)))
SCALARS = st.none() | st.booleans() | st.integers(-(2**64) + 1, 2**64 - 1) | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(
    SCALARS.filter(lambda value: value not in (math.inf, -math.inf)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
SYNTAX = (
    *(
        "a",
        "0x",
        "1e",
        "9" * 30,
        "1" * 5000,
        "- ",
        ": ",
        ".inf",
        ".nan",
        "NaN",
        "true",
        "null",
        "2020-99-99",
        "1:99:99.9",
    ),
    *("<<", "---\n", "!!int", "!!float", "!!timestamp", "!!binary", "!!omap", "!!set", "&a [*a]", "\\u", "\\ud800"),
    *("\\U00110000", "\x00", "\x1b", "\u2028", "\ufeff"),
)
#: Pieces of which syntax is made, so that random text goes deeper than its first character.
PIECES = st.lists(
    st.sampled_from([*"[]{}:,-?&*!|>'\"#%@` \n\t\\", *SYNTAX]),
    max_size=40,
).map("".join)


def is_plain(value: Any, depth: int) -> bool:
    if isinstance(value, dict):
        return depth > 0 and all(isinstance(key, str) for key in value) and is_plain(list(value.values()), depth)
    if isinstance(value, list):
        return depth > 0 and all(is_plain(part, depth - 1) for part in value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return abs(value) < 2**64
    return value is None or (isinstance(value, str) and bool(value.encode() or True))


@given(PIECES | st.text() | st.binary())
def test_any_json_is_a_plain_value_or_refused(data: str | bytes) -> None:
    try:
        value = parse_json(data)
    except FormatError:
        return
    assert is_plain(value, json_format.MAX_DEPTH)


@given(PIECES | st.text() | st.binary())
def test_any_yaml_is_a_plain_value_or_refused(data: str | bytes) -> None:
    try:
        value = parse_yaml(data)
    except FormatError:
        return
    assert is_plain(value, yaml_format.MAX_DEPTH)


@given(VALUES)
def test_what_is_written_is_read_as_it_was(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_yaml(dump_yaml(value)) == value


@pytest.mark.parametrize(
    "text", ["1e5", "2020-01-01", "1:30", "<<", "=", "yes", "~", "0x1", "012", "1_0", ".5", ".inf"]
)
def test_text_that_looks_like_something_else_comes_back_as_text(text: str) -> None:
    assert parse_yaml(dump_yaml([text])) == [text]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("5E2", 500.0),
        ("-.5", -0.5),
        ("0x1F", 31),
        ("0b11", 3),
        ("017", 15),
        ("08", "08"),
        ("1_000", 1000),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("on", True),
        ("NO", False),
        ("~", None),
        ("", None),
        ("<<: {a: 1}", {"<<": {"a": 1}}),
        ("1: a", {"1": "a"}),
        ("\ufeffa: 1", {"a": 1}),
    ],
)
def test_yaml_means_what_settings_need(text: str, value: Any) -> None:
    assert parse_yaml(text.encode()) == value


LAUGHS = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (LAUGHS, "in line 2, the alias *a0 is not taken"),
        ("&a [*a]", "alias"),
        ("[" * 20_000, "32 mappings and lists within each other"),
        ("{a: " * 30_000, "32 mappings and lists"),
        ("- " * 60_000, "32 mappings and lists"),
        ("".join(" " * n + "a:\n" for n in range(40)), "32 mappings and lists"),
        ("a: 1\nb: 2\na: 3", "it has 'a' twice in the mapping that begins in line 1"),
        ("lr: " + "9" * 400, "a whole number of 400 digits (999999999999...)"),
        ("lr: " + "9" * 6000, "6,000 digits"),
        ("lr: 0x" + "f" * 17, "17 digits"),
        ("lr: 1e999", "not finite"),
        ("lr: -.INF", "not finite"),
        ("lr: .nan", "not finite"),
        ("lr: 1." + "0" * 500, "502 characters"),
        ("a: !!python/object/apply:os.system ['true']", "the tag tag:yaml.org,2002:python/object/apply:os.system"),
        ("!!float x", "tag"),
        ('"\\U00110000"', "no character"),
        ('"\\ud800"', "no Unicode"),
        ("\udc80", "no Unicode"),
        ("a: \x07", "U+0007"),
        ("{[a]: 1}", "a key is no plain text"),
        ("a\n--- \nb", "another document in line 2"),
        ("a: [1\nb: 2", "in line 2"),
        ("a" * (yaml_format.MAX_BYTES + 1), "131,073 bytes"),
    ],
)
def test_what_yaml_is_not_taken_is_said(text: str, cause: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_yaml(text)
    assert cause in str(caught.value)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("[" * 65 + "]" * 65, "more than 64 lists and objects within each other"),
        ('{"a":' * 100_000, "64 lists and objects"),
        ('"' + '\\"' * 1_000_000, "unterminated string"),  # read once, not once for each quote
        ("[" * 65 + '"' + '\\"' * 1_000_000, "64 lists"),
        ('{"a": 1, "a": 2}', "it has 'a' twice"),
        ("9" * 5000, "5,000 digits"),
        ("[18446744073709551616]", "20 digits"),
        ("[1e999]", "1e999"),
        ("[NaN]", "NaN"),
        ("[-Infinity]", "-Infinity"),
        ('["\\ud800"]', "no Unicode"),
        ('{"\\udc00": 1}', "no Unicode"),
        ("", "expecting value in line 1, column 1"),
    ],
)
def test_what_json_is_not_taken_is_said(text: str, cause: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_json(text)
    assert cause in str(caught.value)


def test_bytes_are_utf8_and_no_more_than_the_limit() -> None:
    with pytest.raises(FormatError, match="no UTF-8 text, from byte 1 on"):
        parse_json(b'"\xff"')
    with pytest.raises(FormatError, match="it has 3 bytes, and 2 are the most that is read"):
        parse_json(b"123", max_bytes=2)


@pytest.mark.parametrize(
    "text", ["[" * 64 + "]" * 64, '["' + "[" * 500 + '"]', json.dumps(['[\\"['] * 200), "[[]," * 30 + "1" + "]" * 30]
)
def test_brackets_in_strings_and_beside_each_other_are_not_depth(text: str) -> None:
    assert parse_json(text) == json.loads(text)


def test_pairs_of_surrogates_are_a_character() -> None:
    assert parse_json('["\\ud83d\\ude00"]') == ["\U0001f600"]

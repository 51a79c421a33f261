"""Limits and checks of untrusted text that JSON and YAML share."""

import math
from collections.abc import Iterable
from numbers import Integral
from typing import Any

#: Whole numbers have at most this many bits; no setting, size, time or seed needs more.
MAX_BITS = 64
#: Characters of a number. A double is written with 25 at most; Python takes seconds for some thousand more.
MAX_NUMBER_CHARS = 400


class FormatError(ValueError):
    """Text that is refused. The message is a clause without a full stop, such as "it has 'a' twice"."""


def check_size(size: int, most: int) -> None:
    """Raise FormatError if text exceeds the limit of bytes."""
    if size > most:
        raise FormatError(f"it has {size:,} bytes, and {most:,} are the most that is read")


def decode(data: bytes, most: int) -> str:
    """Return the text of UTF-8 bytes, without byte order mark. Raises FormatError for others, or more than `most`."""
    check_size(len(data), most)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"it is no UTF-8 text, from byte {error.start} on") from None


def whole_number(text: str, base: int = 10) -> int:
    """Return the whole number of `text`. Raises FormatError, before parsing, if it has too many digits."""
    if len(text) < 19 and base == 10:  # most of them
        return int(text)
    digits = text.lstrip("+-")
    if len(digits) <= MAX_BITS:
        value = int(text, base)
        if abs(value) < 2**MAX_BITS:
            return value
    raise FormatError(f"it has a whole number of {len(digits):,} digits ({digits[:12]}...), which is too large")


def real_number(text: str) -> float:
    """Return the finite number of `text`. Raises FormatError if it is too large for a double, or too long."""
    if len(text) > MAX_NUMBER_CHARS:
        raise FormatError(f"it has a number of {len(text):,} characters ({text[:12]}...), which is too long")
    value = float(text)
    if not math.isfinite(value):
        raise FormatError(f"it has the number {text}, which is not finite or too large")
    return value


def no_duplicates(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return a mapping of pairs. Raises FormatError if a key occurs twice: one of its values would be lost."""
    pairs = list(pairs)
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise FormatError(f"it has {twice!r:.60} twice")
    return values


def check_text(value: str) -> str:
    """Return the text. Raises FormatError if it holds half a character (a lone surrogate), which cannot be written."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise FormatError(f"it has text that is no Unicode, {value!a:.80}") from None
    return value


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number of any kind, such as NumPy's; True and 1.0 are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def shown(value: Any) -> str:
    """Return a value as a message quotes it: no more than its beginning."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of over 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."

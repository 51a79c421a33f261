"""JSON that others may have written: records, metadata, run folders, descriptions beside weights.

Only this module calls `json.loads`. Size and depth are limited before anything is built, numbers are finite and of at
most 64 bits, no key comes twice: whatever the bytes are, there is a value of plain types or a FormatError.
"""

import json
import re
from typing import Any, NoReturn

from kdcache.io.plain_values import (
    FormatError,
    check_size,
    check_text,
    decode,
    no_duplicates,
    real_number,
    whole_number,
)

#: Bytes of a JSON text. The largest that kdcache writes, the list of a hundred thousand shards, has 8 MB; parsed,
#: text can take 25 times its bytes.
MAX_BYTES = 16 * 2**20
#: Lists and objects within each other; what kdcache, timm and Zarr write has less than twenty.
MAX_DEPTH = 64

#: Also one that does not end: else each of its quotes would be tried as the beginning of another.
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(data: bytes | str, *, max_bytes: int = MAX_BYTES) -> Any:
    """Return the value of a JSON text: dict, list, str, int, float, bool or None.

    Args:
        data: the text, in UTF-8 if it is bytes.
        max_bytes: limit of the text's bytes; a larger text is refused unread.

    Raises:
        FormatError: no JSON, too large, too deep, a number that is not finite or has over 64 bits, a key that comes
            twice, or text with half a character in it.
    """
    if isinstance(data, bytes):
        text = decode(data, max_bytes)
    else:
        check_size(len(data), max_bytes)
        text = check_text(data)
    _check_depth(text)
    try:
        value = json.loads(
            text,
            object_pairs_hook=no_duplicates,
            parse_int=whole_number,
            parse_float=real_number,
            parse_constant=_refuse_constant,
        )
    except json.JSONDecodeError as error:
        raise FormatError(
            f"{error.msg[:1].lower()}{error.msg[1:]} in line {error.lineno}, column {error.colno}"
        ) from None
    if "\\u" in text and _HALF_CHARACTER.search(text):
        _check_texts(value)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise FormatError(f"it has {name}, which is no finite number")


def _check_depth(text: str) -> None:
    """Raise FormatError where lists and objects are too deep, from the brackets outside of strings alone."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    # Imported late: the doctor reads small texts, and must not load what may crash on the machine that it looks at.
    import numpy as np

    bare = np.frombuffer(_STRING.sub("", text).encode(), np.uint8)
    opening, closing = (np.isin(bare, [ord(bracket) for bracket in pair]) for pair in ("[{", "]}"))
    depth = np.cumsum(opening.astype(np.int32) - closing)
    if len(depth) and depth.max() > MAX_DEPTH:
        raise FormatError(f"it has more than {MAX_DEPTH} lists and objects within each other")


def _check_texts(value: Any) -> None:
    """Raise FormatError where any text in a value that was read has half a character in it."""
    queue = [value]
    while queue:
        part = queue.pop()
        if isinstance(part, str):
            check_text(part)
        elif isinstance(part, dict):
            queue += [*part, *part.values()]
        elif isinstance(part, list):
            queue += part

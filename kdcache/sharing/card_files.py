"""The files of a card, and telling a card that nobody has edited from a README of the user's, which is left alone."""

import hashlib
import re

#: The card, and its contact sheet of views.
CARD, SHEET = "README.md", "contact_sheet.png"

#: Bytes of a card that is read, at most.
MAX_CARD = 2**20

_MARK = re.compile(r"<!-- kdcache wrote this card: ([0-9a-f]{16})\. Once it is edited, kdcache leaves it alone\. -->\n")


def with_mark(text: str) -> str:
    """Return the text of a card with a line at its end that says what it was when kdcache wrote it."""
    text = text.rstrip("\n") + "\n\n"
    return f"{text}<!-- kdcache wrote this card: {_digest(text)}. Once it is edited, kdcache leaves it alone. -->\n"


def is_own(card: bytes | None) -> bool:
    """Return whether a card may be written over: there is none, or it is as kdcache wrote it."""
    if card is None:
        return True
    text = card.decode(errors="replace")
    marks = list(_MARK.finditer(text))
    return bool(marks) and text.endswith(marks[-1][0]) and marks[-1][1] == _digest(text[: marks[-1].start()])


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

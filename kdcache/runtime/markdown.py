"""Markdown of reports and cards that show what others wrote."""

import re
from collections.abc import Mapping

from kdcache.errors import printable

#: Characters that Markdown or HTML would read as markup.
_MARKUP = re.compile(r"([\\`*_\[\]<>|#])")


def markdown_text(text: str) -> str:
    """Return text of others' for a line of Markdown: no markup, nothing invisible, no second line."""
    return _MARKUP.sub(r"\\\1", printable(text))


def markdown_table(title: str, rows: Mapping[str, str], note: str = "") -> str:
    """Return a section with a table of two columns; nothing where there are no rows."""
    if not rows:
        return ""
    lines = [f"## {title}", "", *([note, ""] if note else []), "| | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows.items()), ""])

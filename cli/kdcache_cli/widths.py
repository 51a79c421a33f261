"""Reports and tables that fit the width of a terminal; in a file or a pipe a line is as long as it is."""

import re
import shutil
import sys
import textwrap
from collections.abc import Sequence

_GAP = "  "
_NUMBER = re.compile(r"-|[\d,.]+( ?%)?")
#: What a line begins with before its text, such as "  targets    ": a label and two spaces or more.
_LABEL = re.compile(r"\s*\S+(?: \S+)*?\s{2,}")


def terminal_columns() -> int | None:
    """Return the width of the terminal that stdout is; None where it is a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def fold(line: str, columns: int) -> list[str]:
    """Return a line as lines of at most so many columns, of which the further ones are indented; words stay whole."""
    label = _LABEL.match(line)
    start = len(line) - len(line.lstrip())
    # A line that begins far to the right goes on with the one above it.
    indent = label.end() if label is not None else start if start > 4 else start + 2
    return textwrap.wrap(
        line,
        columns,
        subsequent_indent=" " * min(indent, columns // 2),
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
        expand_tabs=False,
    ) or [line]


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]], columns: int | None) -> list[str]:
    """Return rows of text as the lines of a table.

    A column is aligned to the right if all of its cells are numbers, else to the left. Where the table is wider than
    `columns`, the words of the last column are folded, if it is one of words and the others leave it a third of the
    width; otherwise each row is a list of names and values.
    """
    table = [list(header), *rows]
    cells_of = list(zip(*table, strict=True))
    widths = [max(map(len, cells)) for cells in cells_of]
    numeric = [all(_NUMBER.fullmatch(cell) for cell in cells[1:]) for cells in cells_of]
    before = sum(widths[:-1]) + len(_GAP) * len(widths[:-1])
    if columns is not None and before + widths[-1] > columns:
        if numeric[-1] or before > columns * 2 // 3:
            return _listed(header, rows, columns)
        widths[-1] = columns - before
    out = []
    for row in table:
        start = "".join(
            (cell.rjust(width) if right else cell.ljust(width)) + _GAP
            for cell, width, right in zip(row[:-1], widths, numeric, strict=False)
        )
        last = row[-1].rjust(widths[-1]) if numeric[-1] else row[-1]
        folded = textwrap.wrap(last, widths[-1], break_on_hyphens=False) if len(last) > widths[-1] else [last]
        out += [(start if number == 0 else " " * before) + part for number, part in enumerate(folded)]
    return [line.rstrip() for line in out]


def _listed(header: Sequence[str], rows: Sequence[Sequence[str]], columns: int) -> list[str]:
    """Return each row as lines of a name and a value, with an empty line between rows."""
    width = max(map(len, header))
    out: list[str] = []
    for row in rows:
        out += [""] if out else []
        for name, cell in zip(header, row, strict=True):
            out += fold(f"{name:{width}}{_GAP}{cell}".rstrip(), columns)
    return out

"""What the parts of a sitting found, as values that travel between processes and as one Markdown page."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

#: How a part stands; a part that is killed at its limit, or crashes, keeps the tables that it had written.
State = Literal["not run", "running", "done", "failed", "out of time", "stopped"]


@dataclass(frozen=True)
class Line:
    """One row: its cells, and whether what it says holds; None for a figure that has no limit."""

    cells: tuple[str, ...]
    holds: bool | None = None


@dataclass(frozen=True)
class Table:
    """One subject.

    Attributes:
        text: Markdown that another script printed, which stands in place of lines.
    """

    title: str
    header: tuple[str, ...] = ()
    lines: tuple[Line, ...] = ()
    text: str = ""

    def markdown(self) -> str:
        """Heading and table, with a last column that says what holds."""
        if self.text:
            return f"### {self.title}\n\n{self.text.strip()}\n"
        rows = [(*self.header, "holds"), ("---",) * (len(self.header) + 1)]
        rows += [(*line.cells, {None: "", True: "yes", False: "**no**"}[line.holds]) for line in self.lines]
        return "\n".join([f"### {self.title}", "", *(f"| {' | '.join(row)} |" for row in rows), ""])

    @property
    def failures(self) -> list[str]:
        """What does not hold."""
        return [f"{self.title}: {line.cells[0]}" for line in self.lines if line.holds is False]


@dataclass(frozen=True)
class Result:
    """One part of the sitting.

    Attributes:
        seconds: how long it ran.
        cause: why it failed, in one line.
    """

    name: str
    state: State
    seconds: float = 0.0
    cause: str = ""
    tables: tuple[Table, ...] = field(default=())

    @property
    def failures(self) -> list[str]:
        """What of this part does not hold, or why it has not ended."""
        found = [failure for table in self.tables for failure in table.failures]
        return found if self.state == "done" else [*found, f"{self.name}: {self.cause or self.state}"]

    @property
    def holds(self) -> bool:
        """Whether it has ended and nothing in it fails."""
        return not self.failures


def cause(error: BaseException) -> str:
    """An error in one line, fit for a cell."""
    text = " ".join(str(error).split()).replace("|", "/")
    return f"{type(error).__name__}: {text[:300]}"


def tables_to_json(tables: Iterable[Table]) -> list[dict[str, Any]]:
    """Tables as plain values."""
    return [asdict(table) for table in tables]


def tables_of(values: Iterable[dict[str, Any]]) -> tuple[Table, ...]:
    """Tables from the plain values of `tables_to_json`."""
    return tuple(
        Table(
            value["title"],
            tuple(value["header"]),
            tuple(Line(tuple(line["cells"]), line["holds"]) for line in value["lines"]),
            value["text"],
        )
        for value in values
    )


def replace_text(file: Path, text: str) -> None:
    """Write a file whole or not at all, so that it can be read at any time."""
    unfinished = file.with_name(file.name + ".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, file)


def read_tables(file: Path) -> tuple[Table, ...]:
    """The tables that a part has written so far; none where there is no file of them."""
    try:
        return tables_of(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def write_results(file: Path, results: Iterable[Result]) -> None:
    """Keep the results of the parts for a sitting that goes on later."""
    replace_text(file, json.dumps([asdict(result) for result in results], indent=1))


def read_results(file: Path) -> dict[str, Result]:
    """The results that `write_results` kept, by name; none where there is no file of them."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        return {values["name"]: Result(**{**values, "tables": tables_of(values["tables"])}) for values in kept}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def markdown(heading: str, facts: Sequence[str], results: Sequence[Result]) -> str:
    """The whole page: facts, one row for each part, what does not hold, and the tables of each part."""
    lines = [f"# {heading}", "", *(f"* {fact}" for fact in facts), ""]
    lines += ["| part | state | seconds | holds |", "|---|---|---:|---|"]
    for result in results:
        holds = "" if result.state in ("not run", "running") else "yes" if result.holds else "**no**"
        lines.append(f"| {result.name} | {result.state} | {result.seconds:.0f} | {holds} |")
    failures = [failure for result in results for failure in result.failures]
    lines += ["", f"{len(failures)} things do not hold:" if failures else "Everything holds.", ""]
    lines += [f"* {failure}" for failure in failures]
    for result in results:
        if result.tables or result.cause:
            lines += ["", f"## {result.name.capitalize()}", "", *([result.cause, ""] if result.cause else [])]
            lines += [table.markdown() for table in result.tables]
    return "\n".join(lines).rstrip() + "\n"

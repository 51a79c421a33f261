"""The messages of the code as text, with "…" where a value stands, to compare pages with what is in the code."""

import ast
import re
from functools import cache
from pathlib import Path

#: Stands for a value in a message, in pages and in `templates`.
VALUE = "…"


@cache
def templates(root: Path) -> frozenset[str]:
    """Every text in the sources of the package and the command line, with `VALUE` for each value that is filled in."""
    found = set()
    for folder in ("kdcache", "cli"):
        for file in sorted((root / folder).rglob("*.py")):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            found |= {_template(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.Constant)}
    return frozenset(text for text in found if text)


def _template(node: ast.JoinedStr | ast.Constant) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    filled = "".join(VALUE if isinstance(part, ast.FormattedValue) else str(part.value) for part in node.values)
    return re.sub(f"{VALUE}( ?{VALUE})+", VALUE, filled)  # several values side by side are one to the reader


def is_in_the_code(message: str, root: Path) -> bool:
    """Whether a message, with `VALUE` for each value, is one of the code's or a part of one."""
    return any(message in text for text in templates(root))

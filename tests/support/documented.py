"""What the pages of the documentation tell to run: lines of shell, and whether the command line takes them."""

import re
import shlex
from pathlib import Path
from typing import Any

from typer.core import TyperGroup
from typer.main import get_command

from kdcache_cli.main import app

#: `#` begins a line of a comment in a compose file that shows a command.
_CONTINUED = re.compile(r"\\\n#?\s*")


def pages(root: Path) -> list[Path]:
    """Every page of documentation: those beside the package and those in docs/."""
    return [root / "README.md", root / "CONTRIBUTING.md", root / "CHANGELOG.md", *sorted((root / "docs").glob("*.md"))]


def lines_of(text: str, program: str) -> list[list[str]]:
    """The words of every line of shell in a text that calls a program, in comments and on continued lines as well."""
    lines = [line.lstrip("# ") for line in _CONTINUED.sub(" ", text).splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(program + " ")]


def code_blocks(text: str, language: str) -> list[str]:
    """The content of the blocks that are marked as a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """A page without its blocks of code, which stand for what a program prints or a user writes."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words after `kdcache` begin with, and the words behind its name. Fails without one."""
    command: Any = get_command(app)
    rest = list(words)
    while isinstance(command, TyperGroup) and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"there is no command {rest[0]!r}"
        command = command.commands[rest.pop(0)]
    return command, rest


def parse(words: list[str]) -> str:
    """The name of the command that takes these words; the command is not run. Fails where the words are refused."""
    command, options = find_command(words)
    with command.make_context(command.name, list(options)):
        return str(command.name)


def options_of(command: Any) -> set[str]:
    """The options that a command has, as they are written."""
    own = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return {name for name in own if name.startswith("-")} | {"--help", "-h"}

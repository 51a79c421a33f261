"""What the pages of the documentation tell to run: lines of shell, and whether the command line takes them."""

import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import yaml
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


def kdcache_lines(text: str) -> list[list[str]]:
    """The words behind `kdcache` of every command of a page that runs it: in blocks of shell, and in Kubernetes jobs.

    It may be behind torchrun, srun or variables (`NAME=VALUE kdcache ...`), and beside other commands in a line.
    """
    commands = [command for block in code_blocks(text, "sh") for command in simple_commands(block)]
    for block in code_blocks(text, "yaml"):
        commands += [command for document in yaml.safe_load_all(block) for command in _containers(document)]
    return [words for command in commands if (words := _behind_kdcache(command))]


def simple_commands(block: str) -> list[list[str]]:
    """The words of every command in a block of shell, without what joins commands and redirects them."""
    commands = []
    for line in _CONTINUED.sub(" ", block).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        commands.append([])
        for word in lexer:
            if set(word) <= set("();<>|&"):
                commands.append([])
            else:
                commands[-1].append(word)
    return [command for command in commands if command]


def _containers(document: object) -> list[list[str]]:
    """What the containers of a Kubernetes job run; the image's entry point is kdcache."""
    if not isinstance(document, dict) or document.get("kind") != "Job":
        return []
    found = document["spec"]["template"]["spec"]["containers"]
    return [[*map(str, each.get("command", ["kdcache"])), *map(str, each.get("args", []))] for each in found]


def _behind_kdcache(command: list[str]) -> list[str]:
    if "kdcache_cli" in command:
        return command[command.index("kdcache_cli") + 1 :]
    words = [word for word in command if word != "srun" and not re.match(r"[A-Z_]+=", word)]
    return words[1:] if words[:1] == ["kdcache"] else []


def prose(text: str) -> str:
    """A page without its blocks of code, which stand for what a program prints or a user writes."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


@cache
def _root() -> Any:
    return get_command(app)


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words after `kdcache` begin with, and the words behind its name. Fails without one."""
    command = _root()
    rest = list(words)
    while isinstance(command, TyperGroup) and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"there is no command {rest[0]!r}"
        command = command.commands[rest.pop(0)]
    return command, rest


def parse(words: list[str]) -> str:
    """The name of the command that takes these words; the command is not run. Fails where the words are refused."""
    return values_of(words)[0]


def values_of(words: list[str]) -> tuple[str, dict[str, Any]]:
    """The name of the command that takes these words, and its arguments and options by their names in Python."""
    command, options = find_command(words)
    with command.make_context(command.name, list(options)) as context:
        return str(command.name), dict(context.params)


def options_of(command: Any) -> set[str]:
    """The options that a command has, as they are written."""
    own = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return {name for name in own if name.startswith("-")} | {"--help", "-h"}

"""Recipes: named training configurations, as YAML files that ship with the package."""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from kdcache.errors import ConfigError, RunError, reason
from kdcache.io.atomic import replace_file
from kdcache.io.failures import cannot_write
from kdcache.io.plain_values import FormatError
from kdcache.io.reading import read_bytes
from kdcache.io.yaml_format import parse_yaml
from kdcache.training.sections import DEFAULT_RECIPE as DEFAULT_RECIPE

#: How the name of a file ends that is given in place of a recipe's name.
_SUFFIXES = (".yaml", ".yml")
#: Section of a recipe's file that is no setting: what objectives of other names have under this recipe, where the paper
#: of the recipe measured these too.
_BASELINES = "objectives"
_FIELD = re.compile(r"# ([A-Z][a-z]+): *(.*)")


@dataclass(frozen=True)
class Recipe:
    """A recipe's name and the first line of its header."""

    name: str
    title: str


@dataclass(frozen=True)
class Row:
    """A row of a paper's table, which a recipe is for: a line of the field `Rows` in the header of its file.

    Attributes:
        paper: short name of the paper, such as "VanillaKD".
        table: the table, in words where its number is not at hand.
        teacher: name of the teacher; "-" without one.
        student: name of the student.
        objective: value of `objective.name`; "alone" for labels alone.
        expected: figure of the paper, in percent of top-1 accuracy; "?" where it is not at hand.
        options: further options of `kdcache train`.
    """

    paper: str
    table: str
    teacher: str
    student: str
    objective: str
    expected: str
    options: str = ""


@dataclass(frozen=True)
class Header:
    """What the header of a recipe's file says, for a script.

    Attributes:
        title: the first line.
        fields: text of each field by its name: Paper, Differs, Cost, Command, Expected, Measured. Lines of a command
            stay lines, others are joined.
        rows: rows of tables that the recipe is for.
    """

    title: str
    fields: Mapping[str, str]
    rows: tuple[Row, ...]


def list_recipes() -> tuple[Recipe, ...]:
    """Return the recipes that ship with kdcache, sorted by name."""
    return tuple(
        Recipe(name, file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ").strip())
        for name, file in sorted(_shipped().items())
    )


def read_recipe(name: str) -> dict[str, Any]:
    """Return the settings of a shipped recipe, or of the file `name` where it is a path to one.

    Raises:
        ConfigError: no such recipe (with the nearest), or a file that is no mapping in YAML.
    """
    file = _file_of(name)
    try:
        values = parse_yaml(read_bytes(file) if isinstance(file, Path) else file.read_bytes())
    except (OSError, FormatError) as error:
        raise ConfigError(f"The recipe {name} cannot be read as YAML ({reason(error)}): correct it.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"The recipe {name} holds no mapping of settings: correct it.")
    return values


def recipe_settings(name: str) -> dict[str, Any]:
    """Return the settings of a recipe without `baseline_settings`; arguments and errors as `read_recipe` has them."""
    return {key: value for key, value in read_recipe(name).items() if key != _BASELINES}


def baseline_settings(name: str, objective: str) -> dict[str, Any]:
    """Return the settings that a recipe has for an objective of another name than its own, {} where it has none.

    Raises:
        ConfigError: as `read_recipe`, or the section `objectives` is no mapping of mappings.
    """
    baselines = read_recipe(name).get(_BASELINES) or {}
    found = (baselines.get(objective) or {}) if isinstance(baselines, dict) else None
    if not isinstance(found, dict):
        raise ConfigError(f"The section {_BASELINES} of the recipe {name} holds no settings by objective: correct it.")
    return found


def recipe_header(name: str) -> Header:
    """Read the header of a recipe's file: its title, then fields "# Name: text", whose further lines are indented.

    Raises:
        ConfigError: as `read_recipe`, or a row has another form than
            "PAPER | TABLE | TEACHER -> STUDENT | OBJECTIVE | EXPECTED | OPTIONS", of which OPTIONS may be missing.
    """
    title, *lines = recipe_text(name).partition("\n\n")[0].splitlines()
    fields: dict[str, list[str]] = {}
    for line in lines:
        if found := _FIELD.match(line):
            fields[found[1]] = [found[2]] if found[2] else []
        elif fields and (text := line.lstrip("# ").strip()):
            fields[list(fields)[-1]].append(text)
    rows = tuple(_row(name, line) for line in fields.pop("Rows", []))
    joined = {key: ("\n" if key == "Command" else " ").join(text) for key, text in fields.items()}
    return Header(title.lstrip("# ").strip(), joined, rows)


def _row(name: str, line: str) -> Row:
    parts = [part.strip() for part in line.split("|")]
    models = [model.strip() for model in parts[2].split("->")] if len(parts) > 2 else []
    if len(parts) not in (5, 6) or len(models) != 2:
        raise ConfigError(f"The row {line!r} in the header of the recipe {name} has another form: correct it.")
    return Row(parts[0], parts[1], *models, *parts[3:])


def recipe_text(name: str) -> str:
    """Return the text of a recipe's file, with its header. Arguments and errors as `read_recipe` has them."""
    read_recipe(name)
    file = _file_of(name)
    data = read_bytes(file) if isinstance(file, Path) else file.read_bytes()
    return data.decode("utf-8")


def copy_recipe(name: str, file: Path) -> None:
    """Write a recipe's text to a new file.

    Raises:
        ConfigError: no such recipe; or the file is there already, or could not be given as a recipe.
        RunError: the file cannot be written.
    """
    text = recipe_text(name)
    if file.suffix not in _SUFFIXES:
        raise ConfigError(f"{file} could not be given as a recipe: choose a name that ends in .yaml.")
    if os.path.lexists(file):
        raise ConfigError(f"{file} is there already, and is left as it is: choose another name, or remove it first.")
    try:
        replace_file(file.parent, file.name, text.encode())
    except OSError as error:
        raise RunError(cannot_write(file, error, "Nothing was written")) from error


def recipe_differences(first: str, second: str) -> tuple[tuple[str, Any, Any], ...]:
    """Return each setting in which two recipes differ, by its dotted name, with both values; None where one lacks it.

    Arguments and errors as `read_recipe` has them.
    """
    both = [dict(_flattened(read_recipe(name))) for name in (first, second)]
    names = sorted({*both[0], *both[1]})
    rows = ((name, both[0].get(name), both[1].get(name)) for name in names)
    return tuple(row for row in rows if row[1] != row[2])


def _flattened(values: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _file_of(name: str) -> Traversable | Path:
    """Return the file of a recipe. Raises ConfigError where there is none, with the nearest names."""
    shipped = _shipped()
    if name in shipped:
        return shipped[name]
    if name.endswith(_SUFFIXES) and Path(name).is_file():
        return Path(name)
    near = difflib.get_close_matches(name, shipped, n=3) or sorted(shipped)
    raise ConfigError(f"There is no recipe {name!r}: use {', '.join(near)}, or give a .yaml file.")


def _shipped() -> dict[str, Traversable]:
    folder = files("kdcache") / "recipes"
    return {item.name.removesuffix(".yaml"): item for item in folder.iterdir() if item.name.endswith(".yaml")}

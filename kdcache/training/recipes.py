"""Recipes: named training configurations, as YAML files that ship with the package."""

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from kdcache.errors import ConfigError, reason
from kdcache.io.atomic import replace_file
from kdcache.io.failures import cannot_write
from kdcache.io.plain_values import FormatError
from kdcache.io.reading import read_bytes
from kdcache.io.yaml_format import parse_yaml
from kdcache.training.sections import DEFAULT_RECIPE as DEFAULT_RECIPE

#: How the name of a file ends that is given in place of a recipe's name.
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Recipe:
    """A recipe's name and the first line of its header."""

    name: str
    title: str


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


def recipe_text(name: str) -> str:
    """Return the text of a recipe's file, with its header. Arguments and errors as `read_recipe` has them."""
    read_recipe(name)
    file = _file_of(name)
    data = read_bytes(file) if isinstance(file, Path) else file.read_bytes()
    return data.decode("utf-8")


def copy_recipe(name: str, file: Path) -> None:
    """Write a recipe's text to a new file.

    Raises:
        ConfigError: no such recipe; or the file is there already, could not be given as a recipe, or cannot be written.
    """
    text = recipe_text(name)
    if file.suffix not in _SUFFIXES:
        raise ConfigError(f"{file} could not be given as a recipe: choose a name that ends in .yaml.")
    if os.path.lexists(file):
        raise ConfigError(f"{file} is there already, and is left as it is: choose another name, or remove it first.")
    try:
        replace_file(file.parent, file.name, text.encode())
    except OSError as error:
        raise ConfigError(cannot_write(file, error, "Nothing was written")) from error


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

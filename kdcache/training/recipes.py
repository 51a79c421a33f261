"""Recipes: named training configurations, as YAML files that ship with the package."""

import difflib
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from kdcache.errors import ConfigError, reason
from kdcache.io.plain_values import FormatError
from kdcache.io.reading import read_bytes
from kdcache.io.yaml_format import parse_yaml
from kdcache.training.sections import DEFAULT_RECIPE as DEFAULT_RECIPE


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
    shipped = _shipped()
    file: Traversable | Path
    if name in shipped:
        file = shipped[name]
    elif name.endswith((".yaml", ".yml")) and Path(name).is_file():
        file = Path(name)
    else:
        near = difflib.get_close_matches(name, shipped, n=3) or sorted(shipped)
        raise ConfigError(f"There is no recipe {name!r}: use {', '.join(near)}, or give a .yaml file.")
    try:
        values = parse_yaml(read_bytes(file) if isinstance(file, Path) else file.read_bytes())
    except (OSError, FormatError) as error:
        raise ConfigError(f"The recipe {name} cannot be read as YAML ({reason(error)}): correct it.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"The recipe {name} holds no mapping of settings: correct it.")
    return values


def _shipped() -> dict[str, Traversable]:
    folder = files("kdcache") / "recipes"
    return {item.name.removesuffix(".yaml"): item for item in folder.iterdir() if item.name.endswith(".yaml")}

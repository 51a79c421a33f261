"""The commands `list`, `show`, `copy` and `diff` of `kdcache recipes`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from kdcache.runtime.option import Option
from kdcache_cli.console import print_json, print_lines, print_table
from kdcache_cli.declared import typer_option

_JSON = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


def _recipe(help: str, metavar: str) -> Any:
    return typer_option(metavar, Option(help, metavar=metavar, is_argument=True, names="recipe"))


_Name = Annotated[str, _recipe("A recipe's name, or a YAML file of one.", "NAME")]


def list_by_default(context: typer.Context) -> None:
    """List the recipes where no command is named."""
    if context.invoked_subcommand is None:
        list_all()


def list_all(as_json: _JSON = False) -> None:
    """List the recipes; so does the command without a further word."""
    from kdcache.training.recipes import DEFAULT_RECIPE, list_recipes

    if as_json:
        print_json(
            [
                {"name": recipe.name, "title": recipe.title, "default": recipe.name == DEFAULT_RECIPE}
                for recipe in list_recipes()
            ]
        )
        return
    print_table(
        ("recipe", "what it is"),
        [
            (f"{recipe.name} (default)" if recipe.name == DEFAULT_RECIPE else recipe.name, recipe.title)
            for recipe in list_recipes()
        ],
    )


def show(name: _Name, as_json: _JSON = False) -> None:
    """Print a recipe's file: its paper, cost, commands and expected result, and every setting."""
    from kdcache.training.recipes import read_recipe, recipe_header, recipe_text

    if as_json:
        header = recipe_header(name)
        print_json({"name": name, "title": header.title, "header": dict(header.fields), "settings": read_recipe(name)})
        return
    print_lines(recipe_text(name).splitlines())


def copy(
    name: _Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new file, which ends in .yaml.")],
) -> None:
    """Write a recipe to a file, to be changed and given as --recipe FILE. An existing file is never replaced."""
    from kdcache.training.recipes import copy_recipe

    copy_recipe(name, file)
    print_lines([f"{file} holds recipe {name}: change it, and train with --recipe {file}."])


def diff(
    first: Annotated[str, _recipe("A recipe's name, or a YAML file of one.", "A")],
    second: Annotated[str, _recipe("The recipe to compare it with.", "B")],
    as_json: _JSON = False,
) -> None:
    """Print the settings in which two recipes differ; a dash where one does not set them."""
    from kdcache.training.recipes import recipe_differences

    rows = recipe_differences(first, second)
    if as_json:
        print_json([{"setting": name, "first": ours, "second": theirs} for name, ours, theirs in rows])
        return
    if not rows:
        print_lines([f"{first} and {second} have the same settings."])
        return
    print_table(("setting", first, second), [(name, _text(ours), _text(theirs)) for name, ours, theirs in rows])


def _text(value: Any) -> str:
    return "-" if value is None else str(value)

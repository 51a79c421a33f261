"""`kdcache recipes`, and its commands `list`, `show`, `copy` and `diff`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from kdcache_cli.console import print_lines, print_table

_Name = Annotated[str, typer.Argument(metavar="NAME", help="A recipe's name, or a YAML file of one.")]

recipes = typer.Typer(help="List, show, copy and compare the recipes: named training configurations.")


@recipes.callback(invoke_without_command=True)
def _list_by_default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_all()


@recipes.command("list")
def list_all() -> None:
    """List the recipes; so does the command without a further word."""
    from kdcache.training.recipes import DEFAULT_RECIPE, list_recipes

    print_table(
        ("recipe", "what it is"),
        [
            (f"{recipe.name} (default)" if recipe.name == DEFAULT_RECIPE else recipe.name, recipe.title)
            for recipe in list_recipes()
        ],
    )


@recipes.command("show")
def show(name: _Name) -> None:
    """Print a recipe's file: its paper, cost, commands and expected result, and every setting."""
    from kdcache.training.recipes import recipe_text

    print_lines(recipe_text(name).splitlines())


@recipes.command("copy")
def copy(
    name: _Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new file, which ends in .yaml.")],
) -> None:
    """Write a recipe to a file, to be changed and given as --recipe FILE. An existing file is never replaced."""
    from kdcache.training.recipes import copy_recipe

    copy_recipe(name, file)
    print_lines([f"{file} holds recipe {name}: change it, and train with --recipe {file}."])


@recipes.command("diff")
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A recipe's name, or a YAML file of one.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The recipe to compare it with.")],
) -> None:
    """Print the settings in which two recipes differ; a dash where one does not set them."""
    from kdcache.training.recipes import recipe_differences

    rows = recipe_differences(first, second)
    if not rows:
        print_lines([f"{first} and {second} have the same settings."])
        return
    print_table(("setting", first, second), [(name, _text(ours), _text(theirs)) for name, ours, theirs in rows])


def _text(value: Any) -> str:
    return "-" if value is None else str(value)

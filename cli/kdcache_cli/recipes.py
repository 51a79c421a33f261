"""`kdcache recipes`."""

from kdcache_cli.console import print_table


def recipes() -> None:
    """List the recipes: named training configurations."""
    from kdcache.training.recipes import DEFAULT_RECIPE, list_recipes

    print_table(
        ("recipe", "what it is"),
        [
            (f"{recipe.name} (default)" if recipe.name == DEFAULT_RECIPE else recipe.name, recipe.title)
            for recipe in list_recipes()
        ],
    )

"""Names that a shell completes: of teachers, students, recipes, policies, objectives, and a cache's entries.

None of them imports torch: timm's names are read from its source, those of objectives from the source of their table,
and the rest from files of the package and of the cache. Where no name fits, the shell completes files by itself.
"""

import ast
import os
import re
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import typer

import kdcache
from kdcache.runtime.option import Names
from kdcache.runtime.shared_options import CACHE, DEFAULT_CACHE

_REGISTERED = re.compile(r"^@register_model\b[^\n]*\n(?:@[^\n]*\n)*def (\w+)\(", re.MULTILINE)
_TAGGED = re.compile(r"^\s*['\"](\w+\.\w[\w.]*)['\"]\s*:", re.MULTILINE)
#: The tag of a configuration without weights.
_UNTRAINED = ".untrained"
_OBJECTIVE = "objective.name="

Completer = Callable[[typer.Context, str], list[str]]


def completer(names: Names) -> Completer:
    """Return the function that typer calls for the names that a word may become."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        return sorted(set(_FINDERS[names](ctx, incomplete)))

    return complete


def timm_names(with_tags: bool) -> set[str]:
    """Return the names of timm's models, read from the source of what is installed, in tens of milliseconds.

    Args:
        with_tags: whether to return those of pretrained weights, such as "resnet50.a1_in1k", in place of the bare ones.
    """
    spec = find_spec("timm")
    if spec is None or spec.origin is None:
        return set()
    sources = [path.read_text(encoding="utf-8") for path in Path(spec.origin).with_name("models").glob("*.py")]
    names = {name for source in sources for name in _REGISTERED.findall(source)}
    if not with_tags:
        return names
    tagged = {name for source in sources for name in _TAGGED.findall(source)}
    return {name for name in tagged if name.partition(".")[0] in names and not name.endswith(_UNTRAINED)}


def objective_names() -> list[str]:
    """Return the names of objectives, read from the source of their table: importing it would import torch."""
    source = Path(kdcache.__file__).parent / "objectives" / "registry.py"
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "OBJECTIVES":
            table = next(part for part in ast.walk(node) if isinstance(part, ast.Dict))
            return [str(key.value) for key in table.keys if isinstance(key, ast.Constant)]
    return []


def entry_names(cache: str) -> list[str]:
    """Return the names of a cache's entries; none where it is no folder, and nothing is asked of a network."""
    try:
        return [entry.name for entry in os.scandir(Path(cache, "teachers")) if entry.is_dir()]
    except OSError:
        return []


def _teachers(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    from kdcache.models.names import TEACHERS

    return _models([known.short for known in TEACHERS], incomplete)


def _students(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    from kdcache.models.names import STUDENTS

    return _models([known.short for known in STUDENTS], incomplete)


def _models(short: list[str], incomplete: str) -> Iterator[str]:
    from kdcache.models.cifar_names import NAMES

    # Tags are many, and are offered as soon as a name is written out.
    for name in (*short, *NAMES, *timm_names(with_tags="." in incomplete)):
        if name.startswith(incomplete):
            yield name


def _recipes(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    from kdcache.training.recipes import list_recipes

    return (recipe.name for recipe in list_recipes() if recipe.name.startswith(incomplete))


def _policies(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    from kdcache.views.policies import NAMED

    return (name for name in NAMED if name.startswith(incomplete))


def _objectives(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    return _last_of_list(objective_names(), incomplete)


def _settings(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    """Yield the setting that holds a name, and that name; bash takes a word with "=" apart, other shells do not."""
    if incomplete.startswith(_OBJECTIVE):
        return (f"{_OBJECTIVE}{name}" for name in objective_names() if name.startswith(incomplete[len(_OBJECTIVE) :]))
    return [_OBJECTIVE] if _OBJECTIVE.startswith(incomplete) else []


def _entries(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    given = ctx.params.get("cache") or ctx.params.get("source")
    cache = given or os.environ.get(CACHE.envvar or "") or DEFAULT_CACHE
    return _last_of_list(entry_names(str(cache)), incomplete)


def _last_of_list(names: Iterable[str], incomplete: str) -> Iterator[str]:
    """Yield what a word may become that is one name, or several with commas between, of which the last is completed."""
    before, comma, last = incomplete.rpartition(",")
    for name in names:
        if name.startswith(last):
            yield f"{before}{comma}{name}"


_FINDERS: dict[Names, Callable[[typer.Context, str], Iterable[str]]] = {
    "teacher": _teachers,
    "student": _students,
    "recipe": _recipes,
    "policy": _policies,
    "objective": _objectives,
    "setting": _settings,
    "entry": _entries,
}

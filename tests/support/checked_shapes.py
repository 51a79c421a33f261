"""Shapes and dtypes of arrays, checked by beartype at every call while the tests run.

jaxtyping's own import hook puts its checks around every function of a package, whether arrays go through it or not, and
each of those calls binds its arguments twice: the suite took three times as long. Here a function (or a dataclass) is
checked where one of its annotations speaks of an array; mypy checks the others without running them. Nor is jaxtyping's
decorator used where no dimension is computed from an argument: it binds the arguments itself and has them checked
before the call and again with its result. It gives the context in which names of dimensions hold, and beartype looks
at each value once.
"""

import ast
import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray, jaxtyped

_CHECKED = f"import {__name__} as _checked_shapes"
_DECORATOR = "_checked_shapes.checked"


def checked(target: Any) -> Any:
    """A function or class with its arrays checked; itself where no annotation speaks of one."""
    if isinstance(target, type):
        fields = dataclasses.fields(target) if dataclasses.is_dataclass(target) else ()
        if any(_of_arrays(field.type) for field in fields):
            target.__init__ = _checked(target.__init__)  # type: ignore[misc]
        return target
    return _checked(target) if any(map(_of_arrays, target.__annotations__.values())) else target


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    annotations = function.__annotations__
    # What beartype makes of a generator checks its arguments at the first item, when the context would be another one.
    if any(map(_of_values, annotations.values())) or inspect.isgeneratorfunction(function):
        return jaxtyped(function, typechecker=beartype)  # type: ignore[no-any-return]
    # What is written as text may not be there yet, as a class within itself.
    function.__annotations__ = {name: Any if isinstance(hint, str) else hint for name, hint in annotations.items()}
    body = beartype(function)
    function.__annotations__ = annotations

    @functools.wraps(function)
    def in_context(*arguments: Any, **choice: Any) -> Any:
        with jaxtyped("context"):
            return body(*arguments, **choice)

    return in_context


def check_shapes_of(package: str) -> None:
    """Check the modules of a package that are imported from now on; one that is imported already is an error."""
    if package in sys.modules:
        raise RuntimeError(f"{package} is imported already: its shapes would go unchecked")
    sys.meta_path.insert(0, _Finder(package))


def _of_arrays(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, AbstractArray):
        return True
    return any(map(_of_arrays, get_args(annotation)))


def _of_values(annotation: Any) -> bool:
    """Whether a dimension is computed from an argument's value, as in "n {count}"."""
    if isinstance(annotation, type) and issubclass(annotation, AbstractArray):
        return "{" in annotation.dim_str
    return any(map(_of_values, get_args(annotation)))


class _Decorate(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        # The innermost decorator, as others may hide the annotations.
        node.decorator_list.append(_parsed(_DECORATOR, node))
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.generic_visit(node)
        # The outermost one: `dataclass` makes the method that is checked.
        node.decorator_list.insert(0, _parsed(_DECORATOR, node))
        return node


def _parsed(expression: str, place: ast.AST) -> ast.expr:
    node = ast.parse(expression, mode="eval").body
    for each in ast.walk(node):
        ast.copy_location(each, place)
    return node


class _Loader(SourceFileLoader):
    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> CodeType:
        tree = ast.parse(data, path)
        start = 1 if ast.get_docstring(tree, clean=False) is not None else 0
        tree.body.insert(start, ast.parse(_CHECKED).body[0])
        tree = ast.fix_missing_locations(_Decorate().visit(tree))
        return super().source_to_code(tree, path, _optimize=_optimize)

    # What is compiled with checks is kept beside what is compiled without them, under a name of its own.
    def get_data(self, path: str) -> bytes:
        return super().get_data(_kept(path))

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        super().set_data(_kept(path), data, _mode=_mode)


def _kept(path: str) -> str:
    return path.removesuffix(".pyc") + ".checked.pyc" if path.endswith(".pyc") else path


class _Finder(MetaPathFinder):
    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.split(".")[0] != self._package:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec

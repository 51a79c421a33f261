"""Modules that the user names with --import: they are run first, and may register models with timm.

Nothing else names code: what a cache or run says of its imports is told to the user, and never imported.
"""

import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from kdcache.errors import UnknownModelError, UsageError, reason


def import_modules(names: Sequence[str]) -> None:
    """Import modules in this order; a name that ends with .py or has a slash is a file.

    A module that was imported before is not run again.

    Raises:
        UsageError: there is no such module or file, or its own code fails.
    """
    for name in names:
        if name.endswith(".py") or os.sep in name:
            _import_file(name)
        else:
            _import_module(name)


@contextmanager
def naming_imports(made_with: Callable[[], Mapping[str, Sequence[str]]]) -> Iterator[None]:
    """Add to the error of an unknown model with which --import the thing that needs it was made.

    Args:
        made_with: returns the imports of each thing that may need the model; called only where a model is unknown.
    """
    try:
        yield
    except UnknownModelError as error:
        for what, imports in made_with().items():
            if imports:
                options = " ".join(f"--import {name}" for name in imports)
                raise UnknownModelError(
                    f"{error} {what} was made with {options}, and kdcache imports nothing by itself: give "
                    f"{'it' if len(imports) == 1 else 'them'} again, if you trust that code."
                ) from error
        raise


def _import_module(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _failed(name, error) from error  # a module that it imports itself is missing
        raise UsageError(
            f"There is no module {name!r} for --import: install it, put its folder into PYTHONPATH, or give the path "
            "of its .py file."
        ) from error
    except (Exception, SystemExit) as error:
        raise _failed(name, error) from error


def _import_file(name: str) -> None:
    path = Path(os.path.abspath(name))
    if not path.is_file() or path.suffix != ".py":
        raise UsageError(f"There is no Python file {name} for --import: give the path of a .py file, or a module.")
    # timm looks up the module of each function that registers a model, and two files may have the same name.
    module_name = f"{path.stem}_{hashlib.blake2b(os.fsencode(path), digest_size=4).hexdigest()}"
    if module_name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None  # it ends with .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[module_name]
        if isinstance(error, Exception | SystemExit):
            raise _failed(name, error) from error
        raise


def _failed(name: str, error: BaseException) -> UsageError:
    frames = traceback.extract_tb(error.__traceback__)
    where = f", line {frames[-1].lineno} of {frames[-1].filename}" if frames else ""
    return UsageError(
        f"The code of --import {name} fails ({type(error).__name__}: {reason(error)}{where}): correct or omit it."
    )

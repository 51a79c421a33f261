"""The public names: which they are, that they are imported lazily, and that each is documented with an example."""

import ast
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import kdcache
from support.documented import code_blocks

PUBLIC = [
    "Batch",
    "CachedDataset",
    "CachedLoader",
    "KdcacheError",
    "ObjectiveModule",
    "StudentOutputs",
    "TeacherModule",
    "__version__",
    "create_objective",
    "dump_logits",
    "evaluate",
    "inspect",
    "open_cache",
    "train",
    "verify",
]
#: A version says itself, and the example of an error is the except clause of any program.
WITHOUT_EXAMPLE = {"KdcacheError", "__version__"}


def test_the_public_names_are_these():
    assert kdcache.__all__ == PUBLIC
    assert dir(kdcache) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_each_name_is_there_and_comes_from_one_object(name):
    assert getattr(kdcache, name) is getattr(kdcache, name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = kdcache.nonsense
    assert not hasattr(kdcache, "stored_teachers")


@pytest.mark.parametrize("name", sorted(set(PUBLIC) - WITHOUT_EXAMPLE))
def test_each_name_is_documented_with_an_example(name):
    text = inspect.getdoc(getattr(kdcache, name)) or ""
    assert "Example:" in text
    assert ">>>" in text
    assert text.splitlines()[0].endswith(".")


@pytest.mark.parametrize("name", ["CachedDataset", "CachedLoader", "Batch"])
def test_each_public_method_is_documented(name):
    for attribute, value in vars(getattr(kdcache, name)).items():
        if not attribute.startswith("_") and (callable(value) or isinstance(value, property | classmethod)):
            assert inspect.getdoc(value), f"{name}.{attribute} has no docstring"


def test_type_checkers_see_what_is_imported_lazily():
    """The imports under TYPE_CHECKING and the table of modules say the same."""
    tree = ast.parse(Path(kdcache.__file__).read_text(encoding="utf-8"))
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: node.module for node in checked.body for alias in node.names}
    assert seen == kdcache._MODULES
    assert set(seen) | {"__version__"} == set(kdcache.__all__)


def test_a_name_is_imported_when_it_is_used_and_not_before():
    program = """
import sys
import kdcache
assert "torch" not in sys.modules and "open_cache" not in vars(kdcache)
kdcache.KdcacheError
assert "torch" not in sys.modules
from kdcache import open_cache
assert "torch" in sys.modules and vars(kdcache)["open_cache"] is open_cache
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_loop_of_the_readme_runs(job, project_root, monkeypatch):
    """On a cache of the tests, with a smaller model, batch and number of epochs, and all else as it is printed."""
    text = (project_root / "README.md").read_text(encoding="utf-8")
    code = next(block for block in code_blocks(text, "python") if "open_cache" in block)
    smaller = {'"cache"': repr(str(job.cache)), '"data"': repr(job.data), '"resnet50"': '"test_resnet"'}
    smaller |= {"batch_size=256": "batch_size=24", "epochs=100": "epochs=2", "range(100)": "range(2)"}
    for printed, used in smaller.items():
        assert printed in code
        code = code.replace(printed, used)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["loader"].step == names["loader"].steps
    assert names["loss"].isfinite()


def test_the_reference_in_the_docs_is_that_of_the_docstrings(project_root):
    """After a change of a docstring: python docs/reference.py."""
    spec = importlib.util.spec_from_file_location("reference", project_root / "docs" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.PAGE.read_text(encoding="utf-8")
    assert module.written(page) == page
    missing = [name for name in PUBLIC if name != "__version__" and f"### kdcache.{name}\n" not in page]
    assert not missing

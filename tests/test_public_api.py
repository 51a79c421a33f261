"""The public names: which they are, that they are imported lazily, and that each is documented with an example."""

import ast
import dataclasses
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import kdcache
from kdcache import errors
from kdcache.dumping.options import DumpOptions
from kdcache.runtime.option import Option
from kdcache.training.options import TrainOptions
from support.command_line import kdcache as kdcache_command
from support.documented import code_blocks, lines_of
from support.forked import run_program
from support.small_job import MODEL

PUBLIC = [
    "Batch",
    "CachedDataset",
    "CachedLoader",
    "KdcacheError",
    "LossSpec",
    "ObjectiveModule",
    "StudentOutputs",
    "TeacherModule",
    "__version__",
    "create_objective",
    "dump_logits",
    "evaluate",
    "export",
    "inspect",
    "open_cache",
    "pull",
    "push",
    "train",
    "verify",
    "write_card",
]
FUNCTIONS = [
    "create_objective",
    "dump_logits",
    "evaluate",
    "export",
    "inspect",
    "open_cache",
    "pull",
    "push",
    "train",
    "verify",
    "write_card",
]
CLASSES = ["Batch", "CachedDataset", "CachedLoader", "ObjectiveModule", "TeacherModule"]


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


@pytest.mark.parametrize("name", sorted(set(PUBLIC) - {"__version__"}))
def test_each_name_is_documented_with_an_example(name):
    text = inspect.getdoc(getattr(kdcache, name)) or ""
    assert "Example:" in text
    assert ">>>" in text
    assert text.splitlines()[0].endswith(".")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_tells_its_arguments_and_errors(name):
    function = getattr(kdcache, name)
    text = inspect.getdoc(function)
    assert "\nRaises:\n" in text
    assert inspect.signature(function).return_annotation is not inspect.Signature.empty
    declared = {"train": TrainOptions, "dump_logits": DumpOptions}.get(name)
    hints = {} if declared is None else get_type_hints(declared, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        hint = hints.get(parameter.name)
        is_option = any(isinstance(part, Option) for part in getattr(hint, "__metadata__", ()))
        assert is_option or re.search(rf"\b{parameter.name}\b", text), f"{parameter.name} is not described"


REPORTS = ["dump_logits", "evaluate", "export", "inspect", "pull", "push", "train", "verify", "write_card"]


@pytest.mark.parametrize("name", REPORTS)
def test_what_a_report_is_said_to_have_it_has(name):
    """Each `report.NAME`, or NAME of a call's result, in a docstring; so nobody has to guess what a report has."""
    function = getattr(kdcache, name)
    result = inspect.signature(function).return_annotation
    (report, *_) = get_args(result) or [result]
    told = set(re.findall(r"(?:report|\))\.(\w+)", inspect.getdoc(function)))
    assert told
    assert told <= {field.name for field in dataclasses.fields(report)} | set(dir(report))


def described_parts(name):
    """What a public name consists of, each with its docstring and the code that it runs: itself, and its methods."""
    value = getattr(kdcache, name)
    if not inspect.isclass(value):
        return [(name, inspect.getdoc(value), [inspect.unwrap(value)])]
    begins = [vars(value)[method] for method in ("__init__", "__post_init__") if method in vars(value)]
    parts = [(name, inspect.getdoc(value), [code for code in begins if inspect.getsourcefile(code) in SOURCES])]
    for attribute, found in vars(value).items():
        code = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
        if inspect.isfunction(code) and (attribute[0] != "_" or attribute == "__iter__") and inspect.getdoc(code):
            parts.append((f"{name}.{attribute}", inspect.getdoc(code), [inspect.unwrap(code)]))
    return parts


#: Files of the package; a dataclass makes methods that are in none.
SOURCES = {str(path) for path in Path(kdcache.__file__).parent.rglob("*.py")}


def errors_told(text):
    """The names of the errors in the section `Raises` of a docstring."""
    section = re.search(r"^Raises:\n((?:[ \n].*\n?)*)", text, re.MULTILINE)
    entries = re.findall(r"^    ([\w, ]+):", section[1], re.MULTILINE) if section else []
    return {error for entry in entries for error in entry.split(", ")}


def errors_raised(code):
    """The names of kdcache's errors that the code of a function raises by itself."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    raised = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    return {name for name in (ast.unparse(error.func) for error in raised) if hasattr(errors, name)}


@pytest.mark.parametrize("name", sorted(set(PUBLIC) - {"__version__"}))
def test_each_function_class_and_method_tells_the_errors_that_it_raises(name):
    for part, text, codes in described_parts(name):
        told = errors_told(text)
        assert ("\nRaises:\n" in text) == bool(told), part
        assert not {error for error in told if not issubclass(getattr(errors, error), kdcache.KdcacheError)}, part
        raised = {error for code in codes for error in errors_raised(code)}
        assert raised <= told, part


def test_errors_are_found_in_docstrings_and_in_code():
    """Else the test above would say nothing."""
    parts = {part: (errors_told(text), codes) for name in PUBLIC if name != "__version__"
             for part, text, codes in described_parts(name)}  # fmt: skip
    assert parts["TeacherModule"][0] == {"ModelError"} == errors_raised(parts["TeacherModule"][1][0])
    assert parts["CachedLoader.load_state_dict"][0] == {"IdentityError", "UsageError"}
    assert errors_raised(parts["CachedLoader.load_state_dict"][1][0]) == {"IdentityError", "UsageError"}
    assert parts["CachedDataset.loader"][0] >= {"UsageError", "DeviceError"}


@pytest.mark.parametrize("name", CLASSES)
def test_each_public_method_is_documented(name):
    for attribute, value in vars(getattr(kdcache, name)).items():
        function = value.__func__ if isinstance(value, classmethod) else value
        if attribute.startswith("_") or not (inspect.isfunction(function) or isinstance(value, property)):
            continue
        text = inspect.getdoc(value)
        assert text, f"{name}.{attribute} has no docstring"
        taken = inspect.signature(function).parameters if inspect.isfunction(function) else ()
        missing = [word for word in taken if word not in ("self", "cls") and not re.search(rf"\b{word}\b", text)]
        assert not missing, f"{name}.{attribute} does not tell of {missing}"


def test_type_checkers_see_what_is_imported_lazily():
    """The imports under TYPE_CHECKING and the table of modules say the same."""
    tree = ast.parse(Path(kdcache.__file__).read_text(encoding="utf-8"))
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: node.module for node in checked.body for alias in node.names}
    assert seen == kdcache._MODULES
    assert set(seen) | {"__version__"} == set(kdcache.__all__)


def test_the_package_is_imported_without_torch():
    words = [sys.executable, "-X", "importtime", "-c", "import kdcache"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"kdcache", "kdcache.runtime.account"} <= imported
    assert not {name for name in imported if name.partition(".")[0] in ("torch", "timm", "numpy", "PIL", "zarr")}


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


def smaller(text, changes):
    """A text with other values in the places that are printed."""
    for printed, used in changes.items():
        assert printed in text
        text = text.replace(printed, used)
    return text


def loop_of(page):
    """The first block of Python that a page shows."""
    return code_blocks(page.read_text(encoding="utf-8"), "python")[0]


def test_the_readme_and_the_page_show_the_same_ten_lines(project_root):
    loop = loop_of(project_root / "README.md")
    assert loop == loop_of(project_root / "docs" / "python.md")
    assert len([line for line in loop.splitlines() if line]) == 10
    assert ";" not in loop


def test_the_loop_of_the_readme_runs_on_the_cache_of_its_command(job, project_root, tmp_path):
    """As a program in an empty folder, with smaller models, batch and numbers of views and epochs; else as printed."""
    text = (project_root / "README.md").read_text(encoding="utf-8")
    (tmp_path / "data").symlink_to(job.data)
    dump = next(words for words in lines_of(text, "kdcache") if words[1] == "dump-logits")
    assert dump[1:] == ["dump-logits", "--teacher", "beitv2_b"]
    small = ["dump-logits", "--teacher", MODEL, "--weights", str(job.weights), "--views", "3"]
    done = kdcache_command(*small, cwd=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    changes = {'"resnet50"': f'"{MODEL}"', "batch_size=256": "batch_size=24"}
    changes |= {"epochs=100": "epochs=2", "range(100)": "range(2)"}
    told = "print(loader.step == loader.steps > 0, bool(loss.isfinite()), loss.device)"
    loop = smaller(loop_of(project_root / "README.md"), changes)
    (tmp_path / "loop.py").write_text(f"{loop}{told}\n", encoding="utf-8")
    done = run_program(["loop.py"], tmp_path, {**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True True cpu\n"


def test_the_reference_in_the_docs_is_that_of_the_docstrings(project_root):
    """After a change of a docstring: python docs/reference.py."""
    spec = importlib.util.spec_from_file_location("reference", project_root / "docs" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.PAGE.read_text(encoding="utf-8")
    assert module.written(page) == page
    missing = [name for name in PUBLIC if name != "__version__" and f"### kdcache.{name}\n" not in page]
    assert not missing

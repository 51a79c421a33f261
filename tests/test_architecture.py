"""The rules of the design that say who may import and do what, read from the source."""

import ast
import sys
from collections.abc import Iterator, Mapping, Set
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from kdcache.targets.kinds import KINDS

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (ROOT / "kdcache", ROOT / "cli" / "kdcache_cli")
MAX_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_ARGUMENTS = 7
#: Functions whose arguments are the options of a command, by keyword.
OF_OPTIONS = {"verify", "evaluate", "loader", "import_folder", "import_hf"}

# Modules that compute from their arguments alone; with `objectives` as a whole.
PURE = (
    "kdcache.data.order",
    "kdcache.random.philox",
    "kdcache.views.policy",
    "kdcache.views.plan",
    "kdcache.views.draws.crops",
    "kdcache.views.draws.erasing",
    "kdcache.views.draws.jitter",
    "kdcache.views.draws.mixing",
    "kdcache.views.schemes.scheme",
    "kdcache.views.schemes.parsing",
    "kdcache.targets.topk",
    "kdcache.cache.identity",
    "kdcache.objectives",
)
# What reads, writes, starts or calls something outside the process.
OUTSIDE = {
    *("asyncio", "ctypes", "glob", "io", "mmap", "multiprocessing", "os", "pathlib", "shutil", "signal"),
    *("socket", "subprocess", "tarfile", "tempfile", "urllib", "zipfile"),
    *("PIL", "fsspec", "huggingface_hub", "numcodecs", "nvidia", "requests", "rich", "safetensors"),
    *("tensorboard", "timm", "typer", "webdataset", "yaml", "zarr"),
}
OUTSIDE_CALLS = {
    *("open", "print", "input"),
    *("np.load", "np.save", "np.savez", "np.memmap", "np.fromfile", "torch.load", "torch.save"),
}
ARBITRARY_CODE = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def _module_name(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module_name(path, package): path for package in PACKAGES for path in sorted(package.rglob("*.py"))}
LIBRARY = [module for module in MODULES if module.split(".")[0] == "kdcache"]


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@cache
def imports_of(module: str, in_functions: bool = True) -> frozenset[str]:
    """Every module that `module` imports when it runs, with or without those inside functions: full dotted names."""
    tree = tree_of(module)
    left_out = {
        id(inner)
        for node in ast.walk(tree)
        if (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        or (isinstance(node, ast.FunctionDef) and not in_functions)
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import: write the full name"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module)
    return frozenset(found)


def calls_in(module: str) -> Iterator[tuple[str, ast.Call]]:
    """Each call by the name it is written with, such as `np.load`."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keyword(call: ast.Call, name: str) -> object:
    """The constant that a call gives for a keyword; None where it gives none."""
    for given in call.keywords:
        if given.arg == name and isinstance(given.value, ast.Constant):
            return given.value.value
    return None


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_the_modules_are_found() -> None:
    assert {"kdcache", "kdcache.errors", "kdcache.data", "kdcache_cli.main"} <= MODULES.keys()
    assert "kdcache.errors" in imports_of("kdcache_cli.failures")


@pytest.mark.parametrize(
    ("library", "owners"),
    [
        ("nvidia", {"kdcache.render.dali_graph"}),
        ("zarr", {"kdcache.cache.zarr_form"}),
        ("obstore", {"kdcache.cache.objects", "kdcache.io.object_store"}),
        ("yaml", {"kdcache.io.yaml_format"}),
        ("pydantic", {"kdcache.io.checked"}),
        ("pydantic_core", {"kdcache.io.checked"}),
        ("typer", set()),
        ("rich", set()),
        ("kdcache_cli", set()),
    ],
)
def test_the_library_imports_it_in_one_place_or_nowhere(library: str, owners: set[str]) -> None:
    users = {module for module in LIBRARY if any(within(name, library) for name in imports_of(module))}
    assert users <= owners


@pytest.mark.parametrize("package", PURE)
def test_pure_modules_do_no_io(package: str) -> None:
    """Neither they nor anything of ours that they import."""
    reached: dict[str, str] = {}
    queue = [(module, "") for module in LIBRARY if within(module, package)]
    assert queue, f"{package} is not there"
    while queue:
        module, importer = queue.pop()
        if module in reached:
            continue
        reached[module] = importer
        names = imports_of(module)
        used = {name for name in names if name.split(".")[0] in OUTSIDE}
        called = {name for name, _ in calls_in(module) if name in OUTSIDE_CALLS}
        assert not used | called, f"{module} (imported by {importer or 'itself'}) uses {sorted(used | called)}"
        queue += [(name, module) for name in names if name in MODULES]


def test_a_declaration_of_a_setting_imports_no_pydantic() -> None:
    """Options take help and limits from declarations, and `kdcache --help` imports all options."""
    assert not {name for name in imports_of("kdcache.io.checked", in_functions=False) if name.startswith("pydantic")}


def circle_in(graph: Mapping[str, Set[str]]) -> str:
    """A way round that comes back to where it began, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " -> ".join(reversed(error.args[1]))
    return ""


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    """A function may import what was built on its module: `open_renderer` opens the renderers."""
    assert not circle_in({module: imports_of(module, in_functions=False) & MODULES.keys() for module in MODULES})


#: The jobs that Python has as functions, each with the command that calls it.
JOBS_OF = {name: name for name in ("dump_logits", "evaluate", "export", "inspect", "train", "verify")}


@pytest.mark.parametrize("command", JOBS_OF)
def test_a_command_calls_the_function_that_python_has_and_no_job_itself(command: str) -> None:
    """So what the command line can do, `kdcache.NAME` can do."""
    module = f"kdcache_cli.{command}"
    jobs = {"kdcache.training.train", "kdcache.dumping.dump", "kdcache.inspection.inspect", "kdcache.inspection.verify"}
    jobs |= {"kdcache.evaluation.evaluate", "kdcache.exporting.export"}
    assert not imports_of(module) & (jobs | {"kdcache.inspection.rerun"})
    called = [name for name, _ in calls_in(module) if name.startswith("jobs.")]
    assert called[:1] == [f"jobs.{JOBS_OF[command]}"]
    assert all(name.startswith("jobs.write_") for name in called[1:])  # pages of what the job has returned
    assert jobs < imports_of("kdcache.jobs")  # the rule knows where the jobs are


#: The rooms of the house, from the ground up. A room imports from rows below its own, never from its own row or above.
ROWS = (
    {"errors", "version"},
    {"io"},
    {"random", "runtime"},
    {"objectives", "targets"},
    {"data"},
    {"render"},
    {"cache"},
    {"views", "models"},
    {"loader"},
    {"evaluation"},
    {"training", "dumping", "inspection", "doctor"},
    {"exporting", "report", "sharing"},
    {"demo", "jobs"},
)
ROW_OF = {room: number for number, row in enumerate(ROWS) for room in row}


def room_of(module: str) -> str:
    return module.split(".")[1]


def test_every_room_has_its_place_in_the_house() -> None:
    assert {room_of(module) for module in LIBRARY if module != "kdcache"} == ROW_OF.keys()


def test_arrows_of_import_point_down() -> None:
    """So there is no circle between rooms, and stage 1 and stage 2 know nothing of each other."""
    up = [
        f"{module} imports {name}"
        for module in LIBRARY
        for name in imports_of(module)
        if module != "kdcache" and within(name, "kdcache") and name != "kdcache" and name in MODULES
        if room_of(name) != room_of(module) and ROW_OF[room_of(name)] >= ROW_OF[room_of(module)]
    ]
    assert not up
    fronts = [module for module in LIBRARY if module != "kdcache" and "kdcache" in imports_of(module)]
    assert not fronts, "the package's front imports the rooms, and not the reverse"


def test_no_room_is_over_a_sixth_of_the_library() -> None:
    lines = {module: len(MODULES[module].read_text(encoding="utf-8").splitlines()) for module in LIBRARY}
    for room in ROW_OF:
        size = sum(lines[module] for module in LIBRARY if module != "kdcache" and room_of(module) == room)
        assert size <= sum(lines.values()) / 6, room


#: What runs before anything heavy is imported, or in a process that imports nothing else.
LIGHT = ("account", "cores", "open_files", "signals")


@pytest.mark.parametrize("name", LIGHT)
def test_what_knows_the_process_alone_knows_nothing_of_kdcache(name: str) -> None:
    """These modules import errors and the standard library: so whatever runs may import them, and quickly."""
    module = f"kdcache.runtime.{name}"
    for needed in imports_of(module):
        own = room_of(needed) in ("runtime", "errors") if within(needed, "kdcache") else False
        assert own or needed.split(".")[0] in sys.stdlib_module_names, f"{module} imports {needed}"


@pytest.mark.parametrize("module", MODULES)
def test_modules_stay_small(module: str) -> None:
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def _lines_of_body(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function beside its declaration: signature and docstring do not count."""
    statements = function.body[1:] if ast.get_docstring(function) and len(function.body) > 1 else function.body
    assert function.end_lineno is not None
    return function.end_lineno - statements[0].lineno + 1


@pytest.mark.parametrize("module", MODULES)
def test_functions_stay_short(module: str) -> None:
    functions = [node for node in ast.walk(tree_of(module)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [node.name for node in functions if _lines_of_body(node) > MAX_FUNCTION_LINES] == []


def _is_kernel(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether Triton compiles a function: it takes pointers, numbers and constants one by one."""
    return any(ast.unparse(decorator) == "triton.jit" for decorator in function.decorator_list)


@pytest.mark.parametrize("module", LIBRARY)
def test_what_travels_together_is_one_argument(module: str) -> None:
    functions = [node for node in ast.walk(tree_of(module)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    arguments = {
        node.name: [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        for node in functions
        if node.name not in OF_OPTIONS and not _is_kernel(node)
    }
    assert [name for name, own in arguments.items() if len(own) - ("self" in own) > MAX_ARGUMENTS] == []


@pytest.mark.parametrize("module", MODULES)
def test_nothing_read_from_a_file_can_run_code(module: str) -> None:
    assert not {name for name in imports_of(module) if name.split(".")[0] in ARBITRARY_CODE}
    for name, call in calls_in(module):
        where = f"{MODULES[module].relative_to(ROOT)}:{call.lineno}"
        assert name not in {"eval", "exec", "__import__", "yaml.load", "yaml.unsafe_load"}, where
        if name == "torch.load":
            assert keyword(call, "weights_only") is True, f"{where}: torch.load without weights_only=True"
        assert not keyword(call, "allow_pickle"), where


@pytest.mark.parametrize("module", MODULES)
def test_json_of_others_is_read_within_limits(module: str) -> None:
    """Only `kdcache.io.json_format` calls Python's reader, which knows no limits of depth, size and numbers."""
    readers = {
        "json.load",
        "json.loads",
        "json.JSONDecoder",
        "json.decoder.JSONDecoder",
        "literal_eval",
        "ast.literal_eval",
    }
    found = {name for name, _ in calls_in(module)} & readers
    assert not found or module == "kdcache.io.json_format", found
    from_json = [
        node for node in ast.walk(tree_of(module)) if isinstance(node, ast.ImportFrom) and node.module == "json"
    ]
    assert not from_json, "write json.NAME, so that this test sees it"


#: Where these words mean other things: doctor tells that a GPU's memory is full, and knows no targets.
NOT_OF_TARGETS = ("kdcache.doctor",)


def compared_strings(module: str) -> Iterator[tuple[int, str]]:
    """Line and value of each string that a value is compared with: by an operator, a case, or a look-up in a table."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Compare):
            places: list[ast.AST | None] = [node]
        elif isinstance(node, ast.MatchValue | ast.MatchMapping):
            places = [node]
        elif isinstance(node, ast.Dict):
            places = [*node.keys]
        else:
            continue
        for inner in (inner for place in places if place is not None for inner in ast.walk(place)):
            if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                yield inner.lineno, inner.value


def test_nobody_compares_names_of_target_kinds() -> None:
    """A codec says what its targets can give (`capabilities`) and which options it takes: names say nothing."""
    found = [
        f"{MODULES[module].relative_to(ROOT)}:{line} compares with {text!r}"
        for module in MODULES
        if not any(within(module, room) for room in ("kdcache.targets", *NOT_OF_TARGETS))
        for line, text in compared_strings(module)
        if text in KINDS
    ]
    assert not found
    assert {text for _, text in compared_strings("kdcache.targets.kinds")} >= KINDS.keys()  # the rule sees them

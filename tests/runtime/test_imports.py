"""--import: what is run, what is refused, and that an unknown model is told with the imports of what needs it."""

import sys

import pytest

from kdcache.errors import ModelError, UnknownModelError, UsageError
from kdcache.runtime.imports import import_modules, naming_imports


def test_files_and_modules_are_run_once_in_their_order(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("kdcache.seen", [], raising=False)
    for name in ("first_of_ours", "second"):
        (tmp_path / f"{name}.py").write_text(f"import sys\nsys.modules['kdcache'].seen.append('{name}')\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "second.py").write_text("import sys\nsys.modules['kdcache'].seen.append(__name__)\n")
    names = [str(tmp_path / "second.py"), "first_of_ours", str(tmp_path / "other" / "second.py")]
    import_modules([*names, *names])
    seen = sys.modules["kdcache"].seen
    assert seen[:2] == ["second", "first_of_ours"]
    assert len(seen) == 3
    assert seen[2] in sys.modules  # timm looks for the module of a model there


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\nraise ValueError('no such thing')", r"fails \(ValueError: no such thing, line 2 of .*mine.py\)"),
        ("import not_installed_at_all", r"fails \(ModuleNotFoundError: No module named 'not_installed_at_all', line 1"),
        ("raise SystemExit(3)", r"fails \(SystemExit: 3, line 1 of"),
        ("def broken(:", r"fails \(SyntaxError: "),
    ],
)
def test_code_that_fails_is_told_by_line_and_can_be_mended(tmp_path, code, message):
    file = tmp_path / "mine.py"
    file.write_text(code)
    before = set(sys.modules)
    with pytest.raises(UsageError, match=message):
        import_modules([str(file)])
    assert not {name for name in set(sys.modules) - before if name.startswith("mine_")}
    file.write_text("x = 1  # mended")
    import_modules([str(file)])


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="There is no module 'not_installed_at_all' for --import: install it"):
        import_modules(["not_installed_at_all"])
    with pytest.raises(UsageError, match=r"There is no Python file .*none.py for --import"):
        import_modules([str(tmp_path / "none.py")])
    with pytest.raises(UsageError, match=r"There is no Python file .* for --import"):
        import_modules([str(tmp_path)])


def fail(error, made_with):
    with naming_imports(lambda: made_with):
        raise error


def test_an_unknown_model_is_told_with_the_imports_of_what_needs_it():
    unknown = UnknownModelError("There is no model called 'mine'.")
    with pytest.raises(
        UnknownModelError, match=r"The run b was made with --import x --import y.py, .* give them again"
    ):
        fail(unknown, {"The run a": (), "The run b": ("x", "y.py")})
    for error, made_with in ((unknown, {"The run a": ()}), (ModelError("another"), {"The run a": ("x",)})):
        with pytest.raises(ModelError) as caught:
            fail(error, made_with)
        assert caught.value is error

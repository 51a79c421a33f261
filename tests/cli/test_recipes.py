"""`kdcache recipes`: list, show, copy and diff."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from kdcache.errors import ConfigError, RunError
from kdcache.training.recipes import copy_recipe, read_recipe, recipe_differences, recipe_text
from kdcache_cli.main import app


def printed(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["recipes", *map(str, arguments)], env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    return result.stdout


def test_without_a_word_they_are_listed() -> None:
    assert printed() == printed("list")
    assert "a2 (default)" in printed()


def test_one_is_shown_as_its_file_is() -> None:
    assert printed("show", "a2") == recipe_text("a2")
    assert "# Expected:" in printed("show", "a2")


def test_a_copy_is_the_same_recipe_and_never_replaces_a_file(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    assert f"--recipe {file}" in printed("copy", "b", file)
    assert file.read_text() == recipe_text("b")
    assert read_recipe(str(file)) == read_recipe("b")
    with pytest.raises(ConfigError, match=r"own\.yaml is there already, and is left as it is"):
        copy_recipe("a1", file)
    assert read_recipe(str(file)) == read_recipe("b")


def test_a_copy_that_could_not_be_used_or_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.yaml"):
        copy_recipe("a2", tmp_path / "own.txt")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"Cannot write .*own\.yaml: Not a directory"):
        copy_recipe("a2", tmp_path / "file" / "own.yaml")
    with pytest.raises(ConfigError, match="There is no recipe 'a3': use a"):
        copy_recipe("a3", tmp_path / "own.yaml")
    assert {path.name for path in tmp_path.iterdir()} == {"file"}


def test_two_recipes_differ_in_the_settings_that_are_printed(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    copy_recipe("a2", file)
    assert recipe_differences("a2", str(file)) == ()
    assert "have the same settings" in printed("diff", "a2", file)
    file.write_text(file.read_text().replace("  size: 224", "  size: 160\n  kwargs: {block_drop_rate: 0.5}"))
    size = read_recipe("a2")["student"]["size"]
    assert recipe_differences("a2", str(file)) == (
        ("student.kwargs.block_drop_rate", None, 0.5),
        ("student.size", size, 160),
    )
    rows = [line.split() for line in printed("diff", "a2", file).splitlines()[1:]]
    assert ["student.size", str(size), "160"] in rows
    assert ["student.kwargs.block_drop_rate", "-", "0.5"] in rows

"""docs/training.md has every setting as it is declared."""

from support.settings_page import PAGE, page_with_tables, tables


def test_the_page_has_the_settings_as_they_are_declared():
    page = PAGE.read_text(encoding="utf-8")
    assert page == page_with_tables(page), "run PYTHONPATH=. python tests/support/settings_page.py"


def test_a_row_says_name_default_values_and_purpose():
    rows = tables()
    assert "| `student.drop_path` | 0 | a number at least 0, below 1 | Rate of stochastic depth. |" in rows["student"]
    assert "| `clip_mode` | norm | norm or value or agc |" in rows["run"]
    assert "| `schedule.epochs` | the recipe's | a number at least 1, at most 1,000,000 |" in rows["schedule"]
    assert "objective" not in rows["run"].split("|")

"""The tables of docs/training.md, from the declarations of the settings.

`PYTHONPATH=. python tests/support/settings_page.py` writes them into the page.
"""

import dataclasses
import re
from pathlib import Path
from typing import Annotated, get_args, get_origin, get_type_hints

from kdcache.io.checked import declared
from kdcache.training.sections import OptimizerConfig, RunSettings, ScheduleConfig, StudentConfig, ViewsConfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training.md"
SECTIONS = {
    "student": StudentConfig,
    "views": ViewsConfig,
    "optimizer": OptimizerConfig,
    "schedule": ScheduleConfig,
    "": RunSettings,
}
_TABLE = r"(<!-- {name} -->\n).*?(<!-- end -->)"


def tables() -> dict[str, str]:
    """The table of each section by its name, "run" for the settings that are in none."""
    return {section or "run": _table(section, cls) for section, cls in SECTIONS.items()}


def page_with_tables(page: str) -> str:
    """A page whose tables are those of the declarations."""
    for name, table in tables().items():
        page, count = re.subn(
            _TABLE.format(name=name), lambda found, text=table: found[1] + text + found[2], page, flags=re.DOTALL
        )
        assert count == 1, name
    return page


def _table(section: str, cls: type) -> str:
    hints = get_type_hints(cls, include_extras=True)
    rows = ["| setting | default | values | what it does |", "|---|---|---|---|"]
    for field in dataclasses.fields(cls):
        if field.name not in SECTIONS and get_origin(hints[field.name]) is Annotated:
            setting, kind = declared(cls, field.name), get_args(hints[field.name])[0]
            limits = setting.range_clause(kind)
            given = limits if any(word in limits for word in (" above ", " least ", " below ", " most ")) else None
            values = (given or setting.type_clause(kind)).removeprefix("give ")
            name = f"{section}.{field.name}" if section else field.name
            rows.append(f"| `{name}` | {_default(field)} | {values} | {setting.help} |")
    return "\n".join(rows) + "\n"


def _default(field: dataclasses.Field) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return "none"
    if field.default is dataclasses.MISSING:
        return "the recipe's"
    known = {None: "null", True: "true", False: "false"}
    plain = field.default is None or isinstance(field.default, bool)
    return (
        known[field.default]
        if plain
        else f"{field.default:g}"
        if isinstance(field.default, float)
        else str(field.default)
    )


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

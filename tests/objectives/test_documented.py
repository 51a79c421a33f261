"""docs/objectives.md against the objectives themselves: every name, setting, need and kind of targets."""

import dataclasses

import pytest

from kdcache.errors import UsageError
from kdcache.objectives.base import require
from kdcache.objectives.registry import OBJECTIVES
from kdcache.targets import kinds
from support.capabilities import CAPABILITIES

KINDS = (*kinds.KINDS, "live")


@pytest.fixture(scope="module")
def table(project_root):
    """Name -> the row's cells by the column's name."""
    lines = [line for line in (project_root / "docs" / "objectives.md").read_text().splitlines() if line[:1] == "|"]
    header, _, *rows = ([cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines)
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def test_every_objective_is_there_and_no_other(table):
    assert [*table] == [*OBJECTIVES]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_settings_are_the_objectives_own(name, table):
    for setting in table[name]["settings"].split():
        key, _, value = setting.partition("=")
        found = getattr(OBJECTIVES[name], key)
        assert (str(found) if isinstance(found, str) else float(found)) == (
            value if isinstance(found, str) else float(value)
        )


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name.endswith("-cifar")])
def test_what_cifar_changes_is_said(name, table):
    usual, cifar = (dataclasses.asdict(OBJECTIVES[key]) for key in (name.removesuffix("-cifar"), name))
    said = {setting.partition("=")[0] for setting in table[name]["settings"].split()}
    assert {key for key in usual if usual[key] != cifar[key]} <= said


@pytest.mark.parametrize("name", OBJECTIVES)
def test_needs_are_the_objectives_own(name, table):
    needs = OBJECTIVES[name].needs
    without_label_loss = OBJECTIVES[name]
    if needs.teacher:
        without_label_loss = dataclasses.replace(without_label_loss, **without_label_loss.without_labels)
    wanted = {
        "labels": bool(without_label_loss.needs.labels),
        "features": needs.features,
        "teacher's features": needs.teacher_features,
        "feature maps": needs.maps,
        "its past": needs.history,
    }
    assert table[name]["needs"] == ", ".join(need for need, there in wanted.items() if there)


@pytest.mark.parametrize("name", [name for name, objective in OBJECTIVES.items() if objective.needs.teacher])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_kind_serves_is_what_training_accepts(name, kind, table):
    objective, said = OBJECTIVES[name], table[name][kind]
    if said in ("exact", "close"):
        require(objective.needs, targets=CAPABILITIES[kind], unlabelled="", num_classes=10)
        assert (said == "close") == (kind == "topk")
        return
    with pytest.raises(UsageError):
        require(objective.needs, targets=CAPABILITIES[kind], unlabelled="", num_classes=10)
    assert said in ("no", "approximate")
    if said == "no":
        assert not (kind == "topk" and "approximate" in objective.setting_names)
    else:
        accepted = dataclasses.replace(objective, approximate=True)
        require(accepted.needs, targets=CAPABILITIES[kind], unlabelled="", num_classes=10)


def test_what_needs_no_teacher_says_nothing_of_targets(table):
    for name, objective in OBJECTIVES.items():
        assert (not any(table[name][kind] for kind in KINDS)) == (not objective.needs.teacher)

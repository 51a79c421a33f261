"""docs/papers.md is what its script writes from the headers of the recipes, and its rows can be run."""

import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from kdcache.models.names import resolve_name
from kdcache.objectives.registry import OBJECTIVES
from kdcache.training.recipes import recipe_header

#: Rows that were compared with a second source: the paper of the method, its code's readme, or the authors' model zoo.
CHECKED = {
    ("VanillaKD", "resnet56", "resnet20", "kd"): "70.66",
    ("VanillaKD", "resnet56", "resnet20", "dkd"): "71.97",
    ("VanillaKD", "resnet32x4", "resnet8x4", "kd"): "73.33",
    ("VanillaKD", "resnet32x4", "resnet8x4", "dkd"): "76.32",
    ("VanillaKD", "resnet34", "resnet18", "dkd"): "71.70",
    ("VanillaKD", "resnet34", "resnet18", "dist"): "72.07",
    ("VanillaKD", "resnet50_tv", "mobilenetv2", "dkd"): "72.05",
    ("VanillaKD", "resnet50_tv", "mobilenetv2", "dist"): "73.24",
    ("VanillaKD", "beitv2_b", "resnet50", "kd"): "83.08",
    ("VanillaKD", "beitv2_b", "vit_s", "kd"): "84.33",
    ("VanillaKD", "beitv2_b", "vit_t", "kd"): "78.11",
    ("VanillaKD", "beitv2_b", "convnextv2_t", "kd"): "85.03",
    ("PS-KD", "-", "resnet152", "ps-kd"): "78.49",
}


@cache
def papers(docs: Path) -> ModuleType:
    sys.path.insert(0, str(docs))
    try:
        import papers

        return papers
    finally:
        sys.path.remove(str(docs))


@pytest.fixture
def script(project_root: Path) -> ModuleType:
    return papers(project_root / "docs")


def test_the_page_is_what_the_script_writes(script: ModuleType) -> None:
    """To write it anew: python docs/papers.py."""
    assert script.page() == script.PAGE.read_text(encoding="utf-8")


def test_models_and_objectives_of_each_row_are_there(script: ModuleType) -> None:
    plans = script.planned()
    assert len(plans) > 80
    for plan in plans:
        for model in {plan.row.student, plan.row.teacher.partition("@")[0]} - {"-"}:
            assert resolve_name(model)
            assert model in script.GMACS
        assert plan.row.objective in OBJECTIVES
        assert plan.row.paper in script.PAPERS


def test_a_teacher_has_one_dump_on_the_whole_page(script: ModuleType) -> None:
    """Its entry in a cache has one kind of targets: dumps for other objectives would be refused."""
    page = script.page()
    dumps = {line for line in page.splitlines() if line.startswith("kdcache dump-logits")}
    where = [tuple(line.split()[3:9]) for line in dumps]
    assert len(set(where)) == len(where) > 10


def test_the_figures_are_those_of_a_second_source(script: ModuleType) -> None:
    """Also the settings of the previous recipes, by the configurations of DKD's code."""
    for (paper, teacher, student, objective), figure in CHECKED.items():
        found = [
            plan.row.expected
            for plan in script.planned()
            if (plan.row.paper, plan.row.teacher, plan.row.student, plan.row.objective)
            == (paper, teacher, student, objective)
        ]
        assert figure in found, (teacher, student, objective)


def test_estimated_hours_follow_the_formula_of_the_page(script: ModuleType) -> None:
    plan = next(plan for plan in script.planned() if plan.recipe == "a1-1200" and plan.row.teacher == "beitv2_l")
    live, first, further = script.hours(plan)
    images = 1_281_167
    student, teacher = 3 * 2 * 4.089e9 / 50e12, 2 * 61.55e9 / 50e12
    assert further == pytest.approx(1200 * images * student / 3600)
    assert live == pytest.approx(further + 1200 * images * teacher / 3600)
    assert first == pytest.approx(further + 600 * images * teacher / 3600)


def test_a_row_of_several_papers_is_in_the_header_of_its_recipe() -> None:
    assert {row.paper for row in recipe_header("previous-90").rows} == {"VanillaKD", "PS-KD"}

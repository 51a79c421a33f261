"""Recipes: whole configurations with headers that a script reads, and what they have for other objectives."""

import dataclasses
import shlex
from functools import partial

import pytest
import yaml

from kdcache.errors import ConfigError
from kdcache.objectives.dist import DIST
from kdcache.objectives.dkd import DKD
from kdcache.objectives.vanilla import VanillaKD
from kdcache.training.config import (
    load_config,
)
from kdcache.training.configure import describe_label_loss
from kdcache.training.options import TrainOptions
from kdcache.training.recipes import (
    DEFAULT_RECIPE,
    Row,
    list_recipes,
    read_recipe,
    recipe_header,
)
from kdcache.views.policies import load_policy
from support.documented import parse

RECIPES = [recipe.name for recipe in list_recipes()]
#: Fields of the header of a recipe's file beside its rows.
FIELDS = ("Paper", "Differs", "Cost", "Command", "Expected", "Measured")


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_whole_configuration(name):
    config = load_config(name)
    assert config.recipe == name
    policy = load_policy(config.views.policy)
    assert policy.mixes == (config.student.size == 224 and config.views.policy != "crop")
    assert policy.reference_size == config.student.size


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_says_where_it_comes_from_and_what_to_expect(name, project_root):
    text = (project_root / "kdcache" / "recipes" / f"{name}.yaml").read_text()
    assert all(line.startswith("#") for line in text[: text.index("\n\n")].splitlines())
    header = recipe_header(name)
    assert header.title == next(recipe.title for recipe in list_recipes() if recipe.name == name)
    assert {"Paper", "Cost", "Command", "Expected", "Measured"} <= set(header.fields) <= {*FIELDS}
    assert all(header.fields.values())
    assert f"--recipe {name}" in header.fields["Command"]
    for line in header.fields["Command"].splitlines():
        if line.startswith("kdcache "):
            parse(shlex.split(line)[1:])


def test_the_header_of_a_recipe_is_read_field_by_field(tmp_path):
    """Further lines are joined, but for commands, and rows are split."""
    file = tmp_path / "own.yaml"
    head = "# A title.\n#\n# Paper: One,\n#   and more.\n# Command: kdcache a\n#          kdcache b\n# Rows:\n"
    rows = "#   P | Table 1 | big -> small | kd | 80.1\n#   P | Table 2 | - -> small | ps-kd | ? | --supervised\n"
    file.write_text(f"{head}{rows}\nbatch_size: 2\n")
    header = recipe_header(str(file))
    assert (header.title, header.fields) == ("A title.", {"Paper": "One, and more.", "Command": "kdcache a\nkdcache b"})
    assert header.rows == (
        Row("P", "Table 1", "big", "small", "kd", "80.1"),
        Row("P", "Table 2", "-", "small", "ps-kd", "?", "--supervised"),
    )
    file.write_text("# A title.\n# Rows:\n#   P | Table 1 | big | kd | 80.1\n\nbatch_size: 2\n")
    with pytest.raises(ConfigError, match=r"The row 'P \| Table 1 \| big \| kd \| 80\.1' in the header of the recipe"):
        recipe_header(str(file))


def test_what_a_recipe_has_for_another_objective_is_taken_and_can_be_changed(tmp_path):
    """The baselines of VanillaKD's own tables: DKD with beta 2, DIST with weight 1, both with the binary loss."""
    for recipe in ("a1", "a2"):
        load = partial(load_config, recipe)
        smoothing = load().objective.smoothing
        assert load(assignments=["objective.name=dkd"]).objective == DKD(
            beta=2.0, label_loss="bce", smoothing=smoothing
        )
        dist = DIST(kd_weight=1.0, label_loss="bce", smoothing=smoothing)
        assert load(assignments=["objective.name=dist"]).objective == dist
        assert load(assignments=["objective.name=dist", "objective.kd_weight=3"]).objective == (
            dataclasses.replace(dist, kd_weight=3.0)
        )
    assert load_config("b", assignments=["objective.name=dkd"]).objective == DKD(smoothing=0.1)
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({**read_recipe("a2"), "objectives": {"dkd": 3}}))
    with pytest.raises(ConfigError, match="holds no settings by objective"):
        load_config(str(file), assignments=["objective.name=dkd"])


def test_the_baselines_of_a_recipe_are_said():
    def said(*overrides):
        options = TrainOptions(student="resnet50", data="data", recipe="a2", overrides=overrides)
        return describe_label_loss(options, load_config("a2", assignments=overrides))

    assert said("objective.name=dist") == (
        "The label loss is binary cross-entropy of weight 1, as recipe a2 has it for dist. Under "
        "this recipe dist has the settings of the paper's own baseline: kd_weight 1, label_loss bce."
    )
    assert said("objective.name=dkd", "objective.label_loss=ce").endswith("own baseline: beta 2.")
    assert "baseline" not in said()


def test_recipes_are_listed_with_their_titles():
    titles = {recipe.name: recipe.title for recipe in list_recipes()}
    assert DEFAULT_RECIPE in titles
    assert titles["fashion-mnist"].startswith("Fashion-MNIST at 32 pixels")


def test_a2_is_as_the_papers_code_has_it():
    config = load_config("a2")
    assert (config.optimizer.name, config.optimizer.lr, config.optimizer.lr_batch_size) == (
        "lamb",
        5e-3,
        2048,
    )
    assert (config.schedule.epochs, config.schedule.warmup_epochs) == (300, 5)
    assert config.objective == VanillaKD(label_loss="bce", kd_weight=1.0, label_weight=1.0, temperature=1.0)


def test_an_unknown_recipe_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="fashion-mnist"):
        read_recipe("fashion_mnist")


def test_a_recipe_can_be_a_file(tmp_path):
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**read_recipe("a2"), "batch_size": 64}))
    assert load_config(str(tmp_path / "own.yaml")).batch_size == 64

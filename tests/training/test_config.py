import dataclasses
from functools import partial
from math import inf
from typing import get_type_hints

import pytest
import yaml

from kdcache.errors import ConfigError
from kdcache.io.checked import declared
from kdcache.objectives.base import Objective
from kdcache.objectives.bkl import BKL
from kdcache.objectives.dist import DIST
from kdcache.objectives.dkd import DKD
from kdcache.objectives.lskd import LSKD
from kdcache.objectives.ps_kd import PSKD
from kdcache.objectives.registry import OBJECTIVES
from kdcache.objectives.vanilla import VanillaKD
from kdcache.training.config import (
    RunConfig,
    label_loss_origin,
    load_config,
    read_config,
    write_config,
)
from kdcache.training.options import TrainOptions
from kdcache.training.recipes import (
    baseline_settings,
    list_recipes,
    read_recipe,
    recipe_settings,
)
from kdcache.training.sections import OptimizerConfig, ScheduleConfig, StudentConfig, ViewsConfig
from kdcache.training.settings import differences

RECIPES = [recipe.name for recipe in list_recipes()]


def test_later_settings_win(tmp_path):
    file = tmp_path / "more.yaml"
    file.write_text("optimizer: {lr: 0.1, weight_decay: 0.5}\nbatch_size: 64\nseed: 1\n")
    config = load_config(
        "a2",
        file=file,
        options={"batch_size": 32, "student.name": "resnet18"},
        assignments=["seed=3", "seed=4"],
    )
    assert (config.optimizer.name, config.optimizer.lr, config.optimizer.weight_decay) == ("lamb", 0.1, 0.5)
    assert (config.batch_size, config.seed) == (32, 4)
    assert (config.student.name, config.student.size) == ("resnet18", 224)


def test_assigned_values_are_yaml():
    config = load_config(
        "a2",
        assignments=[
            "optimizer.lr=5e-4",
            "optimizer.betas=[0.9, 0.95]",
            "ema_decay=null",
            "objective.bce_sum=true",
            "student.kwargs={act_layer: gelu}",
            "views.policy={crop_scale: [0.5, 1.0]}",
            "objective.kd_weight=0",
        ],
    )
    assert (config.optimizer.lr, config.optimizer.betas, config.ema_decay) == (5e-4, (0.9, 0.95), None)
    assert config.objective == dataclasses.replace(config.objective, bce_sum=True, kd_weight=0.0)
    assert config.student.kwargs == {"act_layer": "gelu"}
    assert config.views.policy == {"crop_scale": [0.5, 1.0]}


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("optimizer.lrr=1", "no setting optimizer.lrr.*optimizer.lr"),
        ("lr=1", "no setting lr.*optimizer.lr"),
        ("optimiser.lr=1", "no setting optimiser.*optimizer.lr"),
        ("optimizer.lr=fast", "optimizer.lr is 'fast': give a number"),
        ("optimizer.lr=true", "optimizer.lr is True: give a number"),
        ("optimizer.lr=0", "optimizer.lr is 0.0: give a number above 0"),
        ("optimizer.lr=.nan", "value of optimizer.lr .*'.nan': it has the number nan, which is not finite"),
        ("optimizer.lr=" + "9" * 400, "value of optimizer.lr .*a whole number of 400 digits"),
        ("optimizer.lr=1e999", "value of optimizer.lr .*1e999"),
        ("optimizer.lr='1e999'", "optimizer.lr is '1e999': give a number"),
        ("optimizer.lr=-1", "optimizer.lr is -1.0: give a number above 0, at most 10,000"),
        ("optimizer.lr=100000", "optimizer.lr is 100000.0: give a number above 0, at most 10,000"),
        ("optimizer.betas=[0.9, 1]", "optimizer.betas is .* numbers at least 0, below 1, or null"),
        ("optimizer.eps=2", "optimizer.eps is 2.0: give a number above 0, at most 1, or null"),
        ("optimizer.weight_decay=-1", "optimizer.weight_decay is -1"),
        ("batch_size=1099511627776", "batch_size is 1099511627776: give an even number at least 2, at most 1,048,576"),
        ("schedule.epochs=18446744073709551615", "schedule.epochs is 18446744073709551615: .* at most 1,000,000"),
        ("student.size=1000000", "student.size is 1000000: .* at most 16,384, or null"),
        ("student.crop_pct=0", "student.crop_pct is 0"),
        ("views.count=0", "views.count is 0"),
        ("views.seed=-1", "views.seed is -1"),
        ("clip_grad=1e12", "clip_grad is 1000000000000.0"),
        ("objective.temperature=1e300", r"objective.temperature is 1e\+300: give a number above 0, at most 65,536"),
        ("objective.kd_weight=-1", "objective.kd_weight is -1"),
        ("student.kwargs=" + "[" * 10_000, "more than 32 mappings and lists"),
        ("student.kwargs={a: &a [1], b: *a}", "alias"),
        ("a" * 100 + "=[", "cannot be read as YAML"),
        ("seed=" + "a" * 5000, "seed is 'aaa.*[.][.][.]: give a whole number"),
        ("optimizer.betas=[0.9]", "list of numbers or null"),
        ("optimizer=sgd", "give a mapping"),
        ("batch_size=12.5", "batch_size is 12.5: give a whole number"),
        ("batch_size=33", "even number"),
        ("batch_size=true", "whole number"),
        ("seed=-1", "seed is -1"),
        ("objective.label_loss=mse", "ce or bce or none"),
        ("objective.name=dkdd", r"no objective 'dkdd'\. Did you mean dkd\?"),
        ("objective.name=[kd]", "There is no objective"),
        ("objective=kd", "objective is 'kd': give a mapping"),
        ("beta=2", "objective.beta"),
        ("objective.temperature=0", "temperature is 0"),
        ("precision=[fp16]", "precision is"),
        ("student.kwargs=3", "a mapping"),
        ("schedule.epochs=0", "schedule.epochs is 0"),
        ("schedule.warmup_epochs=-1", "schedule.warmup_epochs is -1"),
        ("ema_decay=1", "ema_decay is 1"),
        ("student=null", "student is None"),
        ("seed", "NAME=VALUE"),
        ("=3", "NAME=VALUE"),
        ("seed=[", "cannot be read as YAML"),
    ],
)
def test_wrong_settings_are_refused_by_name(assignment, said):
    with pytest.raises(ConfigError, match=said):
        load_config("a2", assignments=[assignment])


def test_all_faults_of_a_configuration_are_named_at_once():
    given = [
        "schedule.epochs=0",
        "optimizer.lrr=1",
        "optimizer.learning_rate=1",
        "seed=x",
        "objective.temperature=0",
        "batch_size=3",
    ]
    with pytest.raises(ConfigError) as caught:
        load_config("a2", assignments=given)
    said = str(caught.value)
    for part in (
        "schedule.epochs is 0: give a number at least 1, at most 1,000,000.",
        "There is no setting optimizer.lrr. The nearest: optimizer.lr",
        "There is no setting optimizer.learning_rate. The nearest: optimizer.lr.",
        "seed is 'x': give a whole number.",
        "objective.temperature is 0.0: give a number above 0, at most 65,536.",
        "batch_size is 3: give an even number at least 2",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: OptimizerConfig("sgd", -1, momentum=True), "lr is -1.0: .*momentum is True: give a number"),
        (lambda: OptimizerConfig("sgd", "0.1"), "lr is '0.1': give a number"),
        (lambda: VanillaKD(temperature=0), "objective.temperature is 0.0"),
        (lambda: VanillaKD(label_loss="mse", bce_sum=1), "objective.label_loss is 'mse': .*bce_sum is 1: give true or"),
        (lambda: dataclasses.replace(load_config("a2"), seed=1.5), "seed is 1.5: give a whole number"),
        (lambda: dataclasses.replace(load_config("a2"), objective=3), "objective is 3: give a mapping"),
    ],
)
def test_settings_that_python_gives_are_checked(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


def test_nothing_is_converted_but_whole_numbers_and_lists():
    config = OptimizerConfig("sgd", 1, betas=[0, 0.5])
    assert (config.lr, config.betas) == (1.0, (0.0, 0.5))
    assert [type(value) for value in (config.lr, *config.betas)] == [float] * 3


@pytest.mark.parametrize(
    "section",
    [
        RunConfig,
        StudentConfig,
        ViewsConfig,
        OptimizerConfig,
        ScheduleConfig,
        *dict.fromkeys(type(each) for each in OBJECTIVES.values()),
    ],
)
def test_every_setting_is_declared_with_its_help(section):
    """What has no declaration would be taken with conversions, such as true for 1.0."""
    sections = {"student", "views", "optimizer", "schedule"}
    own = {item.name for item in dataclasses.fields(section)} - sections
    for name in own - ({"name"} if issubclass(section, Objective) else set()):
        assert declared(section, name).help.endswith("."), name


@pytest.mark.parametrize(
    ("option", "section", "name"),
    [
        ("student", StudentConfig, "name"),
        ("epochs", ScheduleConfig, "epochs"),
        ("seed", RunConfig, "seed"),
        ("batch_size", RunConfig, "batch_size"),
        ("kd_stop_epoch", VanillaKD, "kd_stop_epoch"),
        ("bce_sum", VanillaKD, "bce_sum"),
        ("bce_target_thresh", VanillaKD, "bce_target_thresh"),
    ],
)
def test_an_option_has_help_and_limits_of_its_setting(option, section, name):
    shown = next(part for part in get_type_hints(TrainOptions, include_extras=True)[option].__metadata__)
    setting = declared(section, name)
    assert shown.help == setting.help
    assert (shown.minimum or -inf) == max(setting.least, setting.above) or shown.minimum == setting.least == 0
    assert (inf if shown.maximum is None else shown.maximum) == min(setting.most, setting.below)


def test_another_objective_than_the_recipes_begins_from_its_own_settings():
    cifar = load_config("fashion-mnist", assignments=["objective.name=dkd"]).objective
    assert cifar == DKD(label_loss="ce"), "neither the recipe's temperature nor its weights are meant for it"
    assert load_config("a1", assignments=["objective.name=lskd"]).objective == LSKD(smoothing=0.1)
    assert load_config("a1", assignments=["objective.name=ps-kd"]).objective == PSKD(smoothing=0.1)


@pytest.mark.parametrize("recipe", ["a1", "a2", "b", "c"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_recipes_label_loss_is_for_the_methods_that_recipes_are_written_for(name, recipe):
    """The cross-entropy that a method's weights are measured against is never exchanged for a mean over classes."""
    own, base = OBJECTIVES[name], load_config(recipe).objective
    found = load_config(recipe, assignments=[f"objective.name={name}"]).objective
    assert found.smoothing == base.smoothing
    for setting in ("label_loss", "bce_sum", "bce_target_thresh"):
        said = base if name in ("kd", "bkl") else own
        # A recipe can have settings of its own for an objective that its paper measured, too.
        assert getattr(found, setting, None) == baseline_settings(recipe, name).get(
            setting, getattr(said, setting, None)
        )


def test_settings_of_the_binary_loss_go_with_it(tmp_path):
    binary = {"name": "kd", "label_loss": "bce", "bce_sum": True, "bce_target_thresh": 0.2}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**recipe_settings("a2"), "objective": binary}))
    load = partial(load_config, str(tmp_path / "own.yaml"))
    assert load(assignments=["objective.name=bkl"]).objective == BKL(bce_sum=True, bce_target_thresh=0.2)
    assert load(assignments=["objective.name=dkd"]).objective == DKD()
    assert load(assignments=["objective.name=dkd", "objective.label_loss=bce"]).objective == DKD(label_loss="bce")


@pytest.mark.parametrize(
    ("assignments", "origin"),
    [
        ([], "as recipe a2 has it"),
        (["objective.name=bkl"], "as recipe a2 has it"),
        (["objective.name=kd-cifar"], "as kd-cifar has it, whatever the recipe's"),
        (["objective.name=rkd"], "as rkd has it, whatever the recipe's"),
        (["objective.name=dkd"], "as recipe a2 has it for dkd"),
        (["objective.name=dkd", "objective.label_loss=bce"], "as it is set"),
    ],
)
def test_whence_the_label_loss_is_can_be_told(assignments, origin):
    assert label_loss_origin("a2", assignments=assignments) == origin


def test_the_recipes_own_objective_keeps_the_recipes_settings():
    again = load_config("c", assignments=["objective.name=kd", "objective.temperature=2"]).objective
    assert again == dataclasses.replace(load_config("c").objective, temperature=2.0)


def test_a_name_stands_for_a_papers_settings_and_each_can_be_changed(tmp_path):
    (tmp_path / "own.yaml").write_text("objective: {beta: 2, label_loss: none}\n")
    for order in (["objective.name=dkd-cifar", "objective.alpha=3"], ["objective.alpha=3", "objective.name=dkd-cifar"]):
        config = load_config("a2", file=tmp_path / "own.yaml", assignments=order)
        assert config.objective == dataclasses.replace(OBJECTIVES["dkd-cifar"], beta=2.0, alpha=3.0, label_loss="none")
        assert config.objective.name == "dkd"
    write_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config


def test_a_recipe_may_name_any_objective(tmp_path):
    own = {**read_recipe("c"), "objective": {"name": "dist-cifar", "gamma": 0.5}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    assert load_config(str(tmp_path / "own.yaml")).objective == DIST(temperature=4.0, gamma=0.5)


def test_a_setting_of_another_objective_is_refused():
    with pytest.raises(ConfigError, match=r"no setting objective\.temperature"):
        load_config("a2", assignments=["objective.name=bkl", "objective.temperature=2"])
    with pytest.raises(ConfigError, match=r"objective\.gamma"):
        load_config("a2", assignments=["objective.name=dist", "objective.gama=2"])


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", "", "\x00", "seed: !!python/object/apply:int ['3']"])
def test_files_that_are_no_settings_are_refused(tmp_path, content):
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_config("a2", file=tmp_path / "bad.yaml")
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_config(str(tmp_path / "bad.yaml"))


def test_a_missing_setting_is_named(tmp_path):
    (tmp_path / "short.yaml").write_text("batch_size: 8\n")
    with pytest.raises(ConfigError, match="student is missing"):
        load_config(str(tmp_path / "short.yaml"))


def test_a_run_whose_settings_are_damaged_is_named(tmp_path):
    (tmp_path / "config.yaml").write_text("batch_size: 8\n")
    with pytest.raises(ConfigError, match=rf"In {tmp_path}/config\.yaml: .*student is missing"):
        read_config(tmp_path / "config.yaml")


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_written_reads_back_equal(tmp_path, recipe):
    config = load_config(recipe, assignments=["optimizer.betas=[0.8, 0.99]", "student.kwargs={a: [1, null]}"])
    config = dataclasses.replace(config, views=dataclasses.replace(config.views, policy={"mixup": 0.1}))
    write_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config
    values = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert values["optimizer"]["lr"] == config.optimizer.lr
    assert values["seed"] == 0


@pytest.mark.parametrize(
    ("name", "scaling", "factor"),
    [
        ("sgd", "auto", 0.25),
        ("lamb", "auto", 0.5),
        ("adamw", "auto", 0.5),
        ("adafactor", "auto", 0.5),
        ("adamw", "linear", 0.25),
        ("sgd", "sqrt", 0.5),
        ("sgd", "none", 1.0),
    ],
)
def test_the_learning_rate_follows_the_batch_as_in_timm(name, scaling, factor):
    optimizer = OptimizerConfig(name=name, lr=0.8, lr_batch_size=1024, lr_scaling=scaling)
    assert optimizer.lr_at(256) == pytest.approx(0.8 * factor)
    assert optimizer.lr_at(1024) == 0.8
    assert dataclasses.replace(optimizer, lr_batch_size=None).lr_at(256) == 0.8


def test_resolving_the_learning_rate_does_not_change_the_training():
    config = load_config("a2", assignments=["batch_size=512"])
    resolved = config.with_lr_resolved()
    assert resolved.optimizer.lr == resolved.optimizer.lr_at(512) == config.optimizer.lr_at(512) == 2.5e-3
    assert resolved.with_lr_resolved() == resolved
    assert differences(config, resolved).keys() == {
        "optimizer.lr",
        "optimizer.lr_batch_size",
        "optimizer.lr_scaling",
    }


def test_differences_name_what_differs_and_both_values():
    one = load_config("a2")
    other = load_config("a2", assignments=["student.kwargs={a: 1}", "seed=4"])
    assert differences(one, one) == {}
    assert differences(one, other) == {"student.kwargs.a": (None, 1), "seed": (0, 4)}


def test_a_configuration_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_config("a2").seed = 3  # type: ignore[misc]
    assert isinstance(load_config("a2"), RunConfig)


def test_rules_between_settings_are_told_with_all_other_faults():
    settings = ["objective.kd_weight=0", "objective.label_weight=0", "schedule.name=step", "seed=x", "clip_mode=agc"]
    with pytest.raises(ConfigError) as refused:
        load_config("a2", assignments=settings)
    sentences = ("no part left", "The schedule step needs", "seed is 'x'", "clip_mode is agc")
    assert all(sentence in str(refused.value) for sentence in sentences)


def test_each_further_argument_that_is_none_is_named():
    with pytest.raises(ConfigError, match=r"has lr, which is a setting of its own.* has opt, which is no argument"):
        load_config("a2", assignments=["optimizer.kwargs={lr: 1, opt: sgd}"])

"""What a training says before its first step, and where it goes without --out."""

import dataclasses
from pathlib import Path

import pytest

from kdcache.objectives.registry import OBJECTIVES
from kdcache.training.config import load_config
from kdcache.training.naming import default_folder
from kdcache.training.options import TrainOptions
from kdcache.training.summary import describe_objective
from kdcache.training.train import train
from support.capabilities import CAPABILITIES
from support.small_job import Heard, train_request

WORDS = {
    ("kd", "topk"): "Objective kd: kd_weight 1, temperature 1; close from topk targets.",
    ("dkd", "full"): "Objective dkd: kd_weight 1, temperature 1, alpha 1, beta 0.5; exact from full targets.",
    ("dkd-cifar", "live"): "Objective dkd-cifar: kd_weight 1, temperature 4, alpha 1, beta 8, warmup_epochs 20; exact "
    "from the live teacher.",
    ("lskd", "embedding"): "Objective lskd: kd_weight 9, temperature 2, method kd; exact from embedding targets.",
    ("rkd", "embedding"): "Objective rkd: kd_weight 1, distance_weight 25, angle_weight 50; exact from embedding "
    "targets.",
    ("fitnet", "live"): "Objective fitnet: kd_weight 100, student_layers middle, teacher_layers middle; exact from the "
    "live teacher.",
    ("ps-kd", None): "Objective ps-kd: alpha 0.3; from labels and the student's own past.",
}


@pytest.mark.parametrize(("name", "targets"), WORDS)
def test_the_objective_is_said_with_what_counts(name, targets):
    assert describe_objective(name, OBJECTIVES[name], targets and CAPABILITIES[targets]) == WORDS[name, targets]


def test_what_is_set_beside_is_said_and_what_has_no_effect_is_not():
    beside = dataclasses.replace(
        OBJECTIVES["at"], vanilla_weight=0.5, label_loss="none", smoothing=0.1, student_layers=(1, -1)
    )
    said = describe_objective("at", beside, CAPABILITIES["live"])
    assert "vanilla_weight 0.5, vanilla_temperature 4, student_layers [1, -1], teacher_layers stages" in said
    assert "smoothing" not in said
    assert "kd_stop_epoch 3" in describe_objective(
        "kd", dataclasses.replace(OBJECTIVES["kd"], kd_stop_epoch=3), CAPABILITIES["full"]
    )


@pytest.mark.parametrize(("name", "word"), [("dkd", "approximate"), ("kd-cifar", "approximate"), ("kd", "close")])
def test_a_tail_spread_evenly_is_said_to_be_approximate_where_it_counts(name, word):
    accepted = dataclasses.replace(OBJECTIVES[name], approximate=True)
    assert f"; {word} from topk targets" in describe_objective(name, accepted, CAPABILITIES["topk"])


@pytest.mark.parametrize(("name", "far"), [("dist", "columns"), ("lskd", "mean and the spread")])
def test_what_an_even_tail_puts_far_off_is_said(name, far):
    accepted = dataclasses.replace(OBJECTIVES[name], approximate=True)
    assert f"spread evenly: {'the ' if name == 'lskd' else ''}{far}" in describe_objective(
        name, accepted, CAPABILITIES["topk"]
    )
    assert far not in describe_objective(name, accepted, CAPABILITIES["full"])


def test_rows_alone_are_not_said_to_be_far_off():
    rows = dataclasses.replace(OBJECTIVES["dist"], approximate=True, gamma=0.0)
    assert describe_objective("dist", rows, CAPABILITIES["topk"]).endswith(
        "approximate from topk targets, whose tail is spread evenly."
    )


def test_labels_alone_are_said_to_be_alone():
    alone = OBJECTIVES["dkd"].without_teacher()
    assert describe_objective("dkd", alone, None) == "Objective: labels alone, without a teacher."


def test_a_training_says_its_objective(job, tmp_path):
    heard = Heard()
    overrides = ("objective.name=dkd-cifar", "objective.warmup_epochs=1")
    train(train_request(job.data, tmp_path / "run", cache=str(job.cache), epochs=1, overrides=overrides), heard)
    assert "Objective dkd-cifar: kd_weight 1, temperature 4, alpha 1, beta 8; exact from full targets." in heard.said
    heard = Heard()
    views = ("views.policy=fashion-mnist",)
    train(train_request(job.data, tmp_path / "alone", supervised=True, epochs=1, overrides=views), heard)
    assert "Objective: labels alone, without a teacher." in heard.said
    assert "learns from labels alone on views" in heard.said[0]


def test_a_learner_from_its_past_and_a_warm_up_without_end_are_said(job, tmp_path):
    heard = Heard()
    overrides = ("views.policy=fashion-mnist", "objective.name=ps-kd", "schedule.warmup_epochs=1")
    train(train_request(job.data, tmp_path / "run", supervised=True, epochs=1, overrides=overrides), heard)
    assert "learns from labels and its own past on views" in heard.said[0]
    assert "Objective ps-kd: alpha 0.3; from labels and the student's own past." in heard.said
    assert any("The learning rate grows for the whole training, as fashion-mnist" in line for line in heard.said)


FOLDERS = {
    "resnet18-a2-big-seed0": {},
    "resnet18-a2-big-dkd-cifar-seed0": {"overrides": ("objective.name=dkd-cifar",)},
    "resnet18-a2-big-bkl-seed0": {"overrides": ("objective.name=bkl", "objective.kd_weight=2")},
    "resnet18-a2-small-seed0": {"teacher": "small", "overrides": ("objective.name=kd",)},
    "resnet18-a2-big=0.7+small=0.3-seed0": {"teachers": "big=0.7, small=0.3"},
    "resnet18-a2-live-resnet50-at-seed0": {"online_teacher": "resnet50", "overrides": ("objective.name=at",)},
    "resnet18-a2-alone-seed0": {"supervised": True},
    "resnet18-a2-alone-ps-kd-seed0": {"supervised": True, "overrides": ("objective.name=ps-kd",)},
}


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_run_without_a_folder_has_one_of_its_own(folder):
    request = TrainOptions(student="resnet18", data="data", cache="cache", **FOLDERS[folder])
    config = load_config("a2", options={"student.name": "resnet18"}, assignments=request.overrides)
    if request.supervised:
        config = dataclasses.replace(config, objective=config.objective.without_teacher())
    assert default_folder(request, config, ["big", "small"]) == Path("runs") / folder


def test_objectives_that_only_a_recipe_names_are_left_out_where_labels_are_alone(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("objective: {name: dkd}\noptimizer: {name: sgd, lr: 0.1}\nschedule: {epochs: 2}\nbatch_size: 8\n")
    request = TrainOptions(student="resnet18", data="data", recipe=str(recipe), supervised=True)
    config = load_config(str(recipe), options={"student.name": "resnet18"})
    alone = dataclasses.replace(config, objective=config.objective.without_teacher())
    assert default_folder(request, alone, []).name == "resnet18-mine-alone-seed0"
    assert default_folder(dataclasses.replace(request, supervised=False), config, ["big"]).name == (
        "resnet18-mine-big-dkd-seed0"
    )

"""A step of training with every objective: what it gives the objective, what it moves, what it saves."""

import copy
import dataclasses

import pytest
import torch
from torch.nn import functional as F

from kdcache.errors import ConfigError, UsageError
from kdcache.loader.batches import Batch
from kdcache.models.students import create_student
from kdcache.objectives.base import LossSpec
from kdcache.objectives.registry import OBJECTIVES
from kdcache.runtime.distributed import Distributed
from kdcache.runtime.ranks import Ranks
from kdcache.training.checkpoint import Checkpoint
from kdcache.training.config import load_config
from kdcache.training.objective_module import ObjectiveModule
from kdcache.training.prediction_history import PredictionHistory
from kdcache.training.train_state import TrainState
from support.batches import FixedTargets

MODEL, CLASSES, ROWS, SIZE = "test_resnet", 4, 8, 32
STEPS_PER_EPOCH, TEACHER_FEATURES = 4, 6
CPU = Distributed(Ranks(), torch.device("cpu"))


def trainer_for(name, folder, *settings, seed=0, precision="fp32"):
    config = load_config(
        "fashion-mnist",
        assignments=[
            f"objective.name={name}",
            "optimizer.lr=0.002",
            "schedule.warmup_epochs=0",
            f"seed={seed}",
            f"precision={precision}",
            *settings,
        ],
    )
    student = create_student(MODEL, num_classes=CLASSES, size=SIZE, seed=seed)
    history = PredictionHistory(
        folder / "past", samples=ROWS, num_classes=CLASSES, epochs_per_round=1, is_main=True, warn=pytest.fail
    )
    return TrainState(
        student.module,
        config,
        steps_per_epoch=STEPS_PER_EPOCH,
        spec=LossSpec(
            CLASSES,
            None,
            ROWS,
            labels=torch.arange(ROWS) % CLASSES,
            teacher_features=TEACHER_FEATURES,
            teacher_maps=teacher_maps(config.objective),
        ),
        processes=CPU,
        history=history if config.objective.needs.history else None,
    )


def teacher_maps(objective):
    """As large as the student's own, but for their channels."""
    if not objective.needs.maps:
        return ()
    stages = ((6, 8, 8), (8, 4, 4), (10, 2, 2), (12, 1, 1))
    return stages if objective.needs.teacher_layers == "stages" else (stages[1],)


def fixed_batch(name="kd"):
    """One batch, as `TrainState.train_step` wants it: labels are those that the teacher finds likeliest."""
    random = torch.Generator().manual_seed(3)
    teacher = F.log_softmax(torch.randn(ROWS, CLASSES, generator=random) * 3, dim=1)
    own = teacher.argmax(1)
    labels = torch.stack([own, torch.full_like(own, -1)], dim=1)
    pixels = torch.randn(ROWS, 3, SIZE, SIZE, generator=random)
    entered = torch.randn(ROWS, TEACHER_FEATURES, generator=random).relu()
    levels = [torch.randn(ROWS, *shape, generator=random).relu() for shape in teacher_maps(OBJECTIVES[name])]
    return Batch(pixels, labels, torch.ones(ROWS), torch.arange(ROWS), FixedTargets(teacher, entered, tuple(levels)))


# What would make a small test slow or its first epochs different from the others.
QUICK = {"dkd": ["objective.warmup_epochs=1"], "crd": ["objective.negatives=20"]}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_its_loss_falls_on_a_fixed_batch(name, tmp_path):
    quick = [setting for part in name.split("-") for setting in QUICK.get(part, [])]
    trainer = trainer_for(name, tmp_path, *quick, *["objective.warmup_epochs=1"] * (name == "reviewkd-cifar"))
    losses = [trainer.train_step(fixed_batch(name)) for _ in range(15)]
    totals = torch.stack([loss.total for loss in losses])
    assert torch.isfinite(totals).all()
    assert totals[-3:].mean() < 0.8 * totals[0]
    assert tuple(losses[0].parts) == OBJECTIVES[name].parts


def test_labels_weights_and_samples_go_to_the_device_behind_the_host(tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(
        "kdcache.training.objective_module.to_device", lambda tensor, device: (sent.append((tensor, device)), tensor)[1]
    )
    batch = fixed_batch()
    trainer_for("ps-kd", tmp_path).train_step(batch)
    labels, weight, past, samples = (tensor for tensor, _ in sent)
    for taken, given in ((labels, batch.labels), (weight, batch.mix_weight), (samples, batch.samples)):
        assert taken.data_ptr() == given.data_ptr(), "its memory, which may be pinned, and no copy"
        assert taken.shape == given.shape
    assert past.shape == (ROWS, CLASSES)
    assert {device for _, device in sent} == {CPU.device}


@pytest.mark.parametrize("name", ["kd", "ipwd", "rkd", "fitnet"])
def test_a_step_has_the_losses_that_the_module_for_a_loop_of_ones_own_gives(name, tmp_path):
    state, batch = trainer_for(name, tmp_path), fixed_batch(name)
    module = ObjectiveModule(state._objective, copy.deepcopy(state._aux_module))
    student = module.wrap_student(copy.deepcopy(state.module))
    images = batch.images.contiguous(memory_format=torch.channels_last)
    found = module(student(images), batch, epoch=0, epochs=state._epochs)
    losses = state.train_step(batch)
    assert found["loss"].item() == losses.total.item()
    assert found.keys() == {"loss", *losses.parts}


def run(trainer, steps, name="kd"):
    return [trainer.train_step(fixed_batch(name)).total.item() for _ in range(steps)]


def saved(trainer):
    state = trainer.state()
    weights = {name: value.clone() for name, value in trainer.module.state_dict().items()}
    return Checkpoint(trainer.step, weights, None, state)


@pytest.mark.parametrize("name", ["ipwd", "ps-kd", "dkd-cifar", "cc", "crd", "fitnet", "reviewkd-cifar"])
@pytest.mark.parametrize("at", [4, 6])
def test_it_goes_on_from_its_state_as_if_it_had_never_stopped(name, at, tmp_path):
    whole = run(trainer_for(name, tmp_path / "whole", *QUICK.get(name, [])), 12, name)
    stopped = trainer_for(name, tmp_path / "run", *QUICK.get(name, []))
    assert run(stopped, at, name) == whole[:at]
    checkpoint = dataclasses.replace(saved(stopped))
    resumed = trainer_for(name, tmp_path / "run", *QUICK.get(name, []), seed=9)
    resumed.load(checkpoint)
    assert run(resumed, 12 - at, name) == whole[at:]


def test_the_head_of_ipwd_learns_and_is_no_part_of_the_student(tmp_path):
    trainer = trainer_for("ipwd", tmp_path)
    before = {name: value.clone() for name, value in trainer.state()["aux_module"].items()}
    heads = [trainer.train_step(fixed_batch()).parts["head"].item() for _ in range(10)]
    after = trainer.state()["aux_module"]
    assert heads[-1] < heads[0]
    assert {name: value.shape for name, value in after.items()}["weight"][0] == CLASSES
    assert not any(torch.equal(after[name], before[name]) for name in before)
    plain = trainer_for("kd", tmp_path).module.state_dict()
    assert trainer.module.state_dict().keys() == plain.keys()
    assert trainer.averaged_module().state_dict().keys() == plain.keys()


@pytest.mark.parametrize("name", ["cc", "crd", "fitnet", "reviewkd"])
def test_what_is_learnt_beside_the_student_moves_and_is_no_part_of_it(name, tmp_path):
    trainer = trainer_for(name, tmp_path, *QUICK.get(name, []))
    before = {key: value.clone() for key, value in trainer.state()["aux_module"].items()}
    run(trainer, 2, name)
    after = trainer.state()["aux_module"]
    fixed = {key for key in before if torch.equal(after[key], before[key])}
    assert fixed <= {"negatives.seed"}
    plain = trainer_for("kd", tmp_path).module.state_dict()
    assert trainer.module.state_dict().keys() == plain.keys()
    assert trainer.averaged_module().state_dict().keys() == plain.keys()


@pytest.mark.parametrize("name", ["crd", "fitnet", "reviewkd"])
def test_measuring_and_making_a_companion_leave_the_student_and_its_draws_alone(name, tmp_path):
    usual = trainer_for("kd", tmp_path)
    expected = torch.rand(3)
    trainer = trainer_for(name, tmp_path)
    assert torch.equal(torch.rand(3), expected)
    for ours, theirs in zip(trainer.module.state_dict().values(), usual.module.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert all(module.training for module in trainer.module.modules())


@pytest.mark.parametrize("name", ["kd", "cc", "reviewkd"])
def test_the_limit_of_the_gradient_is_that_of_all_that_learns(name, tmp_path):
    """Of the student and of what is learnt beside it, together."""
    limit = 1e-3
    trainer = trainer_for(name, tmp_path, f"clip_grad={limit}")
    trainer.train_step(fixed_batch(name))
    beside = trainer._aux_module.parameters() if trainer._aux_module is not None else ()
    parts = [
        torch.stack([parameter.grad.norm() for parameter in part if parameter.grad is not None]).norm()
        for part in (trainer.module.parameters(), beside)
        if part
    ]
    assert torch.stack(parts).norm().item() == pytest.approx(limit, rel=1e-3)
    assert all(part > 0 for part in parts)


def test_maps_that_have_no_counterpart_are_refused(tmp_path):
    for name in ("at", "fitnet", "reviewkd"):
        with pytest.raises(UsageError, match=r"2 layers .* the teacher \d.*objective\.student_layers"):
            trainer_for(name, tmp_path, "objective.student_layers=[0, 1]")


def test_layers_that_the_student_does_not_have_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="it has 5, 0 to 4"):
        trainer_for("at", tmp_path, "objective.student_layers=[7]")


def test_half_precision_teaches_through_maps_and_what_is_learnt_on_them(tmp_path):
    for name in ("at", "fitnet", "reviewkd"):
        trainer = trainer_for(name, tmp_path, precision="bf16")
        losses = run(trainer, 4, name)
        assert torch.isfinite(torch.tensor(losses)).all()
        assert losses[-1] < losses[0]


def test_the_head_of_ipwd_begins_the_same_and_moves_no_random_state(tmp_path):
    one, other = trainer_for("ipwd", tmp_path), trainer_for("ipwd", tmp_path)
    for name, value in one.state()["aux_module"].items():
        assert torch.equal(value, other.state()["aux_module"][name])
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trainer_for("kd", tmp_path)
    without = torch.rand(3)
    trainer_for("ipwd", tmp_path)
    assert torch.equal(torch.rand(3), without), "its dropout is that of any other objective"
    assert not torch.equal(expected, without), "a trainer seeds its own draws"


def test_self_distillation_trusts_what_was_said_an_epoch_before(tmp_path):
    trainer = trainer_for("ps-kd", tmp_path, "objective.alpha=1", "schedule.epochs=2")
    assert run(trainer, 1)[0] == pytest.approx(
        run(trainer_for("kd", tmp_path / "b", "objective.kd_weight=0", "objective.label_weight=1"), 1)[0]
    )
    run(trainer, 2)
    said = []
    with torch.no_grad():
        trainer.module.train()
    original = trainer._history.write
    trainer._history.write = lambda *args: (said.append(args[2].detach()), original(*args))
    run(trainer, 1)
    recalled = trainer._history.read(1, torch.arange(ROWS), torch.ones(ROWS))
    torch.testing.assert_close(recalled, said[0].softmax(1), rtol=1e-3, atol=1e-5)
    loss = trainer.train_step(fixed_batch()).total
    torch.testing.assert_close(loss, -(recalled * said[1].log_softmax(1)).sum(1).mean())

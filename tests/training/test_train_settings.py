"""Settings of a step: parts of a batch, optimisers, limits of gradients, averages, compiled and checkpointed layers."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from kdcache.errors import ConfigError
from kdcache.loader.batches import Batch
from kdcache.models.students import StudentOptions, create_student
from kdcache.objectives.base import LossSpec
from kdcache.objectives.registry import OBJECTIVES
from kdcache.runtime.device import gpu_arithmetic
from kdcache.runtime.distributed import Distributed
from kdcache.runtime.ranks import Ranks
from kdcache.training.config import load_config
from kdcache.training.optimizer import create_optimizer
from kdcache.training.prediction_history import PredictionHistory
from kdcache.training.train_state import TrainState
from kdcache.training.views import require_whole_parts
from support.batches import FixedTargets, labels_of
from support.ranks import on_ranks

CLASSES, ROWS, SIZE, FEATURES = 4, 8, 32, 6
CPU = Distributed(Ranks(), torch.device("cpu"))


def config_of(*settings):
    return load_config(
        "fashion-mnist", assignments=["precision=fp32", "schedule.warmup_epochs=0", "optimizer.lr=0.002", *settings]
    )


def state_for(*settings, name="kd", model="test_vit", history=None):
    config = config_of(f"objective.name={name}", *settings)
    student = create_student(
        model, num_classes=CLASSES, size=SIZE, seed=0, options=StudentOptions(drop_path=config.student.drop_path)
    )
    spec = LossSpec(CLASSES, None, ROWS, labels=torch.arange(ROWS) % CLASSES, teacher_features=FEATURES)
    needs_history = config.objective.needs.history
    return TrainState(
        student.module,
        config,
        steps_per_epoch=1,
        spec=spec,
        processes=CPU,
        history=PredictionHistory(
            history, samples=ROWS, num_classes=CLASSES, epochs_per_round=1, is_main=True, warn=pytest.fail
        )
        if needs_history
        else None,
    )


def mixed_batch():
    """A batch of mixed pairs, of which no two rows are alike."""
    random = torch.Generator().manual_seed(3)
    teacher = (torch.randn(ROWS, CLASSES, generator=random) * 3).log_softmax(1)
    labels, weight = labels_of(5, ROWS, CLASSES)
    entered = torch.randn(ROWS, FEATURES, generator=random).relu()
    pixels = torch.randn(ROWS, 3, SIZE, SIZE, generator=random)
    return Batch(pixels, labels, weight.float(), torch.arange(ROWS), FixedTargets(teacher, entered))


def gradients(state):
    return {name: parameter.grad for name, parameter in state.module.named_parameters()}


MEANS = [name for name, objective in OBJECTIVES.items() if not objective.needs.whole_batch and not objective.needs.maps]
RELATING = {"dist", "rkd", "cc", "sp", "pkt", "crd"}


@pytest.mark.parametrize("name", MEANS)
def test_parts_of_a_batch_give_the_losses_and_gradients_of_the_whole(name, tmp_path):
    whole, parts = (
        state_for(*settings, "optimizer.name=momentum", name=name, history=tmp_path / str(len(settings)))
        for settings in ((), ("accumulation=4",))
    )
    for _ in range(2):  # in the second epoch self-distillation has a past
        one, other = whole.train_step(mixed_batch()), parts.train_step(mixed_batch())
        torch.testing.assert_close(other.total, one.total.detach(), rtol=1e-4, atol=1e-6)
        assert {*other.parts} == {*one.parts}
        for part in one.parts:
            torch.testing.assert_close(other.parts[part], one.parts[part].detach(), rtol=1e-4, atol=1e-6)
        for key, gradient in gradients(whole).items():
            torch.testing.assert_close(gradients(parts)[key], gradient, rtol=1e-3, atol=1e-5)
    assert (whole.step, parts.step) == (2, 2)


def test_objectives_that_relate_the_rows_of_a_batch_refuse_its_parts():
    for name in OBJECTIVES:
        config = config_of(f"objective.name={name}", "accumulation=2", "batch_size=8")
        own = config.objective.name
        relates = pytest.raises(ConfigError, match=f"the objective {own} relates the rows of a batch")
        with relates if own in RELATING else nullcontext():
            require_whole_parts(config, CPU)
    require_whole_parts(config_of("objective.name=dist", "objective.kd_weight=0", "accumulation=2"), CPU)


def test_a_batch_is_cut_in_whole_pairs_alone():
    with pytest.raises(
        ConfigError, match=r"batch of 26 cannot be cut into 2 equal parts of whole pairs: .* multiple of 4"
    ):
        require_whole_parts(config_of("accumulation=2", "batch_size=26"), CPU)
    several = Distributed(Ranks(0, 2), torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"of each of 2 processes: .* multiple of 8"):
        require_whole_parts(config_of("accumulation=2", "batch_size=12"), several)


def test_weight_decay_is_of_matrices_or_of_everything():
    student = create_student("test_vit", num_classes=CLASSES, size=SIZE, seed=0).module
    beside = nn.Linear(2, 2)
    positions = {id(student.pos_embed), id(student.cls_token)}  # timm never lets these decay
    for flag, spares in (("true", True), ("false", False)):
        settings = ("optimizer.name=momentum", "optimizer.weight_decay=0.25", f"optimizer.filter_bias_and_bn={flag}")
        groups = create_optimizer(student, beside, config_of(*settings)).param_groups
        assert {group["weight_decay"] for group in groups} == {0.0, 0.25}
        still = {id(parameter) for group in groups if not group["weight_decay"] for parameter in group["params"]}
        assert {id(student.head.bias) in still, id(beside.bias) in still} == {spares}
        assert (still == positions) == (not spares)
        assert not {id(student.head.weight), id(beside.weight)} & still
        assert not groups[0]["nesterov"]


def test_layers_have_rates_of_their_own_and_the_rate_that_is_told_is_the_heads():
    state = state_for("optimizer.layer_decay=0.5", "optimizer.lr=0.25", "optimizer.name=adamw", "batch_size=8")
    rates = {group["lr"] for group in state._optimizer.param_groups}
    peak = state.last_lr
    assert peak == max(rates)
    assert peak / 2 in rates
    assert len(rates) > 4


def test_further_arguments_reach_the_optimiser_and_settings_are_told_their_own_name():
    student = nn.Linear(2, 2)
    optimizer = create_optimizer(
        student, None, config_of("optimizer.name=adamw", "optimizer.kwargs={foreach: true, amsgrad: true}")
    )
    assert all(group["foreach"] and group["amsgrad"] for group in optimizer.param_groups)
    with pytest.raises(ConfigError, match=r"kwargs has lr, which is a setting of its own: give optimizer\.lr"):
        config_of("optimizer.kwargs={lr: 1}")
    for name, kwargs in (("adamw", "{no_such: 1}"), ("fusedadamw", "{}"), ("nosuch", "{}")):
        with pytest.raises(ConfigError, match=f"timm makes no optimiser '{name}' with these settings"):
            create_optimizer(student, None, config_of(f"optimizer.name={name}", f"optimizer.kwargs={kwargs}"))


def test_checkpointed_and_compiled_layers_train_as_the_plain_ones(monkeypatch):
    compiled = []

    def noted(module, *, backend):
        compiled.append(backend)
        return torch_compile(module, backend=backend)

    torch_compile = torch.compile
    monkeypatch.setattr(torch, "compile", noted)

    def run(*settings):
        state = state_for("optimizer.name=momentum", *settings)
        losses = [state.train_step(mixed_batch()).total.item() for _ in range(2)]
        assert state.module.grad_checkpointing == ("grad_checkpointing=true" in settings)
        return losses, {*state.module.state_dict()}

    plain = run()
    assert run("grad_checkpointing=true") == plain
    losses, names = run("compile=eager")
    assert losses == pytest.approx(plain[0], rel=1e-5)
    assert (names, compiled) == (plain[1], ["eager"])


def test_what_a_student_cannot_be_made_into_is_refused():
    with pytest.raises(ConfigError, match="grad_checkpointing is set, and timm has none for"):
        state_for("grad_checkpointing=true", model="selecsls42")
    with pytest.raises(ConfigError, match=r"compile is 'nosuch', which is no backend .* inductor"):
        state_for("compile=nosuch")
    with pytest.raises(ConfigError, match="compile is eager, and test_resnet has batch norm"):
        state_for("compile=eager", "grad_checkpointing=true", model="test_resnet")
    with pytest.raises(ConfigError, match="compile is set, and the objective ipwd reads features"):
        state_for("compile=eager", name="ipwd", model="test_resnet")


@pytest.mark.parametrize("mode", ["value", "agc"])
def test_gradients_are_limited_number_by_number_or_unit_by_unit(mode):
    limit = 1e-3
    free, state = (
        state_for("optimizer.name=momentum"),
        state_for(f"clip_grad={limit}", f"clip_mode={mode}", "optimizer.name=momentum"),
    )
    before = copy.deepcopy(dict(state.module.named_parameters()))
    for each in (free, state):
        each.train_step(mixed_batch())
    found, usual = gradients(state), gradients(free)
    if mode == "value":
        assert max(gradient.abs().max() for gradient in found.values()).item() == pytest.approx(limit)
        return
    assert torch.equal(found["head.weight"], usual["head.weight"]), "the classifier is left out"
    name = "blocks.0.mlp.fc1.weight"
    allowed = before[name].norm(dim=1).clamp_min(1e-3) * limit
    assert (found[name].norm(dim=1) <= allowed * 1.001).all()
    assert (usual[name].norm(dim=1) > allowed).any()


def test_an_average_warms_up():
    state = state_for(
        "ema_decay=0.9", "ema_warmup=true", "ema_warmup_gamma=2", "ema_warmup_power=0.5", "optimizer.name=momentum"
    )
    average, seen = None, []
    for step in range(1, 4):
        state.train_step(mixed_batch())
        weight = state.module.head.weight.detach().clone()
        decay = min(0.9, 1 - (1 + (step - 1) / 2) ** -0.5)
        average = weight if average is None else decay * average + (1 - decay) * weight
        torch.testing.assert_close(state.averaged_module().head.weight, average)
        seen.append(decay)
    assert 0 == seen[0] < seen[1] < seen[2] < 0.9


def test_settings_that_go_for_nothing_are_refused_with_what_to_do():
    for assignment, message in (
        ("clip_mode=agc", "clip_mode is agc and there is no limit: give clip_grad"),
        ("ema_warmup=true", "ema_warmup is set and there is no average: give ema_decay"),
    ):
        with pytest.raises(ConfigError, match=message):
            config_of(assignment)


def test_a_gpu_computes_as_it_did_once_the_training_has_ended():
    def flags():
        cudnn = torch.backends.cudnn
        return torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark

    before = flags()
    with gpu_arithmetic(torch.device("cuda"), True, True):
        assert flags() == (True, True, True)
    assert flags() == before
    with gpu_arithmetic(torch.device("cuda"), None, False):
        assert flags() == (*before[:2], False)
    with gpu_arithmetic(torch.device("cpu"), True, True):
        assert flags() == before


def _averaged(rank, world):
    module = nn.BatchNorm1d(2)
    module.running_mean.fill_(float(rank))
    processes = Distributed(Ranks(rank, world), torch.device("cpu"))
    processes.average_batch_norm(module)
    found = module.running_mean.tolist()
    try:
        processes.sync_batch_norm(module)
    except ConfigError as error:
        return found, str(error)
    return found, ""


def test_several_processes_average_their_batch_norm_and_cannot_sync_it_on_cpus(tmp_path):
    for mean, refusal in on_ranks(_averaged, 2, tmp_path):
        assert mean == [0.5, 0.5]
        assert refusal.startswith("sync_bn is set, and PyTorch has it on GPUs alone")


def test_the_mean_over_processes_is_asked_for_by_its_setting(monkeypatch):
    asked = []
    monkeypatch.setattr(Distributed, "average_batch_norm", lambda _, module: asked.append(module))
    state_for().average_batch_norm()
    assert not asked
    state = state_for("dist_bn=reduce", "ema_decay=0.9")
    state.average_batch_norm()
    assert asked == [state.module, state.averaged_module()]

"""The networks for CIFAR: sizes of the papers, timm's methods, weights, and every objective on them."""

import copy
import dataclasses
from functools import cache, partial

import pytest
import timm
import torch
from timm.models import group_parameters
from torch.nn import functional as F

import kdcache.models.cifar  # noqa: F401  (registers the networks)
from kdcache.errors import ModelError
from kdcache.models.cifar.dense import densenet
from kdcache.models.cifar.mobile import mobilenet_v2, shufflenet_v1, shufflenet_v2
from kdcache.models.cifar.residual import resnet, wide_resnet
from kdcache.models.cifar.vgg import vgg
from kdcache.models.cifar_names import ALIASES, NAMES
from kdcache.models.features import feature_size, watched_features
from kdcache.models.hub import find_pretrained
from kdcache.models.load import load_model
from kdcache.models.maps import WithMaps, choose_layers
from kdcache.models.students import StudentOptions, create_student
from kdcache.models.weights import weight_hash
from kdcache.objectives.base import LossInputs, LossSpec
from kdcache.objectives.registry import OBJECTIVES
from kdcache.training.export import export_model
from kdcache.training.objective_module import ObjectiveModule, create_aux_module
from support.batches import FixedTargets, labels_of

# Millions of parameters with 100 classes, as the tables of the papers on distillation have them.
OF_100 = {
    **{"resnet8": "0.08", "resnet20": "0.28", "resnet32": "0.47", "resnet44": "0.67", "resnet56": "0.86"},
    **{"resnet110": "1.74", "resnet8x4": "1.23", "resnet32x4": "7.43", "wrn_16_1": "0.18", "wrn_16_2": "0.70"},
    **{"wrn_40_1": "0.57", "wrn_40_2": "2.26", "vgg8": "3.97", "vgg13": "9.46", "shufflenetv1": "0.95"},
    **{"shufflenetv2": "1.36", "mobilenetv2_050": "0.81"},
}
# The same with 10 classes, from table 2 of Huang et al. 2017 and table 4 of Zagoruyko and Komodakis 2016.
OF_10 = {
    **{"densenet40_12": "1.0", "densenet100_12": "7.0", "densenet100_24": "27.2", "densenetbc100_12": "0.8"},
    **{"densenetbc250_24": "15.3", "densenetbc190_40": "25.6", "wrn_40_1": "0.6", "wrn_40_2": "2.2"},
    **{"wrn_40_4": "8.9", "wrn_16_8": "11.0", "wrn_28_10": "36.5"},
}
# Of each family one that is small.
FAMILIES = (
    *("cifar_resnet8", "cifar_wrn_16_1", "cifar_densenet40_12", "cifar_vgg8"),
    *("cifar_shufflenetv1", "cifar_shufflenetv2", "cifar_mobilenetv2_050"),
)
EACH = pytest.mark.parametrize("name", FAMILIES)


def drawn(name, classes=7, **settings):
    return create_student(name, num_classes=classes, size=32, seed=0, options=StudentOptions(kwargs=settings)).module


@cache
def parameters_of(name, classes=100):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=classes)
    return sum(parameter.numel() for parameter in model.parameters())


def images(rows=2, size=32, channels=3):
    return torch.randn(rows, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "classes", "millions"),
    [*((name, 100, size) for name, size in OF_100.items()), *((name, 10, size) for name, size in OF_10.items())],
)
def test_it_has_as_many_parameters_as_in_the_papers(name, classes, millions):
    count = parameters_of(f"cifar_{name}", classes) / 1e6
    digits = len(millions.partition(".")[2])
    # Tables cut digits off or round them.
    assert float(millions) - 0.5 * 10**-digits <= count < float(millions) + 10**-digits


def test_the_documented_table_is_the_registry(project_root):
    rows = {}
    for line in (project_root / "docs" / "networks.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 3 and cells[1].startswith("`cifar_"):
            rows[cells[1].strip("`")] = cells[2], cells[3]
    assert set(rows) == set(NAMES)
    for name, (short, parameters) in rows.items():
        assert all(ALIASES[alias.strip("` ")] == name for alias in short.split(",") if alias)
        if name.removeprefix("cifar_") not in OF_10:  # which are built with other heads, and take a second each
            assert parameters_of(name) == int(parameters.replace(",", ""))


@pytest.mark.parametrize("alias", ALIASES)
def test_timm_knows_each_short_name_as_well(alias):
    with torch.device("meta"):
        model = timm.create_model(alias)
    assert model.pretrained_cfg["architecture"] == ALIASES[alias]


@EACH
def test_it_behaves_as_a_model_of_timms(name):
    model = drawn(name).eval()
    assert model.pretrained_cfg["input_size"] == (3, 32, 32)
    assert model.pretrained_cfg["mean"] == (0.5071, 0.4867, 0.4408)
    assert timm.models.get_pretrained_cfg(name).classifier == "fc"
    assert model.get_parameter(f"{model.pretrained_cfg['first_conv']}.weight").shape[1] == 3
    inputs = images()
    logits = model(inputs)
    assert logits.shape == (2, 7)
    maps = model.forward_features(inputs)
    assert torch.equal(model.forward_head(maps), logits)
    pooled = model.forward_head(maps, pre_logits=True)
    assert pooled.shape == (2, model.num_features)
    assert torch.equal(model.get_classifier()(pooled), logits)
    assert feature_size(model) == model.num_features
    model.reset_classifier(3)
    assert model(inputs).shape == (2, 3)
    assert not model.get_classifier().training
    model.reset_classifier(0)
    assert torch.equal(model(inputs), pooled)
    assert model(images(size=64)).shape == (2, model.num_features)


@EACH
def test_its_maps_are_those_that_it_announces(name):
    model = drawn(name).eval()
    watched = WithMaps(model, tuple(range(len(model.feature_info))))
    logits, maps = watched(images())
    assert torch.equal(logits, model(images()))
    announced = [(info["num_chs"], 32 // info["reduction"]) for info in model.feature_info]
    assert [(level.shape[1], level.shape[2]) for level in maps] == announced
    for info, level in zip(model.feature_info, maps, strict=True):
        seen = []
        with model.get_submodule(info["module"]).register_forward_hook(lambda *given, to=seen: to.append(given[2])):
            model(images())
        assert torch.equal(seen[0], level), "nothing behind a stage may change its maps in place"

    features = timm.create_model(name, features_only=True, out_indices=(0, -1)).eval()
    assert features.feature_info.channels() == [announced[0][0], announced[-1][0]]
    shapes = [(level.shape[1], level.shape[2]) for level in features(images())]
    assert shapes == [announced[0], announced[-1]]


@pytest.mark.parametrize(
    ("name", "stages", "middle"),
    [
        *(("cifar_resnet20", (0, 1, 2), 1), ("cifar_densenet40_12", (0, 1, 2), 1)),
        *(("cifar_shufflenetv1", (0, 1, 2), 1), ("cifar_vgg8", (0, 1, 2, 4), 1)),
        ("cifar_mobilenetv2_050", (0, 1, 2, 3), 1),
    ],
)
def test_layers_are_chosen_by_custom(name, stages, middle):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert choose_layers(model, "stages") == stages
    assert choose_layers(model, "middle") == (middle,)


def test_the_first_maps_alone_need_no_more_than_what_makes_them():
    whole = timm.create_model("cifar_resnet8", num_classes=7)
    first = timm.create_model("cifar_resnet8", features_only=True, out_indices=(0,))
    kept = sum(parameter.numel() for part in (whole.stem, whole.layer1) for parameter in part.parameters())
    assert sum(parameter.numel() for parameter in first.parameters()) == kept
    assert first.model.num_features == 16


@EACH
def test_settings_of_timm_reach_it(name):
    grey = timm.create_model(name, num_classes=7, in_chans=1).eval()
    assert grey(images(channels=1)).shape == (2, 7)
    dropping = drawn(name, drop_rate=0.5).train()
    pooled = torch.ones(64, dropping.num_features, 2, 2)
    assert (dropping.forward_head(pooled, pre_logits=True) == 0).float().mean() == pytest.approx(0.5, abs=0.1)
    dropping.eval()
    assert (dropping.forward_head(pooled, pre_logits=True) == 1).all()


def test_dropout_inside_the_blocks_of_a_wide_network_is_a_setting():
    model = drawn("wrn_10_1", block_drop_rate=0.5).train()
    assert not torch.equal(model(images()), model(images()))
    assert model.eval()(images()).shape == (2, 7)


@pytest.mark.parametrize(
    "build",
    [
        *(partial(resnet, 8), partial(wide_resnet, 10, 1), partial(densenet, 10, 4), partial(vgg, 8)),
        *(partial(densenet, 16, 4, bottleneck=True), shufflenet_v1, shufflenet_v2, mobilenet_v2),
    ],
    ids=lambda build: getattr(getattr(build, "func", build), "__name__", None),
)
def test_checkpointing_changes_no_gradient(build):
    plain = build(num_classes=7)
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    for model in (plain, saving):
        F.cross_entropy(model(images()), torch.arange(2)).backward()
    for ours, theirs in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@EACH
def test_parameters_are_ordered_from_the_image_to_the_classifier(name):
    model = drawn(name)
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    assert groups["fc.weight"] == max(groups.values())
    assert all(value < groups["fc.weight"] for key, value in groups.items() if not key.startswith("fc."))
    first = [value for key, value in groups.items() if key.startswith("layer1.")]
    last = [value for key, value in groups.items() if key.startswith(f"layer{len(model.feature_info)}.")]
    assert max(first) < min(last)


def test_weights_depend_on_the_seed_alone_and_suit_relus():
    models = [create_student("resnet20", num_classes=7, size=32, seed=seed).module for seed in (3, 3, 4)]
    hashes = [weight_hash(model.state_dict()) for model in models]
    assert hashes[0] == hashes[1] != hashes[2]
    weight = models[0].layer3[1].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)


@pytest.mark.parametrize("name", ["resnet20", "cifar_wrn_46_3"])
def test_there_are_no_pretrained_weights(name):
    with pytest.raises(ModelError, match=r"no pretrained weights for cifar_\w+: give weights with --weights FILE"):
        load_model(name)
    full = ALIASES.get(name, name)
    with pytest.raises(ModelError, match=rf"There are no pretrained weights of {full}: train it, or give"):
        timm.create_model(full, pretrained=True)
    with pytest.raises(ModelError, match="no pretrained weights"):
        find_pretrained(full)


def test_what_was_exported_is_loaded_under_any_of_its_names(tmp_path):
    """Also a wide network that is not registered before its weights tell that they are of one."""
    student = create_student("wrn_10_3", num_classes=5, size=32, seed=1)
    file = export_model(tmp_path, student)
    for name in (None, "wrn_10_3", "cifar_wrn_10_3"):
        found = load_model(name, file)
        assert (found.card.architecture, found.card.num_classes) == ("cifar_wrn_10_3", 5)
        assert weight_hash(found.module.state_dict()) == weight_hash(student.module.state_dict())
    with pytest.raises(ModelError, match=r"holds weights of cifar_wrn_10_3, not of cifar_resnet20"):
        load_model("resnet20", file)


def outputs_of(module, inputs, layers):
    """Logits, features and maps of a model, as a teacher's or a student's are computed."""
    with watched_features(module) as seen:
        logits, maps = WithMaps(module, layers)(inputs) if layers is not None else (module(inputs), ())
    return logits, seen[0], maps


def step(name, student, teacher, rows=4, classes=7):
    """One step of SGD on random images, with the teacher's outputs as targets."""
    objective = OBJECTIVES[name]
    if name == "crd":
        objective = dataclasses.replace(objective, negatives=50)
    needs = objective.needs
    maps = needs.maps
    inputs, (labels, weight) = images(rows), labels_of(0, rows, classes)
    with torch.no_grad():
        logits, features, levels = outputs_of(teacher.eval(), inputs, needs.teacher_layers if maps else None)
    spec = LossSpec(
        classes,
        feature_size(student) if needs.features else None,
        100,
        torch.arange(100) % classes,
        feature_size(teacher) if needs.teacher_features else None,
        WithMaps(student, needs.student_layers).shapes(32) if maps else (),
        WithMaps(teacher, needs.teacher_layers).shapes(32) if maps else (),
    )
    module = ObjectiveModule(objective, create_aux_module(objective, spec, seed=0))
    outputs = module.wrap_student(student.train())(inputs)
    logits_of_student = outputs if isinstance(outputs, torch.Tensor) else outputs.logits
    batch = LossInputs(
        logits_of_student,
        labels,
        weight.float(),
        FixedTargets(F.log_softmax(logits, dim=1), features, levels),
        features=None if isinstance(outputs, torch.Tensor) else outputs.features,
        maps=() if isinstance(outputs, torch.Tensor) else outputs.maps,
        past_probs=torch.full((rows, classes), 1 / classes),
        samples=torch.arange(rows),
        aux_module=module.aux_module,
        epoch=1,
        epochs=10,
    )
    total = objective(batch).total
    total.backward()
    assert torch.isfinite(total)
    for of, parameter in student.named_parameters():
        assert parameter.grad is not None, of
        assert torch.isfinite(parameter.grad).all(), of
    first = student.get_parameter(f"{student.pretrained_cfg['first_conv']}.weight")
    assert first.grad.abs().sum() > 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_takes_a_step(name):
    step(name, drawn("cifar_resnet8"), drawn("wrn_10_1"))


# Pairs of different families in the tables, or the smallest of such a pair.
@pytest.mark.parametrize(
    ("name", "teacher", "student"),
    [
        *(("at", "cifar_vgg8", "cifar_mobilenetv2_050"), ("reviewkd", "cifar_vgg8", "cifar_mobilenetv2_050")),
        *(("fitnet", "cifar_resnet8x4", "cifar_shufflenetv1"), ("reviewkd", "cifar_resnet8x4", "cifar_shufflenetv2")),
        *(("at", "wrn_10_1", "cifar_shufflenetv1"), ("crd", "cifar_densenet40_12", "cifar_vgg8")),
        ("fitnet", "cifar_densenet40_12", "cifar_resnet8"),
    ],
)
def test_features_and_maps_of_different_families_are_compared(name, teacher, student):
    step(name, drawn(student), drawn(teacher))

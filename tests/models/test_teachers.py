import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from kdcache.errors import DeviceError, ModelError, UsageError
from kdcache.models.students import create_student
from kdcache.models.teachers import load_teacher
from kdcache.models.weights import weight_hash
from kdcache.training.export import export_model

CPU = torch.device("cpu")
MODELS = ("test_resnet", "test_vit", "test_convnext")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run's folder for each architecture."""
    made = {}
    for name in MODELS:
        made[name] = tmp_path_factory.mktemp(name)
        export_model(made[name] / "export", create_student(name, num_classes=6, size=32, seed=2))
    return made


def teacher_of(folders, name="test_resnet", batch_size=5, precision="fp32"):
    return load_teacher(name, folders[name], device=CPU, precision=precision, batch_size=batch_size)


def pixels(rows, seed=0, size=32):
    return torch.rand(rows, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 255


@pytest.mark.parametrize("name", MODELS)
def test_an_answer_is_the_log_softmax_of_timms_own_model(folders, name):
    teacher = teacher_of(folders, name)
    model = timm.create_model(f"local-dir:{folders[name]}/export", pretrained=True).eval()
    seen = pixels(5)
    mean = torch.tensor(model.pretrained_cfg["mean"]).view(1, 3, 1, 1)
    std = torch.tensor(model.pretrained_cfg["std"]).view(1, 3, 1, 1)
    with torch.inference_mode():
        expected = F.log_softmax(model((seen / 255 - mean) / std), dim=-1)
    log_probs = teacher.compute_output(seen).log_probs
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs, expected, atol=1e-5, rtol=0)


def test_a_teacher_tells_what_it_is(folders):
    teacher = teacher_of(folders, "test_vit", batch_size=3, precision="bf16")
    cfg = timm.get_pretrained_cfg("test_vit")
    module = timm.create_model(f"local-dir:{folders['test_vit']}/export", pretrained=True)
    assert (teacher.name, teacher.architecture, teacher.num_classes) == ("test_vit", "test_vit", 6)
    assert (teacher.size, teacher.batch_size, teacher.precision) == (32, 3, "bf16")
    assert (teacher.mean, teacher.std) == (cfg.mean, cfg.std)
    assert teacher.weight_hash == weight_hash(module.state_dict())


@pytest.mark.parametrize("name", MODELS)
def test_a_classifiers_weights_are_a_row_for_each_class(folders, name):
    teacher = teacher_of(folders, name)
    vectors = teacher.class_vectors
    seen = []
    teacher._network.module.get_classifier().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    log_probs = teacher.compute_output(pixels(5)).log_probs
    logits = seen[0] @ vectors.T + teacher._network.module.get_classifier().bias
    torch.testing.assert_close(F.log_softmax(logits, 1), log_probs, atol=1e-5, rtol=0)


def test_two_classifiers_are_none(tmp_path):
    name = "deit_tiny_distilled_patch16_224"
    save_file(timm.create_model(name, num_classes=4).state_dict(), tmp_path / "w.safetensors")
    assert (
        load_teacher(name, tmp_path / "w.safetensors", device=CPU, precision="fp32", batch_size=1).class_vectors is None
    )


def test_a_short_name_stands_for_its_own_preprocessing_and_training_size(tmp_path):
    # timm tests this model at 288 and trained it at 224; its mean and std are not those of every ResNet.
    save_file(timm.create_model("resnet34", num_classes=4).state_dict(), tmp_path / "w.safetensors")
    teacher = load_teacher("resnet34", tmp_path / "w.safetensors", device=CPU, precision="fp32", batch_size=1)
    assert teacher.name == "resnet34"
    assert teacher.size == timm.get_pretrained_cfg("resnet34.tv_in1k").input_size[1]
    assert teacher.num_classes == 4


@pytest.mark.parametrize("name", MODELS)
def test_a_row_has_the_same_answer_whatever_the_other_rows_are(folders, name):
    teacher = teacher_of(folders, name, batch_size=8)
    seen = pixels(8)
    whole = teacher.compute_output(seen).log_probs
    for rows in (1, 3, 7):
        changed = torch.cat([seen[:rows], pixels(8 - rows, seed=rows)])
        assert torch.equal(teacher.compute_output(changed).log_probs[:rows], whole[:rows])


@pytest.mark.parametrize("name", MODELS)
def test_a_padded_batch_gives_the_same_as_a_whole_one(folders, name):
    teacher = teacher_of(folders, name, batch_size=8)
    seen = pixels(21)
    whole = teacher.compute_output(seen).log_probs
    assert whole.shape == (21, 6)
    for start in (0, 8, 16):
        for stop in (start + 1, start + 5):
            assert torch.equal(teacher.compute_output(seen[start:stop]).log_probs, whole[start:stop])


def test_every_forward_pass_has_the_same_shape(folders):
    teacher = teacher_of(folders, batch_size=4)
    shapes = []
    teacher._network.module.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    teacher.compute_output(pixels(11))
    assert shapes == [(4, 3, 32, 32)] * 3


def test_outputs_carry_no_gradient_and_the_model_stays_in_eval_mode(folders):
    teacher = teacher_of(folders)
    seen = pixels(2).requires_grad_()
    assert not teacher.compute_output(seen).log_probs.requires_grad
    assert not teacher._network.module.training
    assert weight_hash(teacher._network.module.state_dict()) == teacher.weight_hash


def test_bf16_is_close_to_fp32_and_its_log_softmax_is_float32(folders):
    wide, half = (
        teacher_of(folders, precision=precision).compute_output(pixels(4)).log_probs for precision in ("fp32", "bf16")
    )
    assert half.dtype == torch.float32
    assert not torch.equal(wide, half)
    torch.testing.assert_close(half, wide, atol=0.1, rtol=0)
    torch.testing.assert_close(half.exp().sum(dim=1), torch.ones(4), atol=1e-6, rtol=0)


def test_fp16_on_the_cpu_is_refused_before_weights_are_read(tmp_path):
    with pytest.raises(DeviceError, match="bf16"):
        load_teacher("resnet34", tmp_path / "none", device=CPU, precision="fp16", batch_size=2)


def test_an_empty_batch_is_refused(folders):
    with pytest.raises(UsageError, match="batch size"):
        teacher_of(folders, batch_size=0)


def test_building_and_asking_a_teacher_leave_the_random_state_alone(folders):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    teacher_of(folders, "test_vit").compute_output(pixels(3))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("layers", ["stages", "middle", (0, -1)])
def test_feature_maps_come_of_the_layers_that_are_asked_for(folders, layers):
    teacher = teacher_of(folders, batch_size=4)
    with_maps, plain = teacher.compute_output(pixels(6), maps=layers), teacher.compute_output(pixels(6))
    assert plain.maps == ()
    assert torch.equal(with_maps.log_probs, plain.log_probs), "asking for maps changes no bit"
    shapes = teacher.map_shapes(layers)
    assert [tuple(part.shape) for part in with_maps.maps] == [(6, *shape) for shape in shapes]
    inputs = teacher._network.normalise(pixels(6).float())
    numbers = {"stages": [1, 2, 3, 4], "middle": [2], (0, -1): [0, 4]}[layers]
    for ours, theirs in zip(
        with_maps.maps, teacher._network.module.forward_intermediates(inputs, numbers)[1], strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_what_is_said_may_be_kept_for_a_gradient(folders):
    said = teacher_of(folders).compute_output(pixels(3), features=True, maps="middle")
    for values in (said.log_probs, said.features, *said.maps):
        ours = torch.zeros_like(values, requires_grad=True)
        F.mse_loss(ours, values).backward()
        assert ours.grad.abs().sum() > 0


def loaded(tmp_path, name, precision="fp32", **kwargs):
    save_file(timm.create_model(name, num_classes=4, **kwargs).state_dict(), tmp_path / "w.safetensors")
    return load_teacher(name, tmp_path / "w.safetensors", device=CPU, precision=precision, batch_size=2)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_linear_head_makes_the_teachers_logits_of_its_features(folders, name, precision):
    teacher = teacher_of(folders, name, precision=precision)
    weight, bias = teacher.linear_head()
    said = teacher.compute_output(pixels(7), features=True)
    rebuilt = F.log_softmax(said.features @ weight.T + bias, dim=-1)
    assert said.features.shape == (7, teacher.num_features)
    torch.testing.assert_close(rebuilt, said.log_probs, atol=1e-5 if precision == "fp32" else 0.05, rtol=0)
    assert torch.equal(said.log_probs, teacher.compute_output(pixels(7)).log_probs)


def test_a_convolution_of_one_pixel_is_a_linear_head(tmp_path):
    teacher = loaded(tmp_path, "dla46_c")
    weight, bias = teacher.linear_head()
    said = teacher.compute_output(pixels(2, size=teacher.size), features=True)
    torch.testing.assert_close(
        F.log_softmax(said.features @ weight.T + bias, dim=-1), said.log_probs, atol=1e-4, rtol=1e-5
    )


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "repvit_m0_9"])
def test_a_classifier_that_is_not_one_layer_is_no_linear_head(tmp_path, name):
    teacher = loaded(tmp_path, name)
    for ask in (teacher.linear_head, lambda: teacher.num_features):
        with pytest.raises(ModelError, match=r"not one linear layer.*--targets topk or full.*another teacher"):
            ask()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("after", [torch.nn.BatchNorm1d(6), torch.nn.Softsign()])
def test_logits_that_are_not_the_classifiers_own_are_found_out(folders, after, precision):
    """Some of timm's models have one linear classifier and add to, or scale, what it says (VOLO's auxiliary head)."""
    teacher = teacher_of(folders, precision=precision)
    if isinstance(after, torch.nn.BatchNorm1d):
        torch.nn.init.uniform_(after.eval().weight, 0.5, 2)
    handle = teacher._network.module.register_forward_hook(lambda module, inputs, logits: after(logits.float() * 5))
    try:
        with pytest.raises(ModelError, match=r"cannot be rebuilt from features: use --targets topk or full"):
            teacher.linear_head()
    finally:
        handle.remove()
    teacher.linear_head()


def test_looking_at_the_head_leaves_the_random_state_alone(folders):
    teacher = teacher_of(folders)
    torch.manual_seed(11)
    before = torch.get_rng_state()
    teacher.linear_head()
    assert torch.equal(torch.get_rng_state(), before)

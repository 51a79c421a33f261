"""Teachers that are modules of the caller's: what tells them apart, what is refused, and how they come back."""

import pytest
import torch
from torch import nn

from kdcache.errors import ModelError
from kdcache.models.names import module_architecture, module_of
from kdcache.models.teacher_module import TeacherModule, restored_afterwards, run_as_teacher
from kdcache.models.weights import weight_hash
from support.modules import ZeroShot, own_teacher

CPU = torch.device("cpu")


def run(own: TeacherModule):
    return run_as_teacher(own, device=CPU, precision="fp32", batch_size=4)


def test_an_architecture_says_whether_it_is_of_a_module():
    assert module_of(module_architecture("my-clip", "2.1")) == ("my-clip", "2.1")
    assert module_of("resnet50") is None


def test_the_output_is_that_of_the_module_on_normalised_images():
    module = ZeroShot().train()
    teacher = run(own_teacher(module))
    pixels = torch.randint(0, 256, (7, 3, 32, 32)).float()
    output = teacher.compute_output(pixels, features=True)
    expected = module.eval()((pixels / 255 - 0.5) / 0.25)
    assert torch.allclose(output.log_probs, expected.log_softmax(1), atol=1e-5)
    assert output.features.shape == (7, 8)
    assert torch.allclose(module.head(output.features), expected, atol=1e-5)
    assert teacher.weight_hash == weight_hash(module.state_dict())
    weight, bias = teacher.linear_head()
    assert torch.equal(weight, module.head.weight)
    assert not bias.any()


def test_logits_may_be_an_attribute_of_the_output():
    class AsHuggingFace(ZeroShot):
        def forward(self, pixel_values):
            class Output:
                logits = ZeroShot.forward(self, pixel_values)

            return Output()

    pixels = torch.rand(2, 3, 32, 32) * 255
    plain, wrapped = (run(own_teacher(kind())).compute_output(pixels).log_probs for kind in (ZeroShot, AsHuggingFace))
    assert torch.equal(plain, wrapped)


def test_a_module_is_given_back_as_it_was():
    module = ZeroShot().train()
    module.body.eval()
    module.head.requires_grad_(False)
    own = own_teacher(module)

    def stopped():
        with restored_afterwards(own):
            run(own)
            assert not module.training
            assert not any(parameter.requires_grad for parameter in module.parameters())
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        stopped()
    assert (module.training, module.body.training, module.head.training) == (True, False, True)
    assert all(parameter.requires_grad for parameter in module.body.parameters())
    assert not module.head.weight.requires_grad


def with_extra_state():
    class Stateful(ZeroShot):
        def get_extra_state(self):
            return {"temperature": 0.5}

        def set_extra_state(self, state):
            pass

    return Stateful()


def with_sparse_buffer():
    module = ZeroShot()
    module.register_buffer("mask", torch.eye(3).to_sparse())
    return module


def with_lazy_layer():
    module = ZeroShot()
    module.later = nn.LazyLinear(3)
    return module


class Brightness(nn.Module):
    """Computes logits without any state."""

    def forward(self, images):
        return images.mean((2, 3)).repeat(1, 2)[:, :4]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Brightness(), "has no parameters and no persistent buffers, so that nothing tells its targets from"),
        (with_extra_state(), r"_extra_state in the state of .* is no plain tensor with values \(of type dict\)"),
        (
            with_sparse_buffer(),
            r"mask in the state of .* is no plain tensor with values \(Tensor, torch.float32, torch",
        ),
        (with_lazy_layer(), r"later.weight in the state of .* is no plain tensor .*UninitializedParameter"),
        (ZeroShot().to("meta"), "is no plain tensor with values .*on meta"),
        (nn.Conv2d(3, 4, 3), r"gives an image \[1, 4, 30, 30\], and not one logit for each of 4 classes"),
        (nn.Linear(5, 4), r"fails on float32 images \[1, 3, 32, 32\] \(.*\): check its image_size"),
    ],
)
def test_what_is_no_teacher_or_cannot_be_told_from_others_is_refused(module, message):
    with pytest.raises(ModelError, match=message):
        run(own_teacher(module, head=None))


class OfOneImage(ZeroShot):
    """Its output is right for one image, by which a module is tried out, and not for a batch."""

    def forward(self, images):
        return super().forward(images).reshape(1, -1)


class AveragedInBatches(ZeroShot):
    def forward(self, images):
        logits = super().forward(images)
        return logits if len(logits) == 1 else logits.mean(1)


@pytest.mark.parametrize(("module", "shape"), [(OfOneImage(), r"\[1, 16\]"), (AveragedInBatches(), r"\[4\]")])
def test_an_output_that_is_none_for_a_batch_is_refused(module, shape):
    teacher = run(own_teacher(module, head=None))
    message = rf"gives 4 images an output of shape {shape}, and not one logit for each of 4 classes \[4, 4\]"
    with pytest.raises(ModelError, match=message):
        teacher.compute_output(torch.zeros(4, 3, 32, 32))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"name": "open ai/clip"}, "'open ai/clip' cannot be the name of a teacher"),
        ({"version": "1@2"}, "'1@2' cannot be the version of a teacher"),
        ({"mean": [0.5]}, "preprocessing as was given for own .*3 channels, 1 means"),
        ({"std": [0.2, 0.2, 0.0]}, "preprocessing as was given for own .*and std"),
        ({"image_size": (32, 32)}, r"image_size of the teacher own is \(32, 32\): give a whole number"),
        ({"num_classes": "4"}, "num_classes of the teacher own is '4': give a whole number"),
        ({"image_size": 0}, "preprocessing as was given for own .*input_size is"),
        ({"num_classes": 0}, "preprocessing as was given for own .*num_classes is 0"),
        ({"class_names": ["a", "b"]}, "has 4 classes and 2 class_names"),
        ({"head": nn.Linear(8, 4)}, "head of the teacher own is not a part of its module"),
    ],
)
def test_values_that_no_teacher_has_are_refused_where_they_are_given(choice, message):
    with pytest.raises(ModelError, match=message):
        own_teacher(ZeroShot(), **choice)


def test_a_function_is_no_module():
    with pytest.raises(ModelError, match=r"own is of type function, and a torch.nn.Module is needed"):
        own_teacher(lambda images: images)


def test_a_head_that_does_not_compute_the_logits_is_refused():
    module = ZeroShot()
    module.unused = nn.Linear(8, 4)
    with pytest.raises(ModelError, match="give that layer as the head of its TeacherModule"):
        run(own_teacher(module, head=module.unused)).linear_head()
    with pytest.raises(ModelError, match="give that layer as the head of its TeacherModule"):
        run(own_teacher(module, head=None)).linear_head()

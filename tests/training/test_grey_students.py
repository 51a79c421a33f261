"""Students of one channel: they see the luminance of the images, in training, evaluation, export and as teachers."""

import csv

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

import kdcache
from kdcache.errors import ConfigError, ModelError
from kdcache.exporting.export import export
from kdcache.exporting.options import ExportOptions
from kdcache.models.load import load_model
from kdcache.models.network import Normaliser, luminance
from kdcache.models.student_outputs import WithStudentOutputs
from kdcache.models.students import StudentOptions, create_student, load_initial_weights
from kdcache.models.teachers import load_teacher
from kdcache.training.config import load_config
from kdcache.training.export import export_model
from kdcache.training.train import train
from support.small_job import MODEL, train_request

GREY = StudentOptions(in_chans=1)


def pixels(rows, size=32):
    return torch.randint(0, 256, (rows, 3, size, size), generator=torch.Generator().manual_seed(0)).float()


def test_the_luminance_is_pillows_before_it_is_rounded():
    images = pixels(2)
    found = luminance(images)
    assert found.shape == (2, 1, 32, 32)
    for image, ours in zip(images, found, strict=True):
        theirs = Image.fromarray(image.permute(1, 2, 0).to(torch.uint8).numpy()).convert("L")
        assert np.abs(ours[0].numpy() - np.asarray(theirs)).max() <= 0.501
    same = pixels(1)[:, :1]
    torch.testing.assert_close(luminance(same.expand(-1, 3, -1, -1)), same)
    normalised = Normaliser((0.4,), (0.2,))(images)
    torch.testing.assert_close(normalised, (found / 255 - 0.4) / 0.2)
    torch.testing.assert_close(Normaliser((0.4,), (0.2,))(found), normalised)


def test_a_grey_student_is_trained_scored_exported_and_a_teacher(job, tmp_path):
    run = tmp_path / "run"
    overrides = ("student.in_chans=1",)
    train(train_request(job.data, run, cache=str(job.cache), epochs=1, val=job.data, overrides=overrides))
    with (run / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    found = kdcache.evaluate(str(run), job.data, device="cpu")
    assert found.loss == pytest.approx(float(row["val_loss"]), rel=1e-5)
    network = load_model(None, run / "export" / "model.safetensors")
    assert network.card.input_size == (1, 32, 32)
    assert network.card.mean == pytest.approx([0.5])
    stored = load_file(run / "export" / "model.safetensors")
    assert all(torch.equal(tensor, stored[name]) for name, tensor in network.module.state_dict().items())
    by_timm = timm.create_model(f"local-dir:{run}/export", pretrained=True).eval()
    inputs = network.normalise(pixels(3))
    with torch.inference_mode():
        expected = by_timm(inputs)
    weights = run / "export" / "model.safetensors"
    teacher = load_teacher(MODEL, weights, device=torch.device("cpu"), precision="fp32", batch_size=3)
    torch.testing.assert_close(teacher.compute_output(pixels(3)).log_probs, expected.log_softmax(1))
    assert teacher.map_shapes("stages")[0][0] > 3
    export(ExportOptions(run=str(run), out=tmp_path / "script", format="torchscript"))
    assert 'Images are grey (`convert("L")` of Pillow)' in (tmp_path / "script" / "README.md").read_text()


def test_a_grey_student_begins_from_grey_weights_alone(tmp_path):
    made = create_student(MODEL, num_classes=4, size=32, seed=0, options=GREY)
    export_model(tmp_path / "grey", made)
    initial = load_initial_weights(MODEL, str(tmp_path / "grey"), size=32)
    again = create_student(MODEL, num_classes=5, size=32, seed=1, options=GREY, initial=initial)
    of_imagenet = create_student("resnet18", num_classes=4, size=32, seed=0, options=GREY).card
    assert of_imagenet.mean == pytest.approx([0.299 * 0.485 + 0.587 * 0.456 + 0.114 * 0.406])
    assert of_imagenet.std == pytest.approx([0.299 * 0.229 + 0.587 * 0.224 + 0.114 * 0.225])
    assert torch.equal(again.module.conv1[0].weight, made.module.conv1[0].weight)
    assert (again.card.input_size, again.card.mean) == ((1, 32, 32), made.card.mean)
    with pytest.raises(ModelError, match=r"does not fit .* give the student\.kwargs, student\.in_chans"):
        create_student(MODEL, num_classes=4, size=32, seed=1, initial=initial)
    shapes = WithStudentOutputs(made.module, features=False, layers="stages").map_shapes(32, 1)
    assert len(shapes) == 4


def test_other_numbers_of_channels_are_refused():
    with pytest.raises(ConfigError, match="in_chans is 2: give 3 for RGB or 1 for grey images"):
        load_config("fashion-mnist", assignments=["student.in_chans=2"])
    with pytest.raises(ModelError, match=r"kwargs has in_chans 1, which is a setting of its own: give student\.in_ch"):
        create_student(MODEL, num_classes=4, size=32, seed=0, options=StudentOptions(kwargs={"in_chans": 1}))

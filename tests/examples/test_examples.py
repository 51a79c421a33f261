"""Every example runs on small pieces of photographs, in this process; the docs show it."""

import dataclasses
import importlib.util
import json
import math
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from mypy.main import define_options
from PIL import Image
from safetensors.torch import load_file, save_file

import kdcache
from kdcache.training.train import train
from support.images import photograph
from support.loop_ranks import on_ranks_of_torchrun, run_loop
from support.small_job import CLASSES, MODEL, SIZE, make_teacher, train_request

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
BATCH = 26
STEPS = 5


def load(name):
    """An example as a module; `main` of it takes the words of the command line."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, name, module)  # where its dataclasses and type hints are looked up
        spec.loader.exec_module(module)
    return module


def words(**options):
    """Options as words of a command line."""
    return [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture
def small(job):
    """Options of the loops: the cache of the tests, and a student that learns in a second."""
    return {
        "cache": job.cache, "data": job.data, "model": MODEL, "epochs": 2, "batch_size": BATCH, "image_size": SIZE,
        "renderer": "pillow",
    }  # fmt: skip


def test_each_example_is_shown_in_the_docs():
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    assert not [name for name in EXAMPLES if f"(../examples/{name}.py)" not in page]


def test_make_test_checks_the_examples_as_mypy_strict_does():
    mypy = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    assert "examples" in mypy["files"]
    (own,) = [override for override in mypy["overrides"] if override["module"] == EXAMPLES]
    strict = {flag.lstrip("-").replace("-", "_") for flag in define_options()[1]}
    assert {"disallow_untyped_calls", "warn_return_any"} <= strict
    assert strict <= {name for name, value in (mypy | own).items() if value is True}
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\ntest:")[2].partition("\n\n")[0]
    assert "\t$(BIN) -m mypy\n" in recipe


def test_the_plain_loop_has_under_forty_lines():
    lines = (ROOT / "examples" / "plain_loop.py").read_text(encoding="utf-8").splitlines()
    assert 20 < len(lines) < 40
    assert max(map(len, lines)) <= 120


def test_twenty_steps_of_the_plain_loop_are_those_of_kdcache_train(job, small, tmp_path):
    request = train_request(
        job.data, tmp_path / "run", cache=str(job.cache), epochs=4, renderer="pillow",
        overrides=("objective.kd_weight=1", "objective.label_weight=1", "schedule.warmup_lr=0"),
    )  # fmt: skip
    wanted = train(request, keep_losses=True).losses
    found = load("plain_loop").main(**small | {"epochs": 4}, device="cpu")
    assert len(found) == 20
    assert tuple(found) == wanted


def test_the_loop_of_timm_goes_on_where_it_was_stopped(job, small, tmp_path, monkeypatch, capsys):
    example = load("timm_train")
    options = small | {"device": "cpu", "val": job.data, "lr": 0.01, "warmup_epochs": 1, "drop_path": 0.1}
    whole = example.main(words(**options, checkpoint=tmp_path / "whole.pt"))
    assert len(whole) == 2 * STEPS
    assert "Epoch 1: loss" in capsys.readouterr().out
    score = example.score

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(example, "score", stop)  # what comes after the checkpoint of an epoch
    stopped = words(**options, checkpoint=tmp_path / "stopped.pt")
    with pytest.raises(KeyboardInterrupt):
        example.main(stopped)
    monkeypatch.setattr(example, "score", score)
    assert example.main(stopped) == whole[STEPS:]
    assert example.main(stopped) == []
    one, other = (torch.load(tmp_path / name, weights_only=True) for name in ("whole.pt", "stopped.pt"))
    assert all(torch.equal(value, other["ema"][name]) for name, value in one["ema"].items())
    assert any(not torch.equal(value, one["ema"][name]) for name, value in one["model"].items())


def test_the_loop_of_timm_learns_beside_the_student(job, small, tmp_path):
    cache, file = tmp_path / "cache", tmp_path / "loop.pt"
    kdcache.dump_logits(MODEL, job.data, cache, weights=job.weights, policy=job.policy, views=1, targets="embedding",
                        device="cpu", renderer="pillow", batch_size=16)  # fmt: skip
    options = words(**small | {"cache": cache, "epochs": 1}, device="cpu", objective="cc", checkpoint=file)
    example = load("timm_train")
    example.main(options)
    learnt = torch.load(file, weights_only=True)["objective"]
    dataset = kdcache.open_cache(cache, data=job.data)
    first = example.create_task(example.parse(options), dataset, torch.device("cpu")).objective.state_dict()
    assert learnt.keys() == first.keys()
    assert learnt
    assert not any(torch.equal(learnt[name], first[name]) for name in first)


def flat(weights):
    return np.concatenate([weights[name].astype(np.float64).ravel() for name in sorted(weights)])


def test_the_loop_of_timm_on_two_ranks_takes_the_steps_of_one(small, tmp_path):
    """With group norm: in DDP, batch norm sees the rows of its own process alone."""
    file = ROOT / "examples" / "timm_train.py"
    options = small | {"model": "test_efficientnet_gn", "batch_size": 24, "epochs": 1, "device": "cpu", "opt": "sgd"}
    options |= {"lr": 0.05, "warmup_epochs": 0}
    steps, weights = run_loop(file, words(**options, checkpoint=tmp_path / "one.pt"))
    of_ranks = on_ranks_of_torchrun(file, words(**options, checkpoint=tmp_path / "two.pt"), world=2)
    (first, one), (second, other) = of_ranks
    assert len(steps) == STEPS
    for whole, *parts in zip(steps, first, second, strict=True):
        assert [len(part) for part in parts] == [12, 12]
        assert sorted(whole) == sorted(parts[0] + parts[1])
    assert one.keys() == weights.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one), "the models of all ranks stay equal"
    # Sums over two ranks have other last bits, which the steps carry on, by how much depends on the processor. Beside
    # the way that the weights have gone it is little, where a gradient of one rank, or a sum of both, is not.
    _, start = run_loop(file, words(**options | {"lr": 1e-12}, checkpoint=tmp_path / "start.pt"))
    moved, apart = (math.dist(flat(weights), flat(other)) for other in (start, one))
    assert apart < 0.01 * moved
    saved = torch.load(tmp_path / "two.pt", weights_only=True)["model"]
    assert all(np.array_equal(saved[name], value) for name, value in one.items())


def test_lightning_goes_on_in_mid_epoch(small, tmp_path, monkeypatch):
    import lightning

    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # which it sets, and leaves
    example = load("lightning_module")

    class Losses(lightning.Callback):
        def __init__(self):
            self.found = []

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
            self.found.append(float(outputs["loss"]))
            if trainer.global_step == STEPS + 2:
                trainer.save_checkpoint(tmp_path / "mid.ckpt")

    def run(*more):
        losses = Losses()
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        example.main(
            [*words(**small, accelerator="cpu", out=tmp_path / "out"), *more],
            callbacks=[losses], enable_checkpointing=False, **quiet,
        )  # fmt: skip
        return losses.found

    whole = run()
    assert len(whole) == 2 * STEPS
    assert run("--resume", str(tmp_path / "mid.ckpt")) == whole[STEPS + 2 :]


def test_teachers_of_ones_own_are_dumped_and_learnt_from(job, small, tmp_path, capsys):
    models = [f"local-dir:{job.weights.parent}", f"local-dir:{make_teacher(tmp_path / 'second', seed=8).parent}"]
    width = timm.create_model(MODEL).num_features
    save_file({"classes": torch.randn(CLASSES, width)}, tmp_path / "classes.safetensors")
    cache = tmp_path / "cache"
    example = load("own_teacher")
    example.main(
        ["--models", *models, *words(
            encoder=models[0], class_vectors=tmp_path / "classes.safetensors", targets="embedding", cache=cache,
            data=job.data, num_classes=CLASSES, image_size=SIZE, policy=job.policy, views=1, batch_size=16,
            device="cpu", renderer="pillow",
        )]
    )  # fmt: skip
    assert "module:ensemble@1" in capsys.readouterr().out
    for teacher in ("ensemble", "zero-shot"):
        dataset = kdcache.open_cache(cache, data=job.data, teacher=teacher)
        with dataset.loader(16, 1, image_size=SIZE, device="cpu", renderer="pillow") as loader:
            batch = next(iter(loader))
            assert batch.targets.log_probs().exp().sum(1).allclose(torch.ones(16), atol=1e-3)
    assert batch.targets.features().norm(dim=1).allclose(torch.ones(16), atol=0.05)


def test_an_ensemble_is_the_mean_of_the_probabilities():
    example = load("own_teacher")
    parts = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5)) for _ in range(2)]
    images = torch.rand(3, 3, 2, 2)
    mean = torch.stack([part(images).softmax(1) for part in parts]).mean(0)
    assert example.Ensemble(parts)(images).exp().allclose(mean)


#: Objects of the photographs: category and outline, in shares of width and height.
OUTLINES = {
    "astronaut": [
        ("head", [(0.30, 0.18), (0.36, 0.05), (0.45, 0.03), (0.56, 0.08), (0.59, 0.20), (0.50, 0.36), (0.41, 0.36)]),
        ("spacecraft", [(0.69, 0.43), (0.74, 0.10), (0.78, 0.02), (0.84, 0.02), (0.90, 0.53), (0.72, 0.53)]),
    ],
    "chelsea": [
        ("eye", [(0.305, 0.30), (0.36, 0.285), (0.43, 0.32), (0.46, 0.40), (0.41, 0.48), (0.33, 0.45)]),
        ("eye", [(0.655, 0.42), (0.70, 0.38), (0.755, 0.38), (0.755, 0.47), (0.71, 0.54), (0.66, 0.52)]),
    ],
    "coffee": [
        ("cup", [(0.29, 0.22), (0.33, 0.09), (0.45, 0.045), (0.60, 0.10), (0.68, 0.27), (0.63, 0.60), (0.45, 0.72)])
    ],
    "rocket": [("spacecraft", [(0.485, 0.40), (0.50, 0.30), (0.52, 0.40), (0.52, 0.95), (0.485, 0.95)])],
}
CATEGORIES = {"spacecraft": 9, "head": 7, "eye": 3, "cup": 1}


def make_coco(folder, width=96, height=72):
    """Four photographs in COCO's format, with outlines of what is on them, and a crowd, which is left out."""
    (folder / "images").mkdir(parents=True)
    found = {"categories": [{"id": number, "name": name} for name, number in CATEGORIES.items()]}
    found |= {"images": [], "annotations": []}
    for number, (name, objects) in enumerate(OUTLINES.items()):
        photograph(name).resize((width, height)).save(folder / "images" / f"{name}.png")
        found["images"].append({"id": number, "file_name": f"{name}.png"})
        for category, outline in objects:
            points = np.array(outline) * (width, height)
            corner = points.min(0)
            one = {"category_id": CATEGORIES[category], "bbox": [*corner, *(points.max(0) - corner)]}
            found["annotations"].append({"image_id": number, "segmentation": [points.flatten().tolist()], **one})
        crowd = {"category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1, "segmentation": {"counts": [1]}}
        found["annotations"].append({"image_id": number, **crowd})
    (folder / "annotations.json").write_text(json.dumps(found))
    return folder


def test_a_folder_of_coco_is_read_and_mirrored(tmp_path):
    example = load("detection_backbone")
    data = example.CocoFolder(make_coco(tmp_path / "coco"))
    assert (len(data), data.num_classes) == (4, 4)
    image, target = data[0]
    assert image.shape == (3, 72, 96)
    assert target["labels"].tolist() == [3, 4]  # by the numbers of their categories, from 1 on
    assert target["boxes"][0].tolist() == pytest.approx([0.30 * 96, 0.03 * 72, 0.59 * 96, 0.36 * 72])
    inside, outside = target["masks"][0].bool(), target["masks"].sum(0) == 0
    assert inside[14, 43]  # the face
    assert outside[36, 43]
    assert 350 < inside.sum() < 600
    mirrored_image, mirrored = example.flip((image, target))
    assert mirrored["boxes"][0].tolist() == pytest.approx([0.41 * 96, 0.03 * 72, 0.70 * 96, 0.36 * 72])
    assert mirrored["masks"][0][14, 95 - 43]
    assert torch.equal(mirrored_image[:, 14, 95 - 43], image[:, 14, 43])


def test_the_export_of_a_run_is_the_backbone_of_a_detector(job, tmp_path):
    request = train_request(
        job.data, tmp_path / "run", cache=str(job.cache), epochs=1, renderer="pillow", overrides=("batch_size=64",)
    )
    train(dataclasses.replace(request, student="resnet18"))
    kdcache.export(tmp_path / "run", format="torchvision", out=tmp_path / "student")
    out, coco = tmp_path / "detector.pt", make_coco(tmp_path / "coco")
    losses = load("detection_backbone").main(
        [str(tmp_path / "student"), *words(coco=coco, epochs=1, batch_size=2, image_size=64, workers=0, device="cpu",
                                           lr=0.002, warmup_steps=1, channels=16, regions=4, out=out)]
    )  # fmt: skip
    assert len(losses) == 2
    assert all(np.isfinite(losses))
    detector = torch.load(out, weights_only=True)
    student = load_file(tmp_path / "run" / "export" / "model.safetensors")
    body = {name: value for name, value in student.items() if not name.startswith("fc.") and "num_batches" not in name}
    same = {name for name, value in body.items() if torch.equal(detector[f"backbone.body.{name}"], value)}
    convolutions = {name for name in body if body[name].ndim == 4}
    # What was trained by the run is there; the first stages and all of batch norm stay as they were.
    assert set(body) - convolutions <= same
    assert {name for name in convolutions if name.startswith(("conv1.", "layer1."))} <= same
    assert not same & {name for name in convolutions if name.startswith(("layer2.", "layer3.", "layer4."))}


def test_the_rate_of_the_detector_rises_and_falls():
    rate = load("detection_backbone").rate
    assert [rate(step, 10, 12, 5) for step in (0, 4, 79, 80, 110)] == pytest.approx([0.2, 1, 1, 0.1, 0.01])


def hsic(one, other):
    """The unbiased estimate of Song et al. 2012, term by term."""
    n = len(one)
    k, l = (gram - np.diag(np.diag(gram)) for gram in (one @ one.T, other @ other.T))  # noqa: E741 # as they call it
    ones = np.ones(n)
    middle = (ones @ k @ ones) * (ones @ l @ ones) / ((n - 1) * (n - 2))
    return (np.trace(k @ l) + middle - 2 / (n - 2) * (ones @ k @ l @ ones)) / (n * (n - 3))


def test_cka_of_two_models_is_drawn(job, tmp_path):
    example = load("cka")
    folder = job.weights.parent
    other = make_teacher(tmp_path / "second", seed=8).parent
    values = example.main(
        [f"local-dir:{folder}", f"local-dir:{other}", *words(data=job.data, batch_size=16, batches=2, device="cpu",
                                                             out=tmp_path / "cka.png")]
    )  # fmt: skip
    layers = [
        part for part in timm.create_model(MODEL).modules() if isinstance(part, torch.nn.Conv2d | torch.nn.Linear)
    ]
    assert values.shape == (len(layers), len(layers))
    assert values.max() <= 1
    image = Image.open(tmp_path / "cka.png")
    assert image.size == (8 * len(layers) + 16, 8 * len(layers) + 16)
    assert image.getpixel((20, 4)) == tuple(np.uint8(colour(example, float(values[-1, 0]))))


def colour(example, value):
    stops = np.linspace(0, 1, len(example.COLOURS))
    return [np.interp(np.clip(value, 0, 1), stops, example.COLOURS[:, channel]) for channel in range(3)]


def test_cka_is_that_of_the_paper():
    example = load("cka")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 4))
    batches = [torch.randn(9, 6) for _ in range(3)]
    layers = example.Layers(model)
    assert layers.names == ["0", "2"]
    values = example.minibatch_cka(layers, layers, ((batch, batch) for batch in batches))
    outputs = [[model[0](batch).detach().double().numpy(), model(batch).detach().double().numpy()] for batch in batches]
    means = [[np.mean([hsic(found[i], found[j]) for found in outputs]) for j in (0, 1)] for i in (0, 1)]
    assert values.diagonal().tolist() == pytest.approx([1, 1])
    assert float(values[0, 1]) == pytest.approx(means[0][1] / np.sqrt(means[0][0] * means[1][1]), rel=1e-5)
    with pytest.raises(SystemExit, match="fewer images"):
        example.minibatch_cka(layers, layers, iter(()))


def test_examples_take_the_public_names_alone():
    """So a copy of one is a start, and none of them breaks where the inside changes."""
    for name in EXAMPLES:
        text = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
        assert "from kdcache" not in text
        assert set(re.findall(r"^import kdcache.*$", text, re.MULTILINE)) <= {"import kdcache"}
        used = {used.split(".")[0] for used in re.findall(r"(?<![\w.])kdcache\.(\w+)", text)}
        assert used <= set(kdcache.__all__)

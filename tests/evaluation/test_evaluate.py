"""`evaluate` with several models and data sets: runs of three seeds, a reference, several right labels, two ranks."""

import io
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torch import nn
from typer.testing import CliRunner

import kdcache
from kdcache.data.index import open_index
from kdcache.data.reader import SampleReader
from kdcache.errors import DataError, IdentityError, UsageError
from kdcache.evaluation.evaluate import EvaluateOptions, evaluate, group_by_seed, load_network
from kdcache.evaluation.predictions import predict
from kdcache.evaluation.scoring import Computing, score, try_scoring
from kdcache.evaluation.table import DataSet, Scorer
from kdcache.models.network import Network
from kdcache.models.source import model_source
from kdcache.training.train import train
from kdcache_cli.main import app
from support.forked import run_ranks
from support.shards import make_samples, write_set
from support.small_job import CLASSES, MODEL, SAMPLES, Heard, make_data, make_teacher, train_request

CPU = torch.device("cpu")
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def runs(job, tmp_path_factory) -> list[str]:
    """Runs of one epoch that differ in their seed alone."""
    root = tmp_path_factory.mktemp("runs")
    for seed in SEEDS:
        train(
            train_request(job.data, root / f"seed{seed}", cache=str(job.cache), epochs=1, seed=seed, renderer="pillow")
        )
    return [str(root / f"seed{seed}") for seed in SEEDS]


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> str:
    """Another data set of the same classes."""
    return make_data(tmp_path_factory.mktemp("other"), images=50, seed=5)


@pytest.fixture
def network(job) -> Network:
    return load_network(model_source(str(job.weights.parent)), EvaluateOptions("", ""))


def log_probs_of(given: str, data: str) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of every sample and its label, one image at a time."""
    network = load_network(model_source(given), EvaluateOptions("", ""))
    card = network.card
    transform = create_transform(
        card.input_size, is_training=False, interpolation=card.interpolation, crop_pct=card.crop_pct, mean=card.mean,
        std=card.std,
    )  # fmt: skip
    index = open_index(data)
    rows = []
    with torch.inference_mode():
        reader = SampleReader(index)
        for encoded in reader.read(np.arange(len(index))):
            image = transform(Image.open(io.BytesIO(encoded)).convert("RGB"))
            rows.append(network.module(image[None])[0].log_softmax(dim=0).numpy())
        reader.close()
    return np.array(rows, np.float64), index.label


def test_every_score_is_that_of_a_loop_over_images(job, runs):
    found = kdcache.evaluate(runs[0], job.data, device="cpu", bins=10, reference=str(job.weights.parent))
    ours, labels = log_probs_of(runs[0], job.data)
    theirs, _ = log_probs_of(str(job.weights.parent), job.data)
    right = ours.argmax(axis=1) == labels
    assert found.samples == SAMPLES
    assert found.top1 == right.mean()
    assert found.top5 == 1, "there are four classes"
    assert found.loss == pytest.approx(-ours[np.arange(SAMPLES), labels].mean(), rel=1e-5)
    confidence = np.exp(ours.max(axis=1))
    order = np.argsort(-confidence)
    risks = np.cumsum(~right[order]) / np.arange(1, SAMPLES + 1)
    assert found.aurc == pytest.approx(risks.mean(), rel=1e-3)
    error = 0.0
    for number in range(10):
        inside = (confidence > number / 10) & (confidence <= (number + 1) / 10)
        error += abs(right[inside].sum() - confidence[inside].sum()) / SAMPLES
    assert found.ece == pytest.approx(error, rel=1e-4)
    for number in range(CLASSES):
        assert found.class_accuracy[number] == right[labels == number].mean()
    beside = found.comparison
    assert beside.agreement == (ours.argmax(axis=1) == theirs.argmax(axis=1)).mean()
    assert beside.kl == pytest.approx((np.exp(theirs) * (theirs - ours)).sum(axis=1).mean(), rel=1e-3)
    assert beside.top1.mean == pytest.approx(right.mean() - (theirs.argmax(axis=1) == labels).mean())


def test_a_table_of_models_and_data_sets(job, runs, other):
    reference = str(job.weights.parent)
    result = CliRunner().invoke(
        app, ["evaluate", *runs, "--data", job.data, "--data", other, "--reference", reference, "--device", "cpu"]
    )
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0][:8] == ["model", "data", "images", "top-1", "top-5", "NLL", "ECE", "AURC"]
    models = [reference, *runs]
    expected = [[model, data, count] for data, count in ((job.data, "131"), (other, "50")) for model in models]
    assert [line[:3] for line in lines[1:9]] == expected
    assert result.stdout.count("runs that differ in their seed") == 1
    assert result.stdout.count(f"3: {', '.join(runs)}") == 2


def test_as_json_it_has_everything_and_no_number_that_json_lacks(job, runs):
    arguments = ["evaluate", runs[0], runs[1], "--data", job.data, "--reference", runs[2], "--device", "cpu", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output

    def refuse(name):
        pytest.fail(name)

    report = json.loads(result.stdout, parse_constant=refuse)
    assert [row["model"] for row in report["scores"]] == [runs[2], runs[0], runs[1]]
    reference, first, second = report["scores"]
    assert "comparison" not in reference
    assert first["comparison"]["reference"] == runs[2]
    assert first["comparison"]["top1_difference"]["low"] <= first["top1"] - reference["top1"]
    assert [part["samples"] for part in first["classes"]] == [33, 33, 33, 32]
    assert sum(part["samples"] for part in first["reliability"]) == SAMPLES
    (seeds,) = report["seeds"]
    assert seeds["models"] == [runs[0], runs[1]]
    values = [first["nll"], second["nll"]]
    assert seeds["nll"]["mean"] == pytest.approx(np.mean(values))
    assert seeds["nll"]["deviation"] == pytest.approx(np.std(values, ddof=1))


def test_runs_are_grouped_where_their_seeds_alone_differ(runs, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(runs[2], changed)
    text = (changed / "config.yaml").read_text()
    assert text.count("\nbatch_size: 26") == 1
    (changed / "config.yaml").write_text(text.replace("\nbatch_size: 26", "\nbatch_size: 28"))
    assert group_by_seed([*runs, str(changed), MODEL]) == [tuple(runs)]
    assert group_by_seed([f"{runs[0]}/export", runs[1], str(changed)]) == [(f"{runs[0]}/export", runs[1])]
    assert group_by_seed([f"{runs[0]}@epoch=1", runs[1]]) == []
    assert group_by_seed([runs[0], str(changed), "nowhere"]) == []


def test_two_ranks_give_the_table_of_one(runs, job):
    arguments = ["evaluate", *runs[:2], "--data", job.data, "--reference", runs[2], "--device", "cpu", "--batch-size",
                 "16", "--json"]  # fmt: skip
    one, *two = [*run_ranks(arguments, 1), *run_ranks(arguments, 2)]
    assert not any(rank.returncode for rank in (one, *two)), "\n".join(rank.stderr for rank in (one, *two))
    assert two[0].stdout == one.stdout, "bit for bit, as each rank has whole batches"
    assert not two[1].stdout, "rank 0 alone reports"
    assert json.loads(one.stdout)["scores"][1]["comparison"]["kl"] > 0


def test_another_size_and_crop(job, runs):
    plain, larger, cut = (
        kdcache.evaluate(runs[0], job.data, device="cpu", **choice)
        for choice in ({}, {"image_size": 48}, {"crop_pct": 0.5})
    )
    assert len({plain.loss, larger.loss, cut.loss}) == 3
    network = load_network(model_source(runs[0]), EvaluateOptions("", "", size=48, crop_pct=0.5))
    assert (network.card.input_size, network.card.crop_pct) == ((3, 48, 48), 0.5)


def real_file(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_real_labels_of_imagenet_by_the_number_in_the_key(job, tmp_path):
    samples = make_samples(12, (16, 20), classes=CLASSES)
    order = [3, 1, 2, 5, 4, 6, 8, 7, 11, 10, 12, 9]
    named = [each._replace(key=f"n0{n % 4}/ILSVRC2012_val_{n:08d}") for n, each in zip(order, samples, strict=True)]
    data = str(write_set(tmp_path / "data", named, 2))
    model = str(job.weights.parent)
    ours, _ = log_probs_of(model, data)
    index = open_index(data)
    numbers = [int(index.key(row)[-8:]) for row in range(12)]
    guesses = {number: int(guess) for number, guess in zip(numbers, ours.argmax(axis=1), strict=True)}
    # Images 1 to 4 are right by their second label, 5 has no label, all others are wrong.
    wrong = {number: (guess + 1) % 4 for number, guess in guesses.items()}
    real = [[wrong[n], guesses[n]] if n < 5 else [wrong[n]] if n > 5 else [] for n in range(1, 13)]
    found = kdcache.evaluate(model, data, device="cpu", real_labels=real_file(tmp_path / "real.json", real))
    assert (found.real, found.real_samples) == (4 / 11, 11)
    by_key = {index.key(row): real[number - 1] for row, number in enumerate(numbers)}
    by_key_found = kdcache.evaluate(model, data, device="cpu", real_labels=real_file(tmp_path / "keys.json", by_key))
    assert by_key_found.real == found.real
    # A data set of other keys is left out; one that fits in part is another one.
    table = kdcache.evaluate([model], [data, job.data], device="cpu", real_labels=tmp_path / "real.json")
    assert [row.real for row in table.rows] == [found.real, None]
    message = r"has labels of 11 samples .* and none of 1 others, such as n00/ILSVRC2012_val_00000012"
    with pytest.raises(DataError, match=message):
        kdcache.evaluate(model, data, device="cpu", real_labels=real_file(tmp_path / "short.json", real[:11]))
    with pytest.raises(UsageError, match="labels of no sample of the data"):
        kdcache.evaluate(model, job.data, device="cpu", real_labels=tmp_path / "real.json")


@pytest.mark.parametrize("content", [[], {}, 3, [[1], 2], [["1"]], [[-1]], [[True]], {"a": 1}])
def test_files_without_such_labels_are_refused(content, job, tmp_path):
    with pytest.raises(DataError, match=r"list of (lists of labels|class numbers)"):
        kdcache.evaluate(MODEL, job.data, weights=job.weights, device="cpu",
                         real_labels=real_file(tmp_path / "real.json", content))  # fmt: skip
    with pytest.raises(DataError, match="cannot be read"):
        kdcache.evaluate(MODEL, job.data, weights=job.weights, device="cpu", real_labels=tmp_path / "none.json")


class Broken(nn.Module):
    """Gives logits that are not finite for some images of a batch."""

    num_classes = CLASSES

    def __init__(self, values: list[float], rows: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.values, self.rows = values, rows

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]]).repeat(len(images), 1)
        logits[: self.rows] = torch.tensor(self.values)
        return logits


@pytest.mark.parametrize("values", [[math.nan] * 4, [0, 0, math.nan, 0], [math.inf, 0, 0, 0], [-math.inf] * 4])
def test_logits_that_are_not_finite_count_as_wrong(values, job, network):
    index, heard = open_index(job.data), Heard()
    broken = Network(Broken(values, 10), network.card)
    scorer = Scorer([DataSet("data", index)], Computing(CPU, batch_size=131, progress=heard))
    (found,) = scorer.score_model("broken", broken)
    order = np.lexsort((index.offset, index.shard))
    expected = (index.label[order[10:]] == 0).sum() / SAMPLES
    assert (found.top1, found.top5, found.invalid) == (expected, 121 / SAMPLES, 10)
    assert math.isnan(found.loss)
    assert math.isnan(found.ece)
    assert math.isnan(found.aurc)
    assert found.to_json()["nll"] is None
    (warning,) = heard.warned
    assert warning.startswith("the logits of broken are not finite for 10 images of data: ")
    assert scorer.notes[1:] == ["T" + warning[1:]], "after what is assumed of the classes"
    by_trainer = score(broken, index, Computing(CPU, batch_size=131), name="broken")
    assert (by_trainer.top1, by_trainer.top5) == (found.top1, found.top5)


def test_a_class_that_is_impossible_makes_an_infinite_loss_and_no_other_fault(job, network):
    broken = Network(Broken([3.0, 2.0, -math.inf, 0.0], 131), network.card)
    scorer = Scorer([DataSet("data", open_index(job.data))], Computing(CPU, batch_size=131))
    (found,) = scorer.score_model("sure", broken)
    assert (found.loss, found.invalid) == (math.inf, 0)
    assert 0 < found.ece < 1
    assert found.to_json()["nll"] is None
    assert "inf" in found.lines()[0]


def test_data_of_which_every_sample_is_lost(job, network):
    index = open_index(job.data)
    lost = replace(index, lost=np.arange(SAMPLES))
    for scoring in (
        lambda: score(network, lost, Computing(CPU), name="m"),
        lambda: try_scoring(network, lost, Computing(CPU)),
        lambda: predict(network, lost, Computing(CPU), name="m"),
    ):
        with pytest.raises(DataError, match=r"no image to score: all 131 samples of .* are marked as lost"):
            scoring()
    some = replace(index, lost=np.arange(SAMPLES - 3))
    found, _ = predict(network, some, Computing(CPU), name="m")
    assert found.samples.tolist() == [128, 129, 130]


def test_what_is_assumed_where_classes_have_no_names_is_said(job, network, tmp_path):
    nameless = str(write_set(tmp_path / "data", make_samples(8, (16, 20), classes=CLASSES), 1, class_names=False))
    index, named = open_index(nameless), open_index(job.data)

    def said(class_names, index):
        heard = Heard()
        card = replace(network.card, class_names=class_names)
        Scorer([DataSet("val", index)], Computing(CPU, progress=heard)).score_model("m", Network(network.module, card))
        return heard.said

    assert said(named.class_names, named) == []
    assert said(None, named) == [
        "m does not name its classes: label N of the data is taken to be output N of the model (labels 0 to 3, outputs "
        "0 to 3, so label 0 is 'class 0' and label 3 'class 3'). With another order of the classes the scores mean "
        "nothing."
    ]
    assert said(named.class_names, index)[0].startswith("val does not name its classes: ")
    assert said(None, index)[0].startswith("Neither m nor val names classes: ")
    assert "so label 0" not in said(None, index)[0]


def test_what_is_too_large_to_keep_is_left_out_and_said(job, network):
    heard = Heard()
    index = open_index(job.data)
    data = [DataSet("one", index), DataSet("two", index)]
    # Room for one data set: 131 samples of 4 classes in float32.
    scorer = Scorer(data, Computing(CPU, progress=heard), reference="teacher", memory_limit=131 * 4 * 4)
    scorer.score_model("teacher", network, is_reference=True)
    one, two = scorer.score_model("student", network)
    assert one.comparison.kl == pytest.approx(0, abs=1e-6)
    assert two.comparison.kl is None
    assert two.comparison.agreement == 1
    (warning,) = heard.warned
    assert warning.startswith("the KL divergence from teacher is left out on two: ")
    assert "2.1 KB of memory, and 2.1 KB are kept at most" in warning


def test_what_makes_no_sense_is_refused(job, tmp_path):
    data, folder = job.data, str(job.weights.parent)
    for settings, message in (
        ({"bins": 0}, "^bins is 0"),
        ({"crop_pct": 0.0}, "^crop_pct is 0.0"),
        ({"image_size": 10**6}, "^image_size is 1000000"),
        ({"reference_weights": job.weights}, "^reference_weights belongs to reference"),
    ):
        with pytest.raises(UsageError, match=message):
            kdcache.evaluate(folder, data, device="cpu", **settings)
    with pytest.raises(UsageError, match="several are named"):
        kdcache.evaluate([MODEL, "resnet18"], data, weights=job.weights, device="cpu")
    with pytest.raises(UsageError, match="one model and one data set"):
        kdcache.evaluate([], data, device="cpu")
    wider = make_teacher(tmp_path / "wider", classes=9)
    nameless = str(write_set(tmp_path / "data", make_samples(8, (16, 20), classes=CLASSES), 1, class_names=False))
    with pytest.raises(IdentityError, match=r"has 4 classes, and the reference .* 9"):
        kdcache.evaluate(folder, nameless, device="cpu", reference=str(wider.parent))
    with pytest.raises(UsageError, match="leave the reference out"):
        kdcache.evaluate(Broken([0.0] * 4, 0), data, reference=folder)


def test_one_model_on_one_data_set_stays_what_it_was(job, runs):
    found = evaluate(EvaluateOptions(runs[0], job.data, device="cpu"))
    assert found.lines()[0].startswith(f"{runs[0]}: top-1 {found.top1:.2%}, loss {found.loss:.4f} on 131"), (
        "of four classes all are among the five likeliest"
    )
    assert found.correct.shape == (SAMPLES,)
    assert found.correct.mean() == found.top1

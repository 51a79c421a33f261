"""The jobs as functions: keyword arguments, typed reports, and nothing but what the commands do."""

import inspect
from pathlib import Path
from typing import get_type_hints

import pytest
import timm
import torch

import kdcache
from kdcache.dumping.options import DumpOptions
from kdcache.dumping.report import DumpReport
from kdcache.errors import ModelError, UsageError
from kdcache.inspection.inspect import InspectOptions
from kdcache.runtime.progress import silent
from kdcache.training.options import TrainOptions
from kdcache.training.train import TrainReport
from support.small_job import CLASSES, MODEL, SAMPLES, SETTINGS, SIZE, Heard


@pytest.fixture(scope="module")
def run(job, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    heard = Heard()
    report = kdcache.train(
        MODEL, job.data, job.cache, out=str(out), epochs=1, recipe="fashion-mnist", overrides=SETTINGS, device="cpu",
        renderer="pillow", val=job.data, progress=heard,
    )  # fmt: skip
    assert heard.said
    assert isinstance(report, TrainReport)
    assert report.folder == out
    return report


@pytest.mark.parametrize(
    ("function", "options"), [("train", TrainOptions), ("dump_logits", DumpOptions), ("inspect", InspectOptions)]
)
def test_a_job_takes_what_its_options_have(function, options):
    job = getattr(kdcache, function)
    taken, declared = (inspect.signature(function).parameters for function in (job, options))
    assert list(taken) == [*declared, "progress"]
    assert all(taken[name].default == declared[name].default for name in declared)
    types = get_type_hints(options)  # without what only the command line needs
    # A teacher may be a module, and teachers weights by name.
    others = set(declared) - {"dump_logits": {"teacher"}, "train": {"teachers"}}.get(function, set())
    assert all(taken[name].annotation == types[name] for name in others)
    named = [name for name, each in taken.items() if each.kind is each.KEYWORD_ONLY]
    assert named == list(taken)[1 if function == "inspect" else 3 :]
    with pytest.raises(TypeError, match="nonsense"):
        job("a", nonsense=1)


class Titles(Heard):
    """A progress that remembers its tasks as well."""

    def __init__(self):
        super().__init__()
        self.titles = []
        self.task = self._task

    def _task(self, title, *arguments, **more):
        self.titles.append(title)
        return silent.task(title, *arguments, **more)


def test_messages_go_to_the_progress_that_is_given(job, tmp_path):
    of_teacher = {"data": job.data, "teacher": MODEL, "weights": job.weights}
    jobs = [
        lambda progress: kdcache.inspect(job.cache, samples=8, progress=progress),
        lambda progress: kdcache.verify(job.cache, progress=progress),
        lambda progress: kdcache.verify(
            job.cache, **of_teacher, samples=8, device="cpu", renderer="pillow", progress=progress
        ),
        lambda progress: kdcache.dump_logits(
            **of_teacher, cache=tmp_path / "cache", policy="centre", views=1, batch_size=16, device="cpu", dry_run=True,
            progress=progress,
        ),
    ]  # fmt: skip
    for call in jobs:
        heard = Titles()
        call(heard)
        assert heard.titles or heard.said


def test_a_run_is_evaluated_by_its_folder(job, run):
    found = kdcache.evaluate(run.folder, job.data, device="cpu")
    assert (found.top1, found.loss) == (run.evaluation.top1, pytest.approx(run.evaluation.loss))


def test_a_module_is_evaluated_as_the_same_model_by_name(job, run):
    folder = Path(run.folder) / "export"
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = kdcache.evaluate(model, job.data)
    assert (found.samples, found.top1, found.loss) == (SAMPLES, run.evaluation.top1, pytest.approx(run.evaluation.loss))
    assert repr(found).startswith(f"Scores(model={found.model!r}, samples={SAMPLES}, top1=")
    assert "array" not in repr(found) + repr(run)  # each sample's in a line that is printed
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_dump_and_what_its_cache_holds(job, tmp_path):
    cache = tmp_path / "cache"
    report = kdcache.dump_logits(
        MODEL, job.data, cache, weights=str(job.weights), policy="centre", views=1, batch_size=16, device="cpu",
        renderer="pillow",
    )  # fmt: skip
    assert isinstance(report, DumpReport)
    assert (report.samples, report.views) == (SAMPLES, 1)
    assert kdcache.inspect(cache).to_json() == kdcache.inspect(str(cache)).to_json()
    assert kdcache.verify(cache).whole
    again = kdcache.verify(cache, data=job.data, teacher=MODEL, weights=job.weights, samples=8, device="cpu",
                           renderer="pillow")  # fmt: skip
    assert again.whole
    dataset = kdcache.open_cache(cache, data=job.data)
    with dataset.loader(batch_size=16, epochs=1, image_size=SIZE, device="cpu", renderer="pillow") as loader:
        assert next(iter(loader)).targets.log_probs(num_classes=CLASSES).shape == (16, CLASSES)


def test_teachers_have_their_weights_by_name_or_as_the_command_has_them(job, tmp_path):
    settings = {"recipe": "fashion-mnist", "overrides": list(SETTINGS), "out": tmp_path / "run", "dry_run": True}
    by_name, by_text = (
        kdcache.train(MODEL, job.data, job.cache, teachers=teachers, device="cpu", **settings)
        for teachers in ({MODEL: 2}, f"{MODEL}=2.0")
    )
    assert by_name.plan.to_json() == by_text.plan.to_json()
    with pytest.raises(UsageError, match="give names with weights"):
        kdcache.train(MODEL, job.data, job.cache, teachers=[MODEL], device="cpu", **settings)


def test_a_text_is_no_list_of_texts(job, tmp_path):
    for choice in ({"overrides": "batch_size=26"}, {"imports": "own.py"}, {"log": "wandb"}):
        ((name, value),) = choice.items()
        with pytest.raises(UsageError, match=rf"{name} is '{value}': give a list of texts, such as \['{value}'\]"):
            kdcache.train(MODEL, job.data, job.cache, out=tmp_path / "run", **choice)
    with pytest.raises(UsageError, match=r"overrides is \{'batch_size': 26\}: give a list of texts"):
        kdcache.train(MODEL, job.data, job.cache, out=tmp_path / "run", overrides={"batch_size": 26})
    with pytest.raises(UsageError, match=r"imports is 'own\.py': give a list of texts"):
        kdcache.evaluate(MODEL, job.data, imports="own.py")


def test_what_makes_no_sense_is_refused(job):
    with pytest.raises(UsageError, match="give both"):
        kdcache.verify(job.cache, data=job.data)
    with pytest.raises(UsageError, match="samples belongs to data and teacher"):
        kdcache.verify(job.cache, samples=3)
    with pytest.raises(UsageError, match="leave weights out"):
        kdcache.evaluate(torch.nn.Flatten(), job.data, weights="a.safetensors")
    with pytest.raises(TypeError, match="nonsense"):
        kdcache.evaluate(MODEL, job.data, nonsense=32)
    with pytest.raises(ModelError, match="attribute num_classes"):
        kdcache.evaluate(torch.nn.Flatten(), job.data)

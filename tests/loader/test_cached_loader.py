"""The loader of one's own loop: the batches of `kdcache train`, epoch by epoch, from any position, for any process."""

import os
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.data import resolve_model_data_config

from kdcache.errors import IdentityError, UsageError
from kdcache.loader.batches import Batch
from kdcache.loader.dataset import open_cache
from kdcache.render.opening import open_renderer
from kdcache.training.train import train
from kdcache.training.trainer import Trainer
from kdcache.views.pixels.mix import mix_and_normalise
from support.small_job import CLASSES, MODEL, SAMPLES, SIZE, Heard, train_request

BATCH, VIEWS, EPOCHS = 24, 2, 3
STEPS = SAMPLES // BATCH


@pytest.fixture(scope="module")
def dataset(job):
    """Two of the ten views, so that the third epoch shows the first view again in new batches."""
    return open_cache(job.cache, data=job.data, views=VIEWS)


def make_loader(dataset, **choice):
    settings = {"device": "cpu", "renderer": "pillow", "image_size": SIZE} | choice
    return dataset.loader(settings.pop("batch_size", BATCH), settings.pop("epochs", EPOCHS), **settings)


def open_files() -> set[str]:
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    return {path for path in found if path.startswith("/") and not path.startswith(("/dev", "/proc"))}


def content(batch: Batch) -> list[torch.Tensor]:
    return [batch.images, batch.labels, batch.mix_weight, batch.samples, batch.targets.log_probs(num_classes=CLASSES)]


def require_equal(found: list[Batch], wanted: list[Batch]) -> None:
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        assert all(map(torch.equal, content(one), content(other)))


@pytest.fixture(scope="module")
def whole(dataset):
    """The batches of each epoch, from one loader."""
    with make_loader(dataset) as loader:
        return [list(loader) for _ in range(EPOCHS)]


def test_normalising_together_with_mixing_gives_the_same_images(dataset, monkeypatch):
    """As on a GPU with Triton, where one launch does both; here PyTorch's kernels do."""
    scale = {"mean": (0.4, 0.5, 0.3), "std": (0.2, 0.25, 0.3)}
    with make_loader(dataset, epochs=1, **scale) as loader:
        wanted = list(loader)
    together = []

    def recorded(*given):
        together.append(given)
        return mix_and_normalise(*given)

    monkeypatch.setattr("kdcache.loader.loader.runs_on", lambda device: True)
    monkeypatch.setattr("kdcache.views.stream.mix_and_normalise", recorded)
    with make_loader(dataset, epochs=1, **scale) as loader:
        require_equal(list(loader), wanted)
    assert len(together) >= len(wanted)


def test_the_batches_are_those_of_kdcache_train(job, dataset, tmp_path):
    seen, train_step = [], Trainer.train_step

    def keep(self, batch):
        seen.append(batch)
        return train_step(self, batch)

    request = train_request(
        job.data, tmp_path / "run", cache=str(job.cache), epochs=EPOCHS, renderer="pillow",
        overrides=(f"batch_size={BATCH}", f"views.count={VIEWS}"),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", keep)
        train(request)
    eats = resolve_model_data_config(timm.create_model(MODEL))
    with make_loader(dataset, mean=eats["mean"], std=eats["std"]) as loader:
        require_equal([batch for _ in range(EPOCHS) for batch in loader], seen)


def test_an_iteration_is_an_epoch_and_the_next_one_is_the_next_epoch(dataset, whole):
    with make_loader(dataset) as loader:
        assert (len(loader), loader.steps, loader.epoch) == (STEPS, EPOCHS * STEPS, 0)
        require_equal(list(loader), whole[0])
        assert (loader.epoch, loader.step) == (1, STEPS)
        loader.set_epoch(2)
        require_equal(list(loader), whole[2])
        with pytest.raises(UsageError, match="All 3 epochs"):
            iter(loader)
        loader.set_epoch(1)
        require_equal(list(loader), whole[1])


def test_an_iteration_that_was_broken_off_begins_anew(dataset, whole):
    with make_loader(dataset) as loader:
        for batch in loader:
            require_equal([batch], whole[0][:1])
            break
        loader.set_epoch(0)
        require_equal(list(loader), whole[0])


@pytest.mark.parametrize("done", [1, STEPS, STEPS + 2, 2 * STEPS + 1])
def test_a_restored_loader_goes_on_with_the_very_next_batch(dataset, whole, done):
    batches = [batch for epoch in whole for batch in epoch]
    with make_loader(dataset, start_step=done - 1) as loader:
        next(iter(loader))
        state = loader.state_dict()
    assert all(isinstance(value, int | str) for value in state.values())
    with make_loader(dataset, epochs=EPOCHS + 1) as loader:  # more epochs than were meant
        loader.load_state_dict(state)
        found = []
        for epoch in range(loader.epoch, EPOCHS):
            loader.set_epoch(epoch)
            found += list(loader)
        require_equal(found, batches[done:])


def test_a_state_holds_the_number_of_views(job, dataset, whole):
    """A cache that has got more views since does not change the batches of a loop that goes on."""
    with make_loader(dataset, start_step=2 * STEPS) as loader:
        state = loader.state_dict()
    with make_loader(open_cache(job.cache, data=job.data)) as loader:
        loader.load_state_dict(state)
        require_equal(list(loader), whole[2])
    with make_loader(open_cache(job.cache, data=job.data, views=1)) as loader, pytest.raises(UsageError, match="views"):
        loader.load_state_dict(state)


def test_two_processes_have_the_rows_of_one(dataset, whole):
    with make_loader(dataset, rank=0, world_size=2) as first, make_loader(dataset, rank=1, world_size=2) as second:
        assert len(first) == len(second) == STEPS
        for epoch in whole:  # of which the last shows views again
            for of_one, *of_two in zip(epoch, first, second, strict=True):
                together = [torch.cat(parts) for parts in zip(*map(content, of_two), strict=True)]
                order, own = torch.argsort(together[3]), torch.argsort(of_one.samples)
                for part, wanted in zip(together, content(of_one), strict=True):
                    assert torch.equal(part[order], wanted[own])


def test_a_rank_reserves_memory_for_its_own_rows_alone(dataset, monkeypatch):
    """DALI keeps memory for as many images as the renderer was opened for."""
    opened = []

    def noted(*arguments, **choice):
        opened.append(choice["max_batch"])
        return open_renderer(*arguments, **choice)

    monkeypatch.setattr("kdcache.loader.loader.open_renderer", noted)
    for world_size in (1, 2, 4):
        with make_loader(dataset, rank=world_size - 1, world_size=world_size) as loader:
            assert len(next(iter(loader))) == BATCH // world_size
    assert opened == [BATCH, BATCH // 2, BATCH // 4]


def test_rank_and_world_size_come_from_the_environment(dataset, monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with make_loader(dataset) as loader, make_loader(dataset, rank=1, world_size=2) as given:
        require_equal([next(iter(loader))], [next(iter(given))])
        assert len(next(iter(loader))) == BATCH // 2


def test_rank_and_world_size_come_from_torch_distributed(dataset, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        with pytest.MonkeyPatch.context() as patch, make_loader(dataset) as loader:
            patch.setenv("WORLD_SIZE", "7")  # torch.distributed says that there is one process
            assert len(next(iter(loader))) == BATCH
    finally:
        torch.distributed.destroy_process_group()


def test_closing_in_mid_epoch_leaves_no_thread_and_no_file_open(dataset):
    threads, files = set(threading.enumerate()), open_files()
    with make_loader(dataset) as loader:
        iteration = iter(loader)
        next(iteration)
        assert set(threading.enumerate()) > threads
        assert open_files() > files
    assert set(threading.enumerate()) <= threads
    assert open_files() <= files
    with pytest.raises(UsageError, match="one position"):
        next(iteration)


def test_two_loops_over_one_loader_are_refused(dataset):
    with make_loader(dataset) as loader:
        first, second = iter(loader), iter(loader)
        next(second)
        with pytest.raises(UsageError, match="one position"):
            next(first)


def test_images_may_have_another_size_than_the_teachers(dataset, whole):
    with make_loader(dataset, image_size=24) as loader:
        batch = next(iter(loader))
    assert batch.images.shape == (BATCH, 3, 24, 24)
    assert batch.images.dtype == torch.float32
    assert torch.equal(batch.samples, whole[0][0].samples)


def test_a_batch_knows_its_keys_and_its_soft_labels(dataset, whole):
    batch = whole[0][0]
    assert batch.keys == tuple(dataset.index.key(sample) for sample in batch.samples.tolist())
    soft = batch.soft_labels(CLASSES)
    assert soft.shape == (BATCH, CLASSES)
    assert torch.allclose(soft.sum(1), torch.ones(BATCH))
    own = soft.gather(1, batch.labels[:, :1])[:, 0]
    same = batch.labels[:, 0] == batch.labels[:, 1]
    assert torch.equal(own[~same], batch.mix_weight[~same])
    assert torch.allclose(batch.soft_labels(CLASSES, smoothing=0.4).min(1).values, torch.tensor(0.1))
    with pytest.raises(UsageError, match="not among the 2 classes"):
        batch.soft_labels(2)
    for smoothing in (-0.1, 1.5):
        with pytest.raises(UsageError, match="give a share from 0 to 1"):
            batch.soft_labels(CLASSES, smoothing=smoothing)


def test_rows_of_a_batch_are_taken_together(whole):
    batch, rows = whole[0][0], torch.tensor([5, 4, 0])
    taken = batch.take(rows)
    assert all(torch.equal(part, all_of[rows]) for part, all_of in zip(content(taken), content(batch), strict=True))
    assert taken.keys == tuple(batch.keys[row] for row in rows)
    assert len(taken) == len(taken.targets) == 3


def test_a_batch_is_printed_in_a_line(whole):
    assert repr(whole[0][0]) == f"Batch({BATCH} rows, images [{BATCH}, 3, {SIZE}, {SIZE}] on cpu, FullTargets)"


def test_a_batch_moves_to_another_device(whole):
    moved = whole[0][0].to("meta")
    assert {moved.images.device.type, moved.labels.device.type, moved.mix_weight.device.type} == {"meta"}
    assert moved.samples.device.type == "cpu"
    assert moved.targets.log_probs().device.type == "meta"


def test_targets_give_a_temperature_and_the_labels_probability(whole):
    batch = whole[0][0]
    log_probs = batch.targets.log_probs()
    cooler = torch.log_softmax(log_probs / 2, dim=1)
    assert torch.allclose(batch.targets.log_probs(temperature=2.0), cooler, atol=1e-6)
    of_labels = batch.targets.label_log_prob()
    known = batch.labels >= 0
    assert known.any()
    assert torch.allclose(of_labels[known], log_probs.gather(1, batch.labels.clamp(min=0))[known], atol=1e-6)
    assert of_labels[~known].isnan().all()


def test_the_dataset_tells_what_it_holds(job, dataset):
    assert (len(dataset), dataset.num_classes, dataset.num_views) == (SAMPLES, CLASSES, VIEWS)
    assert dict(dataset.entries) == {MODEL: 1.0}
    assert repr(dataset) == f"CachedDataset({SAMPLES} samples, {CLASSES} classes, {VIEWS} views, teacher {MODEL})"
    assert dataset.policy.reference_size == SIZE
    assert dataset.class_names == dataset.index.class_names
    assert open_cache(job.cache, data=job.data).num_views == 10
    assert dict(open_cache(Path(job.cache), data=job.data, teachers={MODEL: 2}).entries) == {MODEL: 1.0}


def test_what_is_to_be_told_goes_to_the_progress(job):
    heard = Heard()
    dataset = open_cache(job.cache, data=job.data, teachers={MODEL: 2.0}, progress=heard)
    assert "sum to 2" in heard.warned[0]
    make_loader(dataset, epochs=11).close()
    assert "11 epochs over 10 views" in heard.said[-1]


REFUSED = {
    "no cache": (lambda job, tmp: open_cache(tmp / "none", data=job.data), UsageError, "There is no cache"),
    "no such entry": (lambda job, tmp: open_cache(job.cache, data=job.data, teacher="x"), UsageError, "no teacher 'x'"),
    "two choices": (
        lambda job, tmp: open_cache(job.cache, data=job.data, teacher=MODEL, teachers={MODEL: 1}),
        UsageError,
        "give one of them",
    ),
    "no weight": (lambda job, tmp: open_cache(job.cache, data=job.data, teachers={MODEL: 0}), UsageError, "above 0"),
    "a name with a comma": (
        lambda job, tmp: open_cache(job.cache, data=job.data, teachers={"a,b": 1}),
        UsageError,
        "no teacher 'a,b'",
    ),
    "no weights": (
        lambda job, tmp: open_cache(job.cache, data=job.data, teachers=f"{MODEL}=1"),
        UsageError,
        "give names with weights, such as {'a'",
    ),
    "a weight in quotes": (
        lambda job, tmp: open_cache(job.cache, data=job.data, teachers={MODEL: "1"}),
        UsageError,
        "finite weight above 0",
    ),
    "part of a view": (lambda job, tmp: open_cache(job.cache, data=job.data, views=2.0), UsageError, "views is 2.0"),
    "too many views": (lambda job, tmp: open_cache(job.cache, data=job.data, views=11), UsageError, "from 1 to 10"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_cache_that_does_not_serve_is_refused(job, tmp_path, case):
    act, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        act(job, tmp_path)


def test_other_data_are_refused_by_name(job, tmp_path):
    from support.small_job import make_data

    with pytest.raises(IdentityError) as refused:
        open_cache(job.cache, data=make_data(tmp_path / "other", seed=1))
    assert refused.value.field == "fingerprint"


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"batch_size": 25}, "whole pairs"),
        ({"batch_size": 26, "rank": 0, "world_size": 2}, "multiple of 4"),
        ({"batch_size": 200}, "give a smaller batch_size"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"rank": 1}, "belong together"),
        ({"rank": 2, "world_size": 2}, "rank is 2"),
        ({"image_size": 0}, "image_size is 0"),
        ({"start_step": EPOCHS * STEPS + 1}, "start_step is 16"),
        ({"renderer": "none"}, "no renderer 'none'"),
        ({"device": "tpu"}, "no device called 'tpu'"),
        ({"std": (1.0, 1.0, 0.0)}, "std above 0"),
        ({"mean": 0.5}, "mean is 0.5: give one number for each of three channels"),
        ({"mean": (0.5, 0.5, float("nan"))}, "mean is .*nan.*: give one number for each"),
        ({"std": "abc"}, "std is 'abc': give one number for each"),
        ({"batch_size": 24.0}, "batch_size is 24.0: give a whole number"),
        ({"batch_size": "24"}, "batch_size is '24': give a whole number"),
        ({"epochs": 1.5}, "epochs is 1.5: give a whole number"),
        ({"image_size": (3, 32, 32)}, r"image_size is .*32.*: give a whole number"),
        ({"rank": "0", "world_size": 2}, "rank is '0': give a whole number"),
        ({"start_step": 0.5}, "start_step is 0.5: give a whole number"),
    ],
)
def test_a_loader_that_makes_no_sense_is_refused(dataset, choice, message):
    with pytest.raises(UsageError, match=message):
        make_loader(dataset, **choice)


def test_whole_numbers_of_numpy_leave_a_state_of_plain_numbers(dataset, whole):
    settings = {"batch_size": np.int64(BATCH), "epochs": np.int32(EPOCHS), "start_step": np.int64(1)}
    with make_loader(dataset, **settings) as loader:
        loader.set_epoch(np.int64(1))
        next(iter(loader))
        state = loader.state_dict()
    assert {type(value) for value in state.values()} == {int, str}
    with make_loader(dataset) as loader:
        loader.load_state_dict(state)
        require_equal([next(iter(loader))], whole[1][1:2])


def test_an_epoch_or_a_state_that_makes_no_sense_is_refused(dataset):
    with make_loader(dataset) as loader:
        state = loader.state_dict()
        for epoch in (-1, EPOCHS, 1.5, "1"):
            with pytest.raises(UsageError, match="epochs 0 to 2"):
                loader.set_epoch(epoch)
        with pytest.raises(UsageError, match="no state of a loader"):
            loader.load_state_dict({"step": 1})
        with pytest.raises(UsageError, match=r"no state of a loader: None\. Give what state_dict returned"):
            loader.load_state_dict(None)
        with pytest.raises(UsageError, match="give as many epochs"):
            loader.load_state_dict({**state, "step": 10_000})
    with make_loader(dataset, batch_size=26) as other, pytest.raises(IdentityError, match="another batch_size"):
        other.load_state_dict(state)

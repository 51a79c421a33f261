"""The numbers of a run: for each epoch and every few steps, in tables, TensorBoard and on the progress bar."""

import csv
from contextlib import nullcontext

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kdcache.training.epoch import Clock
from kdcache.training.train import train
from support.small_job import Heard, stopped_after, train_request

EVERY_TWO = ("log_steps=2",)


def rows_of(file):
    with file.open() as opened:
        return list(csv.DictReader(opened))


def events_of(run, name):
    accumulator = EventAccumulator(str(run / "events"))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(name)]


class Shown(Heard):
    """A progress that remembers what its tasks were told."""

    def __init__(self):
        super().__init__()
        self.shown = []
        self.task = lambda *_, **__: nullcontext(self)

    def advance(self, count=1, **values):
        self.shown.append(values)


@pytest.fixture(scope="module")
def logged(job, tmp_path_factory):
    """A run with a row every two steps: its folder, its report, and what was shown."""
    out, shown = tmp_path_factory.mktemp("logged") / "run", Shown()
    request = train_request(job.data, out, cache=str(job.cache), epochs=2, overrides=EVERY_TWO)
    return out, train(request, shown, keep_losses=True), shown.shown


def test_steps_have_rows_with_the_mean_loss_since_the_last_row(logged):
    out, report, _ = logged
    rows = rows_of(out / "steps.csv")
    assert [(row["step"], row["epoch"]) for row in rows] == [
        ("2", "1"),
        ("4", "1"),
        ("6", "2"),
        ("8", "2"),
        ("10", "2"),
    ]
    means = [(first + second) / 2 for first, second in zip(report.losses[::2], report.losses[1::2], strict=True)]
    assert [float(row["loss"]) for row in rows] == pytest.approx(means)
    assert events_of(out, "step/loss") == [(2 * at + 2, pytest.approx(mean)) for at, mean in enumerate(means)]
    assert events_of(out, "step/lr")[0][1] == pytest.approx(float(rows[0]["lr"]))


def test_epochs_and_steps_have_speed_waiting_and_memory(logged):
    out, _, shown = logged
    for row in [*rows_of(out / "metrics.csv"), *rows_of(out / "steps.csv")]:
        assert float(row["images_per_s"]) > 0
        assert 0 < float(row["wait_share"]) < 1
        assert int(row["memory_bytes"]) > 1_000_000
    assert len(events_of(out, "wait_share")) == 2
    last = shown[9]
    assert set(last) == {"epoch", "step", "lr", "loss_this_epoch", "wait_share", "memory_bytes"}
    assert (last["epoch"], last["step"]) == (2, 10)
    assert shown[0] == {}, "nothing waits for the device in each step"


def test_a_run_that_was_stopped_between_two_rows_ends_with_the_rows_of_an_uninterrupted_one(job, logged, tmp_path):
    out, _, _ = logged
    request = train_request(job.data, tmp_path / "run", cache=str(job.cache), epochs=2, overrides=EVERY_TWO)
    with stopped_after(7):
        train(request)
    train(request)
    for name in ("loss", "lr", "epoch"):
        ours, theirs = ([row[name] for row in rows_of(run / "steps.csv")] for run in (tmp_path / "run", out))
        assert ours == theirs
        assert events_of(tmp_path / "run", f"step/{name}") == events_of(out, f"step/{name}")


def test_a_clock_tells_the_share_that_waited_and_leaves_pauses_out(monkeypatch):
    now = 100.0
    monkeypatch.setattr("kdcache.training.epoch.time.perf_counter", lambda: now)

    def batches():
        nonlocal now
        for _ in range(2):
            now += 1
            yield "batch"

    clock = Clock()
    start = clock.reading()
    clock.go_on()
    for _ in clock.waited_for(batches()):
        now += 3
        clock.count(10)
    assert clock.reading().since(start) == {"images_per_s": 2.5, "wait_share": 0.25}
    clock.pause()
    now += 1000
    clock.go_on()
    assert clock.reading().since(start)["images_per_s"] == 2.5
    assert clock.images_per_s == 2.5

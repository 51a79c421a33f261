"""`train --dry-run` tells what a training would do, refuses what it would refuse, and writes nothing."""

import weakref
from pathlib import Path

import pytest

from kdcache.cache.entry import Entry
from kdcache.cache.store import Cache
from kdcache.errors import ConfigError, RunError, UsageError
from kdcache.io.folder_lock import FolderHeldError
from kdcache.loader.schedule import Schedule
from kdcache.training.dry_run import plot, targets_bytes
from kdcache.training.run_folder import RunFolder
from kdcache.training.train import train
from support.forked import CONTEXT
from support.small_job import Heard, make_data, stopped_after, train_request, tree_bytes


def everything_below(folder):
    """Folders and files with the times of their last change, by which a lock that came and went is seen, and bytes."""
    return [(path, path.stat().st_mtime_ns) for path in [folder, *sorted(folder.rglob("*"))]], tree_bytes(folder)


def planned(job, out, **choice):
    return train(train_request(job.data, out, cache=str(job.cache), dry_run=True, **choice), Heard())


def test_a_dry_run_tells_the_plan_and_writes_nothing(job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = Path(job.data).parent
    before = everything_below(root), everything_below(tmp_path)
    report = planned(job, None, epochs=3, val=job.data)
    assert (everything_below(root), everything_below(tmp_path)) == before
    lines = report.lines()
    assert "  batch_size: 26" in lines
    assert "Steps: 3 epochs of 5 steps of 26 images, 15 steps in all." in lines
    assert report.plan.steps == 15
    assert report.steps == 0
    assert any(line.startswith("Memory of cache reading: up to about") for line in lines)
    assert lines[-1].startswith("Dry run: nothing would be refused. Nothing was written to runs/")


def test_the_rates_of_a_dry_run_are_those_of_the_training(job, tmp_path):
    choice = {"overrides": ("schedule.warmup_epochs=1", "schedule.min_lr=0.0001"), "epochs": 3}
    plan = planned(job, tmp_path / "run", **choice).plan
    assert len(plan.learning_rates) == 15
    train(train_request(job.data, tmp_path / "run", cache=str(job.cache), **choice))
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[1:]
    assert [float(row.split(",")[2]) for row in rows] == [plan.learning_rates[step] for step in (4, 9, 14)]


def test_a_dry_run_of_a_run_that_was_stopped_tells_where_it_goes_on(job, tmp_path):
    with stopped_after(7):
        train(train_request(job.data, tmp_path / "run", cache=str(job.cache), epochs=3))
    before = everything_below(tmp_path)
    line = f"{tmp_path / 'run'} holds a run that would go on after step 7."
    assert line in planned(job, tmp_path / "run", epochs=3).lines()
    assert line not in planned(job, tmp_path / "run", epochs=3, fresh=True).lines()
    with pytest.raises(RunError, match=r"another schedule\.epochs"):
        planned(job, tmp_path / "run", epochs=4)
    assert everything_below(tmp_path) == before


@pytest.mark.parametrize(
    ("choice", "error", "says"),
    [
        ({"overrides": ("optimizer.name=none-such",)}, ConfigError, "timm makes no optimiser"),
        ({"overrides": ("batch_size=200",)}, UsageError, "larger than"),
        ({"teacher": "nobody"}, UsageError, "holds no teacher 'nobody'"),
        ({"overrides": ("views.seed=1",)}, ConfigError, "views are those of the cache"),
    ],
)
def test_what_a_training_refuses_a_dry_run_refuses(job, tmp_path, choice, error, says):
    with pytest.raises(error, match=says):
        planned(job, tmp_path / "run", epochs=1, **choice)
    assert list(tmp_path.iterdir()) == []


def test_data_without_an_index_are_refused_and_get_none(tmp_path):
    data = make_data(tmp_path / "data", images=20, shards=1)
    before = everything_below(tmp_path)
    with pytest.raises(UsageError, match="kdcache index"):
        train(train_request(data, tmp_path / "run", supervised=True, dry_run=True, epochs=1))
    assert everything_below(tmp_path) == before


def held_elsewhere(folder, is_held, may_end):
    with RunFolder(folder).hold(print):
        is_held.set()
        may_end.wait(60)


def test_a_folder_that_another_process_trains_in_is_refused(job, tmp_path):
    is_held, may_end = CONTEXT.Event(), CONTEXT.Event()
    owner = CONTEXT.Process(target=held_elsewhere, args=(tmp_path / "run", is_held, may_end))
    owner.start()
    try:
        assert is_held.wait(60)
        with pytest.raises(FolderHeldError, match="is being written by"):
            planned(job, tmp_path / "run", epochs=1)
    finally:
        may_end.set()
        owner.join()
    assert owner.exitcode == 0
    planned(job, tmp_path / "run", epochs=1)


@pytest.mark.parametrize(("views", "epochs"), [(10, 10), (2, 12)])
def test_cache_reading_takes_no_more_memory_than_told(job, views, epochs, monkeypatch):
    """Counted in chunks that are alive while batches are taken, in order and where views are seen again."""
    from kdcache.cache.stream import stream_targets

    cache = Cache.open(str(job.cache))
    entry = cache.entry(cache.names()[0])
    alive, most, read_chunk = weakref.WeakSet(), 0, Entry.read_chunk

    def noted(self, view, chunk):
        targets = read_chunk(self, view, chunk)
        alive.add(targets)
        return targets

    monkeypatch.setattr(Entry, "read_chunk", noted)
    schedule = Schedule(entry.layout.samples, views, 1, 26, epochs, entry.layout.block_rows, 0)
    for _ in stream_targets(entry, ((rows.view, rows.row) for rows in schedule.batches())):
        most = max(most, len(alive))
    chunk_bytes = sum(spec.nbytes for spec in entry.codec.arrays(entry.layout.chunk_rows).values())
    assert 0 < most * chunk_bytes <= targets_bytes(entry, schedule, 1)


def test_a_plot_has_a_column_for_each_value_and_its_largest_one_on_top():
    assert plot([0.0, 0.5, 1.0, 0.5, 0.0], 3, left="a", right="b") == [
        "  1 |  *",
        "    | * *",
        "  0 |*   *",
        "    +-----",
        "     a   b",
    ]
    assert plot([0.0], 2, left="first", right="last")[-1].split() == ["first", "last"]
    assert all("nan" not in line for line in plot([0.0, 0.0], 2, left="a", right="b"))

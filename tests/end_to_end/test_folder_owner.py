"""Whoever writes a folder holds it: of two jobs with one folder one is refused, and a killed one holds nothing."""

import csv
import os
import re
import socket
import subprocess
import sys

import pytest

from kdcache.data.importers.fashion_mnist import import_fashion_mnist
from kdcache.data.importers.folder import import_folder
from kdcache.data.index import build_index, open_index
from kdcache.data.part import write_part
from kdcache.data.places import hold_index
from kdcache.demo.demo import demo
from kdcache.errors import FolderHeldError
from kdcache.inspection.check import check
from kdcache.inspection.copy import CopyOptions, copy_cache
from kdcache.inspection.preview import PreviewOptions, preview
from kdcache.inspection.verify import VerifyOptions, verify
from kdcache.io.folder_lock import OWNER_FILE
from kdcache.runtime.progress import silent
from kdcache.training.run_folder import RunFolder
from kdcache.training.train import train
from support.command_line import kdcache
from support.images import small_photographs
from support.small_cache import fill, open_entry
from support.small_job import MODEL, SETTINGS, Heard, make_data, train_request, tree_bytes
from support.stuck_jobs import ReachedError, Watched, raise_reached, stuck


def content(folder):
    """Every file below a folder but for locks, whose owners show signs of life."""
    return {name: data for name, data in tree_bytes(folder).items() if OWNER_FILE not in name}


def refused(process):
    """The refusal that names a process."""
    return pytest.raises(FolderHeldError, match=f"process {process.pid} on {re.escape(socket.gethostname())} ")


@pytest.fixture
def shards(tmp_path):
    return make_data(tmp_path / "shards", images=24)


def an_import(tmp_path, shards):
    for number, photograph in enumerate(small_photographs(8)):
        file = tmp_path / "tree" / f"class{number % 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(photograph)
    return import_folder, (tmp_path / "tree", tmp_path / "out"), {}


def a_fashion_mnist(tmp_path, shards):
    return import_fashion_mnist, (tmp_path / "out",), {"split": "test", "source": "sample", "limit": 40}


def an_index(tmp_path, shards):
    return build_index, (shards,), {"workers": 1}


def a_check(tmp_path, shards):
    return check, (shards,), {"renderer": "pillow"}


def a_copy(tmp_path, shards):
    fill(open_entry(tmp_path / "source"), 2)
    return copy_cache, (CopyOptions(str(tmp_path / "source"), str(tmp_path / "copy")),), {}


def a_repair(tmp_path, shards):
    fill(open_entry(tmp_path / "cache"), 2)
    return verify, (VerifyOptions(str(tmp_path / "cache"), repair=True),), {}


def a_demo(tmp_path, shards):
    return demo, (tmp_path / "demo",), {"limit": 40, "epochs": 2}


@pytest.mark.parametrize("make", [an_import, a_fashion_mnist, an_index, a_check, a_copy, a_repair, a_demo])
def test_the_second_is_refused_and_changes_nothing_and_a_killed_one_holds_nothing(make, tmp_path, shards):
    job, arguments, choice = make(tmp_path, shards)
    with stuck(tmp_path, 1, job, *arguments, **choice) as first:
        before = content(tmp_path)
        with refused(first):
            job(*arguments, **choice)
        assert content(tmp_path) == before
    heard = Heard()
    if job is demo:
        with pytest.raises(ReachedError):
            job(*arguments, progress=Watched(1, raise_reached), **choice)
    else:
        job(*arguments, progress=heard, **choice)
    assert not any("waiting" in line for line in heard.said + heard.warned)
    assert list(tmp_path.rglob(f"*{OWNER_FILE}*")) == []


def test_two_previews_of_one_file(tmp_path, shards):
    request = PreviewOptions(data=shards, out=tmp_path / "sheet.png", images=2, views=1, renderer="pillow", size=32)
    other = PreviewOptions(data=shards, out=tmp_path / "other.png", images=2, views=1, renderer="pillow", size=32)
    open_index(shards)
    with stuck(tmp_path, 0, preview, request) as first:
        with refused(first):
            preview(request)
        preview(other)
    preview(request)
    assert sorted(path.suffix for path in tmp_path.glob("*.png")) == [".png", ".png"]


def test_two_parts_in_one_folder(tmp_path, shards):
    index = open_index(shards)
    with hold_index(tmp_path / "part", silent), pytest.raises(FolderHeldError, match=f"process {os.getpid()} on"):
        write_part(index, 0.5, tmp_path / "part")
    assert not (tmp_path / "part").exists()
    assert len(write_part(index, 0.5, tmp_path / "part")) == 12


def test_who_needs_an_index_waits_for_the_one_that_is_being_built(tmp_path, shards):
    """All ranks of a job open it at the same time."""
    with stuck(tmp_path, 1, open_index, shards, workers=1) as first:
        second = subprocess.Popen(
            [sys.executable, "-m", "kdcache_cli", "index", shards],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        line = second.stderr.readline()
        assert f"is being written by process {first.pid} on" in line
        assert "waiting until it has ended" in line
    out, err = second.communicate()
    assert second.returncode == 0, err
    assert "24 samples" in out


def test_two_trainings_of_one_run_folder(job, tmp_path):
    out = tmp_path / "run"
    request = train_request(job.data, out, cache=str(job.cache), epochs=3, val=job.data)
    command = ("train", "--student", MODEL, "--data", job.data, "--cache", job.cache, "--val", job.data, "--out", out,
               "--recipe", "fashion-mnist", "--epochs", "3", "--device", "cpu")  # fmt: skip
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    with stuck(tmp_path, 7, train, request) as first:
        before = content(out)
        done = kdcache(*command, *settings)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"error: The run folder {out} is being written by process {first.pid} on ")
        assert done.stderr.endswith("give another --out.\n")
        assert "Traceback" not in done.stderr
        for other in ({"fresh": True}, {"epochs": 2}, {"seed": 5, "fresh": True}, {"supervised": True, "cache": None}):
            with refused(first):
                train(train_request(job.data, out, **{"cache": str(job.cache), "epochs": 3, **other}))
        assert content(out) == before
    assert (out / OWNER_FILE).exists()
    heard = Heard()
    report = train(request, progress=heard)
    assert report.steps == 15
    assert any("Going on from step 5" in line for line in heard.said), "at once, from the last checkpoint"
    with (out / "metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3"]
    assert not (out / OWNER_FILE).exists()


def test_a_refused_training_leaves_no_folder(job, tmp_path):
    with pytest.raises(FolderHeldError), RunFolder(tmp_path / "run").hold(pytest.fail):
        train(train_request(job.data, tmp_path / "run", cache=str(job.cache), epochs=3))
    assert not (tmp_path / "run").exists()


def test_a_training_that_was_taken_for_dead_stops(job, tmp_path, monkeypatch):
    from kdcache.io.folder_lock import FolderLock

    def lost(lock):
        raise FolderHeldError("taken over")

    monkeypatch.setattr(FolderLock, "require_held", lost)
    with pytest.raises(FolderHeldError, match="taken over"):
        train(train_request(job.data, tmp_path / "run", cache=str(job.cache), epochs=3))
    assert not (tmp_path / "run" / "checkpoints").exists()

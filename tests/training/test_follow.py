"""A training that follows a dump: it begins with the first views, waits for the others, and learns the very same."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdcache.cache.layout import record_key
from kdcache.dumping.dump import dump
from kdcache.errors import UsageError
from kdcache.inspection.copy import CopyOptions, copy_cache
from kdcache.runtime.signals import Interrupted
from kdcache.training.train import train
from support.forked import CONTEXT
from support.small_job import Heard, dump_request, train_request

VIEWS = 3


def request(job, out, cache, **choice):
    settings = {"cache": str(cache), "epochs": VIEWS, "renderer": "pillow", "follow": True}
    return train_request(job.data, out, **settings | choice)


def weights(out):
    return load_file(out / "export" / "model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def afterwards(job, tmp_path_factory) -> Path:
    """A training that began when all views were there."""
    out = tmp_path_factory.mktemp("afterwards") / "run"
    train(request(job, out, job.cache, follow=False))
    return out


class Dump:
    """A dump elsewhere: each time that somebody waits, one more view comes."""

    def __init__(self, job, cache: Path, monkeypatch, before: Callable[[int], None] = lambda waits: None):
        self.waits, self.views = 0, 0
        self._source, self._cache, self._before = str(job.cache), cache, before
        for room in ("kdcache.loader.following.pause", "kdcache.training.trainer.pause"):
            monkeypatch.setattr(room, self._pause)
        monkeypatch.setattr("kdcache.loader.following.PAUSE", 0.01)

    def _pause(self) -> None:
        self.waits += 1
        self._before(self.waits)
        copy_cache(CopyOptions(self._source, str(self._cache), views=str(self.views)))
        self.views += 1


def test_a_training_beside_a_dump_is_that_after_it(job, tmp_path, monkeypatch, afterwards):
    cache, heard = tmp_path / "cache", Heard()
    elsewhere = Dump(job, cache, monkeypatch)
    train(request(job, tmp_path / "run", cache), heard)
    assert elsewhere.views == VIEWS, "no more than the epochs need"
    assert same(weights(tmp_path / "run"), weights(afterwards))
    waited = [line for line in heard.said if line.startswith("Waiting for ")]
    assert [line.split(". ")[0] for line in waited] == [
        f"Waiting for a cache at {cache}",
        *(f"Waiting for view {view} of test_resnet, of which the cache has 0 of 5 blocks" for view in (1, 2)),
    ]
    assert all("kdcache dump-logits" in line for line in waited)


def test_a_signal_during_a_wait_saves_and_the_same_command_goes_on(job, tmp_path, monkeypatch, afterwards):
    def stop(waits: int) -> None:
        if waits == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    cache, heard = tmp_path / "cache", Heard()
    elsewhere = Dump(job, cache, monkeypatch, stop)
    with pytest.raises(Interrupted):
        train(request(job, tmp_path / "run", cache), heard)
    assert elsewhere.waits == 2
    assert any(line.startswith("Saved after step ") for line in heard.said)
    train(request(job, tmp_path / "run", cache))
    assert same(weights(tmp_path / "run"), weights(afterwards))


def test_blocks_of_one_view_are_waited_for_one_by_one(job, tmp_path, monkeypatch, afterwards):
    """A view that is there in part is not begun, although threads read ahead in it."""
    cache = tmp_path / "cache"
    copy_cache(CopyOptions(str(job.cache), str(cache), views=f"0:{VIEWS}"))
    for block in (0, 3):
        (cache / record_key("test_resnet", 1, block)).unlink()
    heard = Heard()
    elsewhere = Dump(job, cache, monkeypatch)
    elsewhere.views = 1
    train(request(job, tmp_path / "run", cache), heard)
    assert elsewhere.waits == 1
    assert "Waiting for view 1 of test_resnet, of which the cache has 3 of 5 blocks." in "\n".join(heard.said)
    assert same(weights(tmp_path / "run"), weights(afterwards))


def test_a_real_dump_is_followed(job, tmp_path, monkeypatch, afterwards):
    monkeypatch.setattr("kdcache.loader.following.PAUSE", 0.05)
    cache = tmp_path / "cache"
    dumping = CONTEXT.Process(target=dump, args=(dump_request(job.data, cache, job.weights, job.policy, views=VIEWS),))
    dumping.start()
    try:
        train(request(job, tmp_path / "run", cache))
    finally:
        dumping.join()
    assert dumping.exitcode == 0
    assert same(weights(tmp_path / "run"), weights(afterwards))


def test_what_cannot_be_followed_is_refused(job, tmp_path):
    with pytest.raises(UsageError, match="--follow waits for targets"):
        train(request(job, tmp_path / "run", job.cache, supervised=True))
    with pytest.raises(UsageError, match="makes no sense"):
        train(request(job, tmp_path / "run", tmp_path / "none", teachers="a=,b"))
    with pytest.raises(UsageError, match="There is no cache"):
        train(request(job, tmp_path / "run", tmp_path / "none", dry_run=True))

"""The main job with its cache and its shards on a real S3 server: dump, resume, verify, train."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdcache.cache import held_store
from kdcache.cache.claims import BeatingClaims
from kdcache.cache.locations import hold_cache
from kdcache.cache.objects import ObjectFiles
from kdcache.cache.store import Cache
from kdcache.dumping.dump import dump
from kdcache.errors import FolderHeldError
from kdcache.evaluation.evaluate import EvaluateOptions, evaluate
from kdcache.inspection.copy import CopyOptions, copy_cache
from kdcache.inspection.inspect import InspectOptions, inspect
from kdcache.inspection.preview import PreviewOptions, preview
from kdcache.inspection.rerun import RerunOptions
from kdcache.inspection.verify import VerifyOptions, verify
from kdcache.training.train import train
from support.processes import rows_in, start_dump
from support.s3 import s3, s3_server, upload  # noqa: F401
from support.small_job import MODEL, dump_request, train_request, tree_bytes


def everything(url: str) -> dict[str, bytes]:
    """Every object by its key."""
    files = ObjectFiles(url)
    found = {}
    folders = [""]
    while folders:
        folder = folders.pop()
        for name in files.names(folder):
            key = f"{folder}/{name}".lstrip("/")
            data = files.get(key)
            if data is None:
                folders.append(key)
            else:
                found[key] = data
    return found


@pytest.mark.usefixtures("s3_server")
def test_cache_and_shards_on_s3_are_dumped_resumed_verified_and_trained_from(job, s3, tmp_path):  # noqa: F811
    def request(data, cache):
        return dump_request(data, cache, job.weights, job.policy, targets="topk", renderer="pillow")

    dump(request(job.data, tmp_path / "disk"))
    data = upload(Path(job.data), f"{s3}/train")
    url, log = f"{s3}/caches/one", tmp_path / "log"
    killed = start_dump(request(data, url), log)
    while rows_in(log) < 70:
        time.sleep(0.01)
        assert killed.is_alive()
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    begun = everything(url)
    recorded = {key: data for key, data in begun.items() if "/records/" in key}
    assert any(key.endswith("/0.json") for key in recorded)
    # What the dead one had claimed would be waited for, two minutes long.
    for key in begun:
        if key.startswith(".partial/"):
            ObjectFiles(url).delete(key)
    report = dump(request(data, url))
    assert report.written < report.blocks
    found = everything(url)
    assert found == tree_bytes(tmp_path / "disk")
    assert {key: found[key] for key in recorded} == recorded

    rerun = RerunOptions(data=data, teacher=MODEL, weights=job.weights, samples=30, device="cpu", renderer="pillow")
    assert verify(VerifyOptions(url, rerun=rerun)).whole
    assert Cache.open(url).entry(MODEL).complete_views() == 2

    students = []
    for name, shards, cache in (("s3", data, url), ("disk", job.data, str(tmp_path / "disk"))):
        train(train_request(shards, tmp_path / f"run-{name}", cache=cache, epochs=2, renderer="pillow"))
        students.append(load_file(tmp_path / f"run-{name}" / "export" / "model.safetensors"))
    one, other = students
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one), "where targets and images lie changes nothing"

    scores = [
        evaluate(EvaluateOptions(str(tmp_path / "run-disk"), shards, device="cpu")) for shards in (data, job.data)
    ]
    assert scores[0].loss == scores[1].loss
    found = [
        inspect(InspectOptions(cache, shards)).teachers[0].statistics
        for cache, shards in ((url, data), (url, job.data))
    ]
    assert found[0] is not None
    assert found[0] == found[1]
    sheet = PreviewOptions(data, tmp_path / "sheet.png", cache=url, renderer="pillow", images=2, views=2)
    assert preview(sheet).stat().st_size > 0


@pytest.mark.usefixtures("s3_server")
def test_a_second_copy_or_repair_of_a_cache_on_s3_is_refused(job, s3, monkeypatch):  # noqa: F811
    monkeypatch.setattr(held_store, "BeatingClaims", partial(BeatingClaims, heartbeat_interval=0.2))
    monkeypatch.setattr(held_store, "PAUSE", 0.1)
    url = f"{s3}/caches/held"
    with hold_cache(url, print, new=True):
        with pytest.raises(FolderHeldError, match=rf"process {os.getpid()} on .*\. Wait until it has ended"):
            copy_cache(CopyOptions(str(job.cache), url))
        with pytest.raises(FolderHeldError, match=f"The cache {url} is being written by process"):
            verify(VerifyOptions(url, repair=True))
        assert set(everything(url)) == {".partial/claim-cache"}
    copy_cache(CopyOptions(str(job.cache), url))
    assert verify(VerifyOptions(url, repair=True)).whole
    assert everything(url) == tree_bytes(job.cache)

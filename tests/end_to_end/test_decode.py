"""`--decode`: where images are decoded is chosen, refused at once where it cannot be, and noted with the targets."""

import re
from dataclasses import replace

import pytest

from kdcache.cache.store import Cache
from kdcache.dumping.dump import dump
from kdcache.errors import DeviceError
from kdcache.training.train import train
from support.small_job import MODEL, dump_request, train_request, tree_bytes


@pytest.mark.parametrize("renderer", ["dali", "pillow"])
def test_the_record_of_a_block_says_where_its_images_were_decoded(job, tmp_path, renderer):
    request = dump_request(job.data, tmp_path / "cache", job.weights, job.policy, views=1, renderer=renderer)
    dump(replace(request, decode="cpu"))
    provenance = Cache.open(tmp_path / "cache").entry(MODEL).record(0, 0).provenance
    assert re.fullmatch(rf"{renderer} [0-9.]+ cpu", provenance["renderer"])


@pytest.mark.parametrize(("renderer", "remedy"), [("dali", "--decode cpu"), ("pillow", "--renderer dali")])
def test_decoding_on_a_gpu_for_the_cpu_is_refused_before_anything_is_done(job, tmp_path, renderer, remedy):
    before = tree_bytes(tmp_path)
    asked = dump_request("no data is looked for", tmp_path / "cache", job.weights, job.policy, renderer=renderer)
    with pytest.raises(DeviceError, match=remedy):
        dump(replace(asked, decode="gpu"))
    training = train_request("no data is looked for", tmp_path / "run", supervised=True, renderer=renderer)
    with pytest.raises(DeviceError, match=remedy):
        train(replace(training, decode="gpu"))
    assert tree_bytes(tmp_path) == before

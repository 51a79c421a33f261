"""A view of policy `centre` is what `kdcache evaluate` shows the teacher."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from kdcache.cache.store import Cache
from kdcache.data.index import open_index
from kdcache.dumping.dump import dump
from kdcache.errors import IdentityError
from kdcache.evaluation.scoring import Computing, score
from kdcache.loader.opening import stored_views, views_as_evaluated, views_for_dump
from kdcache.models.load import load_model
from kdcache.models.network import Network
from kdcache.models.students import StudentOptions, create_student
from kdcache.training.export import export_model
from kdcache.views.policy import Policy
from kdcache.views.viewset import RowRange
from support.small_job import CLASSES, MODEL, SAMPLES, SIZE, Heard, dump_request, make_policy, tree_bytes


def make_teacher(folder, crop_pct, interpolation, crop_mode="center"):
    network = create_student(
        MODEL,
        num_classes=CLASSES,
        size=SIZE,
        seed=7,
        options=StudentOptions(crop_pct=crop_pct, interpolation=interpolation),
    )
    return export_model(folder, replace(network, card=replace(network.card, crop_mode=crop_mode)))


class Shown(torch.nn.Module):
    """Keeps what a model is shown, and computes nothing."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, inputs):
        self.batches.append(inputs)
        return torch.zeros(len(inputs), CLASSES)


@pytest.mark.parametrize("renderer", ["pillow", "dali"])
def test_a_dump_of_it_holds_the_targets_to_what_evaluate_shows(job, tmp_path, renderer):
    weights = make_teacher(tmp_path / "teacher", 0.8, "bilinear")
    heard = Heard()
    request = dump_request(job.data, tmp_path / "cache", weights, "centre", views=None, renderer=renderer)
    assert dump(request, heard).views == 1
    said = f"As {MODEL} is evaluated, views of centre are made with crop_pct 0.8, bilinear."
    assert said in heard.said
    assert not heard.warned

    index, cache = open_index(job.data), Cache.open(tmp_path / "cache")
    network = load_model(MODEL, weights)
    shown = Shown()
    score(Network(shown, network.card), index, Computing(torch.device("cpu"), batch_size=SAMPLES), name="shown")
    with torch.inference_mode():
        expected = network.module(torch.cat(shown.batches)).log_softmax(1)
    in_shards = np.lexsort((index.offset, index.shard))
    row_of = np.argsort(stored_views(cache, index).view_set.order(0))[in_shards]
    entry = cache.entry(MODEL)
    stored = torch.cat(
        [entry.read_block(0, block).log_probs(num_classes=CLASSES) for block in range(entry.layout.blocks)]
    )
    assert torch.allclose(stored[row_of], expected, atol=1e-5)  # batches differ, and with them last bits
    assert expected.std(0).min() > 1e-3, "the outputs must differ, or any order of rows would pass"


def test_the_same_dump_goes_on_and_another_teacher_is_warned_of_its_own_crop(job, tmp_path):
    weights = make_teacher(tmp_path / "teacher", 0.8, "bilinear")
    request = dump_request(job.data, tmp_path / "cache", weights, "centre", views=None, renderer="pillow")
    dump(request)
    before = tree_bytes(tmp_path / "cache")
    heard = Heard()
    assert dump(request, heard).written == 0
    assert not heard.warned
    assert any("centre with crop_pct 0.8, bilinear (seed 0)" in line for line in heard.said)
    assert tree_bytes(tmp_path / "cache") == before
    other = make_teacher(tmp_path / "other", 0.9, "bicubic")
    dump(dump_request(job.data, tmp_path / "cache", other, "centre", views=None, name="other"), heard)
    (warning,) = heard.warned
    assert warning.startswith(f"{MODEL} is evaluated at {SIZE} x {SIZE} pixels with crop_pct 0.9, bicubic, crop mode ")
    assert "The views are square, with crop_pct 0.8, bilinear" in warning
    assert warning.endswith("For those, use a new --cache with --policy centre.")


@pytest.mark.parametrize("choice", [{"crop_mode": "squash"}, {"crop_mode": "border"}, {"crop_pct": 1.25}])
def test_a_teacher_that_is_evaluated_in_another_way_is_warned_of(job, tmp_path, choice):
    weights = make_teacher(tmp_path / "teacher", **({"crop_pct": 0.8, "interpolation": "bilinear"} | choice))
    heard = Heard()
    dump(dump_request(job.data, tmp_path / "cache", weights, "centre", views=None, dry_run=True), heard)
    (warning,) = heard.warned
    name, value = next(iter(choice.items()))
    assert f"{name.replace('crop_mode', 'crop mode')} {value}" in warning
    assert "crop_pct 0.875, bicubic, crop mode center" in warning
    assert warning.endswith("Policy centre has no such views.")


def test_processes_that_start_together_make_the_same_views(job, tmp_path):
    """One of them finds the cache that another has made while it loaded its own teacher."""
    weights, cache = make_teacher(tmp_path / "teacher", 0.8, "bilinear"), str(tmp_path / "cache")
    heard = Heard()
    opened = views_for_dump(cache, open_index(job.data), "centre", None, heard)
    dump(dump_request(job.data, tmp_path / "cache", weights, "centre", views=None, renderer="pillow"))
    views = views_as_evaluated(opened, load_model(MODEL, weights).card, "centre", heard)
    assert not heard.warned
    Cache.ensure(cache, views.identity, views.view_set.windows)
    assert Policy.from_json(views.identity.policy) == views.view_set.policy


def test_a_cache_of_the_former_policy_keeps_its_meaning(job, tmp_path):
    """It cut first and resized then; its name is now that of another policy, which is never taken for it."""
    former = {"crop": "centre", "crop_pct": 0.875, "hflip": 0.0}
    policy = make_policy(tmp_path / "former.json", json.dumps(former))
    weights = make_teacher(tmp_path / "teacher", 0.8, "bilinear")
    dump(dump_request(job.data, tmp_path / "cache", weights, policy, views=None, renderer="pillow"))
    before = tree_bytes(tmp_path / "cache")
    cache, index = Cache.open(tmp_path / "cache"), open_index(job.data)
    assert cache.view_set.policy == former
    opened = stored_views(cache, index)
    plan = opened.view_set.rows(RowRange(0, 0, 2)).plan
    assert plan.crop_pct is None
    assert (plan.box[:, 2] == np.rint(0.875 * index.height.min())).all()

    request = dump_request(job.data, tmp_path / "cache", weights, None, views=None, renderer="pillow")
    heard = Heard()
    assert dump(request, heard).written == 0
    assert not heard.warned
    assert "Views of the cache's policy, crop centre, crop_pct 0.875, hflip 0.0 (seed 0)." in heard.said
    refused = r"policy centre as it was formerly, .*and centre was asked for: leave --policy out"
    with pytest.raises(IdentityError, match=refused) as error:
        dump(replace(request, policy="centre"))
    assert error.value.field == "policy.crop"
    assert tree_bytes(tmp_path / "cache") == before

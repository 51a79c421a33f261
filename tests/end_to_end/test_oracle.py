"""The oracle: training from a `full` float32 cache is training with the live teacher, bit for bit on a CPU."""

import dataclasses

import numpy as np
import pytest

from kdcache.dumping.dump import dump
from kdcache.training.train import train
from kdcache.views import viewset
from kdcache.views.plan import make_plan
from support.small_job import MODEL, dump_request, make_teacher, train_request

STEPS = 50  # ten epochs of five steps of 26 rows, out of 131


def losses_of(request):
    return train(request, keep_losses=True).losses


def live(job, out, **choice):
    settings = {"cache": str(job.cache), "online_teacher": MODEL, "teacher_weights": job.weights, "epochs": 10}
    return train_request(job.data, out, **(settings | choice))


@pytest.fixture(scope="module")
def from_cache(job, tmp_path_factory):
    losses = losses_of(train_request(job.data, tmp_path_factory.mktemp("cached"), cache=str(job.cache), epochs=10))
    assert len(losses) == STEPS
    assert len(set(losses)) == STEPS
    return losses


def test_the_losses_from_the_cache_are_those_of_the_live_teacher(job, from_cache, tmp_path):
    assert losses_of(live(job, tmp_path / "live")) == from_cache


def first_loss(job, out):
    """Return the first loss of a run of one epoch with the live teacher."""
    return losses_of(live(job, out, epochs=1))[0]


def test_the_first_loss_is_that_of_a_longer_run(job, from_cache, tmp_path):
    assert first_loss(job, tmp_path / "live") == from_cache[0]


def alter(monkeypatch, change):
    """Make every plan that is made from now on differ in one thing."""

    def altered(*args):
        return change(make_plan(*args))

    monkeypatch.setattr(viewset, "make_plan", altered)


def test_one_flip_would_show(job, from_cache, tmp_path, monkeypatch):
    def flip_the_first_row(plan):
        flip = plan.flip.copy()
        flip[0] = not flip[0]
        return dataclasses.replace(plan, flip=flip)

    alter(monkeypatch, flip_the_first_row)
    assert first_loss(job, tmp_path / "live") != from_cache[0]


def test_one_partner_would_show(job, from_cache, tmp_path, monkeypatch):
    whole_order = viewset.order

    def swap_two_partners(*args):
        samples = whole_order(*args).copy()
        samples[[1, 3]] = samples[[3, 1]]
        return samples

    monkeypatch.setattr(viewset, "order", swap_two_partners)
    assert first_loss(job, tmp_path / "live") != from_cache[0]


def test_a_teacher_of_another_size_than_the_student_is_equal_too(job, tmp_path):
    weights = make_teacher(tmp_path / "teacher", size=48)
    cache = tmp_path / "cache"
    dump(dump_request(job.data, cache, weights, job.policy, views=2))
    cached = losses_of(train_request(job.data, tmp_path / "cached", cache=str(cache), epochs=2))
    lived = losses_of(live(job, tmp_path / "live", cache=str(cache), teacher_weights=weights, epochs=2))
    assert lived == cached
    assert np.isfinite(cached).all()


def test_a_live_run_without_a_cache_has_views_and_a_teacher_of_its_own(job, tmp_path):
    request = live(job, tmp_path / "live", cache=str(tmp_path / "none"), epochs=1, overrides=("views.policy=crop",))
    assert len(losses_of(request)) == 5

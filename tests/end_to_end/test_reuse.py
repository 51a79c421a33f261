"""Repeated augmentation, and trainings that are longer than the cache: from the cache as with the teacher live."""

import numpy as np
import pytest

from kdcache.dumping.dump import dump
from kdcache.errors import ConfigError, UsageError
from kdcache.training.config import read_config
from kdcache.training.train import train
from support.small_job import MODEL, Heard, dump_request, make_data, make_policy, stopped_after, train_request

REPEATING = '{"auto_augment": "rand-m7-mstd0.5-inc1", "mixup": 0.2, "cutmix": 1.0, "reference_size": 32, "repeats": 3}'


@pytest.fixture(scope="module")
def repeating(job, tmp_path_factory):
    """A cache of two groups of three views."""
    root = tmp_path_factory.mktemp("repeating")
    policy = make_policy(root / "policy.json", REPEATING)
    dump(dump_request(job.data, root / "cache", job.weights, policy, views=6))
    return root / "cache"


def losses_of(job, out, cache, epochs, **choice):
    request = train_request(job.data, out, cache=str(cache), epochs=epochs, **choice)
    return train(request, keep_losses=True).losses


def live(job):
    return {"online_teacher": MODEL, "teacher_weights": job.weights}


def test_repeats_from_the_cache_are_those_of_the_live_teacher(job, repeating, tmp_path):
    """In the first cycle of the views, and in the second."""
    cached = losses_of(job, tmp_path / "cached", repeating, 8)
    count = ("views.count=6",)
    lived = losses_of(job, tmp_path / "live", repeating, 8, overrides=count, **live(job))
    assert len(cached) == 5 * 8
    # The live teacher pads other rows to its batch shape than the dump did: its last bits may differ.
    assert np.allclose(cached, lived, rtol=1e-4)


def test_a_cache_that_is_seen_again_gives_the_live_teachers_targets(job, tmp_path):
    dump(dump_request(job.data, tmp_path / "cache", job.weights, job.policy, views=2))
    cached = losses_of(job, tmp_path / "cached", tmp_path / "cache", 6)
    count = ("views.count=2",)
    lived = losses_of(job, tmp_path / "live", tmp_path / "cache", 6, overrides=count, **live(job))
    assert len(cached) == 30
    assert np.allclose(cached, lived, rtol=1e-4)


def test_a_training_in_its_second_cycle_resumes_at_the_very_step(job, repeating, tmp_path):
    whole = losses_of(job, tmp_path / "whole", repeating, 8)
    with stopped_after(33):
        losses_of(job, tmp_path / "run", repeating, 8)
    assert losses_of(job, tmp_path / "run", repeating, 8) == whole[33:]


def test_the_recipes_epochs_are_trained_however_few_views_there_are(job, tmp_path):
    data = make_data(tmp_path / "data", shards=1, images=26)  # a step an epoch
    dump(dump_request(data, tmp_path / "cache", job.weights, job.policy, views=2))
    heard = Heard()
    report = train(train_request(data, tmp_path / "run", cache=str(tmp_path / "cache")), heard)
    epochs = read_config(tmp_path / "run" / "config.yaml").schedule.epochs
    assert report.epochs == epochs > 2
    assert f"{epochs} epochs over 2 views: each is shown {epochs / 2:.3g} times, in new batches." in heard.said


def test_a_run_keeps_its_number_of_views_although_the_cache_has_grown(job, tmp_path):
    cache = tmp_path / "cache"
    dump(dump_request(job.data, cache, job.weights, job.policy, views=1))
    request = train_request(job.data, tmp_path / "run", cache=str(cache), epochs=2)
    assert train(request).epochs == 2
    dump(dump_request(job.data, cache, job.weights, job.policy, views=3))
    again = train(request)
    assert (again.epochs, again.images_per_s) == (2, None)
    assert read_config(tmp_path / "run" / "config.yaml").views.count == 1


def test_views_come_in_whole_groups(job, repeating, tmp_path):
    policy = make_policy(tmp_path / "policy.json", REPEATING)
    with pytest.raises(UsageError, match=r"--views is 4.*multiple of 3, such as 3"):
        dump(dump_request(job.data, tmp_path / "cache", job.weights, policy, views=4))
    with pytest.raises(ConfigError, match=r"views\.count is 4.*multiple of 3"):
        losses_of(job, tmp_path / "run", repeating, 2, overrides=("views.count=4",))


def test_a_policy_that_draws_nothing_has_one_view_unless_told(job, tmp_path):
    report = dump(dump_request(job.data, tmp_path / "cache", job.weights, "centre", views=None))
    assert report.views == 1
    heard = Heard()
    dump(dump_request(job.data, tmp_path / "more", job.weights, "centre", views=2, dry_run=True), heard)
    assert any("all 2 views are the same" in line for line in heard.warned)


def test_a_supervised_training_repeats_too(job, tmp_path):
    policy = make_policy(tmp_path / "policy.json", REPEATING)
    request = train_request(
        job.data, tmp_path / "run", supervised=True, epochs=4, overrides=(f"views.policy={policy}",)
    )
    assert train(request).steps == 20
    assert read_config(tmp_path / "run" / "config.yaml").views.count == 6

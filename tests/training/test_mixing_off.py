"""timm's mixup_off_epoch: the views of a training from an epoch on are not mixed, by the policy of the views.

Those of a cache are what they were dumped as.
"""

import pytest

from kdcache.data.index import open_index
from kdcache.errors import ConfigError
from kdcache.io.yaml_format import parse_yaml
from kdcache.loader.opening import new_views
from kdcache.runtime.progress import silent
from kdcache.training.config import load_config
from kdcache.training.train import train
from kdcache.training.trainer import Trainer
from kdcache.training.views import policy_of, with_view_count, with_views
from kdcache.views.policy import Policy
from support.small_job import train_request

MIXING = Policy(mixup=0.2, cutmix=1.0, repeats=3)


def config_of(*settings):
    return load_config("fashion-mnist", assignments=["schedule.epochs=9", *settings])


def views_of(job, policy):
    return new_views(open_index(job.data), policy, 0, silent)


def test_a_training_on_views_of_its_own_mixes_up_to_its_epoch(job, tmp_path, monkeypatch):
    kept, train_step = [], Trainer.train_step

    def noting(self, batch):
        kept.append((self.epoch, batch.mix_weight.min().item(), batch.mix_weight.max().item()))
        return train_step(self, batch)

    monkeypatch.setattr(Trainer, "train_step", noting)
    overrides = (f"views.policy={job.policy}", "mixup_off_epoch=1")
    train(train_request(job.data, tmp_path / "run", supervised=True, epochs=2, overrides=overrides))
    assert len(kept) == 10
    assert all(least < 1 for epoch, least, _ in kept if epoch == 0)
    assert all((least, most) == (1, 1) for epoch, least, most in kept if epoch == 1)
    written = parse_yaml((tmp_path / "run" / "config.yaml").read_bytes())
    assert (written["mixup_off_epoch"], written["views"]["policy"]["mixup_off_view"]) == (1, 1)


def test_the_views_of_a_cache_must_end_mixing_there(job, tmp_path):
    with pytest.raises(ConfigError, match=r"mixup_off_epoch is 1, and the views of the cache, .* are mixed to the end"):
        train(train_request(job.data, tmp_path / "run", cache=str(job.cache), overrides=("mixup_off_epoch=1",)))
    ending = views_of(job, Policy(mixup=0.2, mixup_off_view=6))
    for epoch in (0, 6):
        config = with_views(config_of(f"mixup_off_epoch={epoch}"), ending)
        assert config.views.policy == {"mixup": 0.2, "mixup_off_view": 6}
    with pytest.raises(ConfigError, match=r"are mixed up to view 6: leave it out, or dump .*`mixup_off_view: 7`"):
        with_views(config_of("mixup_off_epoch=7"), ending)
    with pytest.raises(ConfigError, match="are mixed in no epoch"):
        with_views(config_of("mixup_off_epoch=7"), views_of(job, Policy()))


def test_where_mixing_cannot_end_there_it_is_said():
    mixing = f"views.policy={MIXING.to_json()}"
    assert policy_of(config_of(mixing)) == MIXING
    assert policy_of(config_of(mixing, "mixup_off_epoch=6")).mixup_off_view == 6
    ending = f"views.policy={MIXING.to_json() | {'mixup_off_view': 6}}"
    assert policy_of(config_of(ending)) == policy_of(config_of(ending, "mixup_off_epoch=6"))
    for policy, epoch, message in (
        (mixing, 5, "mixup_off_epoch is 5, and .* 3 views of an image in each epoch.* give a multiple of 3"),
        (ending, 3, "views.policy mixes nothing from view 6 on: leave one of them out"),
        ("views.policy=crop", 3, "the policy of the views mixes nothing"),
        (mixing, -1, "mixup_off_epoch is -1: give a number at least 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            policy_of(config_of(policy, f"mixup_off_epoch={epoch}"))


def test_views_that_come_again_would_be_mixed_again(job):
    views = views_of(job, Policy(mixup=0.2, mixup_off_view=6))
    with pytest.raises(ConfigError, match="8 views of 9 epochs are shown again, the mixed ones too"):
        with_view_count(config_of("mixup_off_epoch=6", "views.count=8"), views, None, None)
    assert with_view_count(config_of("mixup_off_epoch=6"), views, None, None).views.count == 9

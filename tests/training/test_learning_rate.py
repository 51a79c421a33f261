"""Learning rates by schedule: what each step is taken with, and that a resumed run takes the same."""

import csv
import math
import os
import signal

import pytest
import torch
from timm.scheduler.cosine_lr import CosineLRScheduler

from kdcache.errors import ConfigError, RunError
from kdcache.training.learning_rate import LearningRate
from kdcache.training.sections import ScheduleConfig
from kdcache.training.train import train
from kdcache.training.trainer import Trainer
from support.small_job import stopped_after, train_request

STEPS = 5


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def rates(epochs, **settings):
    """The rate of each step of a training, and that after the last."""
    groups = optimizer()
    rate = LearningRate(groups, ScheduleConfig(epochs=epochs, **settings), STEPS, scored=True)
    found = [groups.param_groups[0]["lr"]]
    for step in range(1, epochs * STEPS + 1):
        assert rate.set(step) == found[-1], "the rate of the last step"
        found.append(groups.param_groups[0]["lr"])
    return found


def test_cosine_is_what_it_was_to_the_last_bit():
    groups = optimizer()
    usual = CosineLRScheduler(
        groups, 7 * STEPS, lr_min=1e-6, warmup_t=2 * STEPS, warmup_lr_init=1e-4, t_in_epochs=False
    )
    expected = []
    for step in range(7 * STEPS + 1):
        usual.step_update(step)
        expected.append(groups.param_groups[0]["lr"])
    assert rates(7, warmup_epochs=2, warmup_lr=1e-4, min_lr=1e-6) == expected


@pytest.mark.parametrize("on_updates", [True, False])
def test_step_and_multistep_decay_after_whole_epochs(on_updates):
    """The papers' 150, 180, 210 of 240 epochs leave 150 epochs at the peak."""
    every = rates(7, name="step", decay_epochs=2, decay_rate=0.5, on_updates=on_updates)
    assert every[:-1] == [0.5 ** (step // (2 * STEPS)) for step in range(7 * STEPS)]
    named = rates(7, name="multistep", decay_milestones=(2, 5), on_updates=on_updates)
    epochs = [step // STEPS for step in range(7 * STEPS)]
    assert named[:-1] == pytest.approx([0.1 ** ((epoch >= 2) + (epoch >= 5)) for epoch in epochs])


def test_a_rate_by_epoch_is_the_same_in_all_steps_of_an_epoch():
    found = rates(6, on_updates=False, min_lr=0.1)[:-1]
    cosine = [0.1 + 0.9 * (1 + math.cos(math.pi * epoch / 6)) / 2 for epoch in range(6)]
    assert found == pytest.approx([rate for rate in cosine for _ in range(STEPS)])


def test_poly_constant_and_the_cooldown():
    line = rates(4, name="poly", min_lr=0.2, cooldown_epochs=2)
    assert line == pytest.approx([max(1 - 0.8 * step / (2 * STEPS), 0.2) for step in range(4 * STEPS + 1)])
    assert rates(4, name="poly", decay_rate=2)[STEPS] == pytest.approx(0.75**2)
    still = rates(4, name="constant", warmup_epochs=1, warmup_lr=0.5)
    assert still == pytest.approx([0.5 + 0.5 * min(step / STEPS, 1) for step in range(4 * STEPS + 1)])


def test_plateau_falls_when_its_patience_ends_and_goes_on_from_its_state():
    settings = ScheduleConfig(epochs=9, name="plateau", patience_epochs=1, decay_rate=0.5, min_lr=0.2)
    scores = [0.5, 0.4, None, 0.3, 0.6, 0.5, 0.5, 0.5, 0.5]

    def play(groups, rate, epochs):
        found = []
        for epoch in epochs:
            rate.set(STEPS * (epoch + 1))
            rate.end_epoch(epoch + 1, scores[epoch])
            found.append(groups.param_groups[0]["lr"])
        return found

    groups = optimizer()
    whole = play(groups, LearningRate(groups, settings, STEPS, scored=True), range(9))
    assert whole == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2]
    stopped = optimizer()
    rate = LearningRate(stopped, settings, STEPS, scored=True)
    begun = play(stopped, rate, range(3))
    resumed = optimizer()
    resumed.load_state_dict(stopped.state_dict())
    again = LearningRate(resumed, settings, STEPS, scored=True)
    resumed.load_state_dict(stopped.state_dict())
    again.load(rate.state(), 3 * STEPS)
    assert begun + play(resumed, again, range(3, 9)) == whole
    with pytest.raises(
        RunError, match="falls by the top-1 on --val, and from here on it would by the loss: give --val"
    ):
        LearningRate(optimizer(), settings, STEPS, scored=False).load(rate.state(), 3 * STEPS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay_epochs": 30}, "decay_epochs is set, and the schedule cosine has no use for it: .* to step"),
        ({"name": "poly", "decay_milestones": (1, 2)}, "decay_milestones is set, and the schedule poly"),
        ({"name": "step"}, "The schedule step needs schedule.decay_epochs"),
        ({"name": "multistep", "decay_milestones": (2, 1)}, "each later than the one before"),
        ({"name": "constant", "cooldown_epochs": 1}, "set schedule.name to cosine or poly"),
        ({"cooldown_epochs": 9}, "leaves nothing of 9 epochs"),
        ({"name": "linear"}, "name is 'linear': give cosine or step or multistep"),
    ],
)
def test_settings_that_a_schedule_has_no_use_for_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        ScheduleConfig(epochs=9, **settings)


def column(run, name):
    with (run / "metrics.csv").open() as file:
        return [row[name] for row in csv.DictReader(file)]


PLATEAU = ("schedule.name=plateau", "schedule.patience_epochs=0", "schedule.decay_rate=0.5", "optimizer.lr=0.01")


def test_a_run_whose_rate_follows_its_scores_resumes_with_the_same_rates(job, tmp_path, monkeypatch):
    def request(name):
        return train_request(job.data, tmp_path / name, cache=str(job.cache), epochs=4, val=job.data, overrides=PLATEAU)

    train(request("whole"))
    rates = column(tmp_path / "whole", "lr")
    assert len(set(rates)) > 1
    with stopped_after(10):  # the epoch is saved, and its score and the row are still to come
        train(request("run"))
    complete = Trainer._complete_epoch

    def ended(self, report):  # the row is written, and the checkpoint is older than what the schedule was told
        complete(self, report)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_complete_epoch", ended)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(request("run"))
    monkeypatch.setattr(Trainer, "_complete_epoch", complete)
    train(request("run"))
    assert column(tmp_path / "run", "lr") == rates
    assert column(tmp_path / "run", "val_loss") == column(tmp_path / "whole", "val_loss")

"""What a live teacher computes stays on its device, and the host does not wait for it.

These tests need no GPU. Where the host must not wait for a device, they use PyTorch's device `meta`, whose
tensors have no values: code that reads one fails.
"""

from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from kdcache.errors import ModelError, UsageError
from kdcache.loader import live_teacher
from kdcache.loader.live_teacher import LiveTeacher, OutputChecks
from kdcache.models.teachers import Teacher, TeacherOutput
from kdcache.runtime.transfer import HostCopies
from kdcache.targets.full import FullCodec, FullTargets
from kdcache.targets.live import LiveTargets
from kdcache.views.stream import Views
from kdcache.views.viewset import Rows

ROWS, CLASSES, FEATURES = 4, 3, 5


class FixedTeacher(Teacher):
    """A teacher whose output lies on some device."""

    def __init__(self, log_probs: torch.Tensor) -> None:
        self.log_probs = log_probs

    def compute_output(self, pixels: torch.Tensor, *, features: bool, maps: Any) -> TeacherOutput:
        found = torch.zeros(ROWS, FEATURES, device=self.log_probs.device) if features else None
        return TeacherOutput(self.log_probs, found)


def live(log_probs: torch.Tensor, features: bool = False) -> LiveTeacher:
    return LiveTeacher(FixedTeacher(log_probs), FullCodec(CLASSES), "teacher", 8, features=features)


def views(label: int = 1) -> Views:
    rows = Mock(spec=Rows, labels=np.full((ROWS, 2), label, np.int64))
    return Views(rows, torch.zeros(ROWS, 3, 2, 2))


SOUND = torch.log_softmax(torch.randn(ROWS, CLASSES, generator=torch.Generator().manual_seed(0)), 1)


class Answers:
    """What a device says of its outputs: those in `there` are on the host; `asked` are those that were waited for."""

    def __init__(self) -> None:
        self.sound: list[bool] = []
        self.asked: list[int] = []
        self.there: set[int] = set()
        self.begun = 0

    def copy_to_host(self, tensors: list[torch.Tensor]) -> HostCopies:
        (asked,) = tensors
        assert asked.device.type == "meta"
        number, self.begun = self.begun, self.begun + 1
        return HostCopies((torch.tensor(self.sound[number]),), _Event(self, number))


class _Event:
    def __init__(self, answers: Answers, number: int) -> None:
        self._answers, self._number = answers, number

    def query(self) -> bool:
        return self._number in self._answers.there

    def synchronize(self) -> None:
        self._answers.asked.append(self._number)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    found = Answers()
    monkeypatch.setattr(live_teacher, "copy_to_host", found.copy_to_host)
    return found


@pytest.mark.parametrize("features", [False, True])
def test_targets_stay_on_the_device_and_nobody_waits_for_the_batch_that_runs(answers: Answers, features: bool) -> None:
    answers.sound = [True] * 3
    checks, teacher = OutputChecks(), live(SOUND.to("meta"), features)
    for batch in range(3):
        targets = teacher.compute_targets(views(), checks)
        kept = targets.targets if isinstance(targets, LiveTargets) else targets
        assert isinstance(kept, FullTargets)
        assert kept.stored.device.type == "meta"
        assert kept.label is not None
        assert kept.label.device.type == "meta"
        assert not features or targets.features().device.type == "meta"
        assert answers.asked == list(range(batch)), "only those before this one were waited for"
    checks.finish()
    checks.finish()
    assert answers.asked == [0, 1, 2]


def test_outputs_that_are_no_log_probabilities_are_refused_a_batch_later_at_the_latest(answers: Answers) -> None:
    answers.sound = [True, False, True]
    checks, teacher = OutputChecks(), live(SOUND.to("meta"))
    teacher.compute_targets(views(), checks)
    teacher.compute_targets(views(), checks)
    with pytest.raises(ModelError, match="not log-probabilities"):
        teacher.compute_targets(views(), checks)


def test_the_last_batch_is_checked_as_well(answers: Answers) -> None:
    answers.sound = [False]
    checks = OutputChecks()
    live(SOUND.to("meta")).compute_targets(views(), checks)
    with pytest.raises(ModelError, match="not log-probabilities"):
        checks.finish()


def test_a_check_that_is_there_is_looked_at_at_once(answers: Answers) -> None:
    answers.sound, answers.there = [False], {0}
    with pytest.raises(ModelError, match="not log-probabilities"):
        live(SOUND.to("meta")).compute_targets(views(), OutputChecks())


@pytest.mark.parametrize(
    ("log_probs", "label", "error"),
    [
        (SOUND.index_fill(0, torch.tensor([2]), torch.nan), 1, ModelError),
        (SOUND[:, :2], 1, ModelError),
        (SOUND, CLASSES, UsageError),
    ],
)
def test_on_the_cpu_every_batch_is_checked_before_a_student_sees_it(
    log_probs: torch.Tensor, label: int, error: type[Exception]
) -> None:
    with pytest.raises(error):
        live(log_probs).compute_targets(views(label), OutputChecks())


def test_on_the_cpu_targets_are_the_output_itself() -> None:
    targets = live(SOUND).compute_targets(views(), OutputChecks())
    assert targets.log_probs(num_classes=CLASSES) is SOUND
    assert torch.equal(targets.label_log_prob(), SOUND[:, [1, 1]])

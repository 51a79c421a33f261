"""What goes to a GPU goes from pinned memory, and nobody waits. Without one, torch is watched."""

import numpy as np
import pytest
import torch

from kdcache.runtime.transfer import array_to_device, copy_to_host, to_device
from kdcache.targets.full import FullTargets
from kdcache.targets.mixture import MixedTargets
from kdcache.targets.topk import keep_top

LABELS = torch.tensor([[0, -1], [1, 2]])
LOG_PROBS = torch.log_softmax(torch.tensor([[3.0, 1.0, 0.5], [0.2, 0.1, 2.0]]), 1)


@pytest.fixture
def copies(monkeypatch):
    """Of each copy: whether it came from pinned memory, and how it was asked for. No device is needed."""
    pinned, found = set(), []

    def pin_memory(tensor):
        pinned.add(id(tensor))
        return tensor

    def to(tensor, device, **options):
        found.append((id(tensor) in pinned, str(device), options))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(torch.Tensor, "to", to)
    return found


UNAWAITED = (True, "cuda:0", {"non_blocking": True})


def test_a_tensor_is_pinned_and_copied_behind_the_host(copies):
    to_device(torch.zeros(3), "cuda:0")
    assert copies == [UNAWAITED]


def test_on_the_cpu_it_is_the_same_tensor():
    tensor = torch.zeros(3)
    assert to_device(tensor, "cpu") is tensor


def test_an_array_is_pinned_and_copied_behind_the_host(copies):
    array_to_device(np.zeros(3), "cuda:0")
    assert copies == [UNAWAITED]


def test_on_the_cpu_an_array_shares_its_memory():
    array = np.zeros(3)
    array_to_device(array, "cpu")[1] = 2.0
    assert array[1] == 2.0


@pytest.mark.parametrize(
    ("targets", "tensors"),
    [
        (FullTargets(LOG_PROBS, LABELS), 2),
        (FullTargets(LOG_PROBS, None), 1),
        (keep_top(LOG_PROBS, LABELS, 2, 0.1), 6),
        (MixedTargets((FullTargets(LOG_PROBS, LABELS), keep_top(LOG_PROBS, LABELS, 2, 0.1)), (0.5, 0.5)), 8),
    ],
)
def test_targets_are_pinned_and_copied_behind_the_host(copies, targets, tensors):
    targets.to("cuda:0")
    assert copies == [UNAWAITED] * tensors


class OnGpu(torch.Tensor):
    """A tensor that says that it is on a GPU."""

    device = property(lambda self: torch.device("cuda:0"))  # type: ignore[assignment]


def test_results_come_back_behind_the_host_which_waits_for_one_event(copies, monkeypatch):
    seen = []

    class Event:
        def __init__(self, **options):
            seen.append(("made", options))

        def record(self, stream):
            seen.append(("recorded", stream, len(copies)))

        def synchronize(self):
            seen.append(("waited for",))

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")
    begun = copy_to_host([torch.zeros(3).as_subclass(OnGpu), torch.ones(2).as_subclass(OnGpu)])
    assert copies == [(False, "cpu", {"non_blocking": True})] * 2
    assert seen == [("made", {"blocking": True}), ("recorded", "the stream of cuda:0", 2)]
    zeros, ones = begun.wait()
    assert (zeros.sum(), ones.sum()) == (0, 2)
    assert seen[2:] == [("waited for",)]


def test_results_on_the_cpu_are_not_copied():
    tensor = torch.zeros(3)
    (found,) = copy_to_host([tensor]).wait()
    assert found is tensor

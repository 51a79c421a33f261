"""Full targets give back what the teacher said, bit for bit."""

import pytest
import torch

from kdcache.errors import CorruptError, UsageError
from kdcache.targets.full import FullCoding
from kdcache.targets.kinds import make_coding
from support.targets_contract import CLASSES, TargetsContract, answers, labels_for


class TestFull(TargetsContract):
    coding = FullCoding(CLASSES)
    label_error = 0.0


class TestEightBits(TargetsContract):
    coding = FullCoding(CLASSES, "uint8")
    label_error = 0.02


def test_the_bits_come_back() -> None:
    coding, said, labels = FullCoding(CLASSES), answers(50), labels_for(50)
    stored = coding.unpack(coding.pack(coding.keep(said, labels), 64), 50).with_labels(labels)
    assert torch.equal(stored.log_probs(CLASSES).view(torch.int32), said.view(torch.int32))


def rebuilt_in_8_bits(log_prob: torch.Tensor) -> torch.Tensor:
    rows, classes = log_prob.shape
    coding = make_coding("full", classes, dtype="uint8")
    kept = coding.keep(log_prob, torch.full((rows, 2), -1))
    return coding.unpack(coding.pack(kept, rows), rows).log_probs(classes)


@pytest.mark.parametrize("sharpness", [0.0, 0.5, 3.0, 20.0, 400.0])
def test_eight_bits_lose_less_than_a_thousandth(sharpness: float) -> None:
    said = answers(200, 1000, sharpness=sharpness).clamp(min=-1e4)
    rebuilt = rebuilt_in_8_bits(said)
    assert (said.exp() * (said - rebuilt)).sum(1).mean().item() < 1e-3
    near = said > said.amax(1, keepdim=True) - 23
    assert (said - rebuilt)[near].abs().max() <= 24 / 255 / 2 + 0.05  # half a step, and the shift to the sum of 1


def test_eight_bits_reach_24_nats_down() -> None:
    said = torch.log_softmax(torch.tensor([[0.0, -10.0, -30.0, -1000.0]]), 1)
    assert rebuilt_in_8_bits(said)[0].tolist() == pytest.approx([0.0, -10.0, -24.0, -24.0], abs=0.05)


@pytest.mark.parametrize("wrong", [(1.0, 0.1), (-1.0, -0.1), (-1.0, 9.0), (float("nan"), 0.1), (-1.0, float("inf"))])
def test_ranges_that_are_never_written_are_refused(wrong: tuple[float, float]) -> None:
    coding = FullCoding(CLASSES, "uint8")
    arrays = coding.pack(coding.keep(answers(4), labels_for(4)), 4)
    arrays["range"][:, 2] = wrong
    with pytest.raises(CorruptError, match="range"):
        coding.unpack(arrays, 4)


def test_a_temperature_is_applied_to_the_whole_answer() -> None:
    logits = torch.randn(8, CLASSES, generator=torch.Generator().manual_seed(0))
    kept = FullCoding(CLASSES).keep(torch.log_softmax(logits, 1), labels_for(8))
    assert torch.allclose(kept.log_probs(CLASSES, 4.0), torch.log_softmax(logits / 4, 1), atol=1e-6)


def test_chunks_of_many_classes_have_few_rows() -> None:
    assert FullCoding(1000).chunk_rows(131072) == 2048
    assert FullCoding(21841).chunk_rows(131072) == 64


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="float32"):
        make_coding("full", 10, dtype="float64")
    with pytest.raises(UsageError, match="parameter 'k'"):
        make_coding("full", 10, k=3)
    with pytest.raises(UsageError, match="topk, full or embedding"):
        make_coding("best", 10)
    with pytest.raises(UsageError, match="cannot be"):
        make_coding("topk", 10, k=True)

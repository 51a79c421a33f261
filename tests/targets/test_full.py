"""Full targets give back what the teacher said, bit for bit."""

import pytest
import torch

from kdcache.errors import CorruptError, UsageError
from kdcache.targets.full import FullCodec
from kdcache.targets.kinds import create_codec
from support.targets_contract import CLASSES, TargetsContract, labels_for, teacher_log_probs


class TestFull(TargetsContract):
    codec = FullCodec(CLASSES)
    label_error = 0.0


class TestEightBits(TargetsContract):
    codec = FullCodec(CLASSES, "uint8")
    label_error = 0.02


def test_the_bits_come_back() -> None:
    codec, said, labels = FullCodec(CLASSES), teacher_log_probs(50), labels_for(50)
    stored = codec.decode(codec.encode(codec.select(said, labels), 64), 50).with_labels(labels)
    assert torch.equal(stored.log_probs(num_classes=CLASSES).view(torch.int32), said.view(torch.int32))


def rebuilt_in_8_bits(log_prob: torch.Tensor) -> torch.Tensor:
    rows, classes = log_prob.shape
    codec = create_codec("full", classes, dtype="uint8")
    kept = codec.select(log_prob, torch.full((rows, 2), -1))
    return codec.decode(codec.encode(kept, rows), rows).log_probs(num_classes=classes)


@pytest.mark.parametrize("sharpness", [0.0, 0.5, 3.0, 20.0, 400.0])
def test_eight_bits_lose_less_than_a_thousandth(sharpness: float) -> None:
    said = teacher_log_probs(200, 1000, sharpness=sharpness).clamp(min=-1e4)
    rebuilt = rebuilt_in_8_bits(said)
    assert (said.exp() * (said - rebuilt)).sum(1).mean().item() < 1e-3
    near = said > said.amax(1, keepdim=True) - 23
    assert (said - rebuilt)[near].abs().max() <= 24 / 255 / 2 + 0.05  # half a step, and the shift to the sum of 1


def test_eight_bits_reach_24_nats_down() -> None:
    said = torch.log_softmax(torch.tensor([[0.0, -10.0, -30.0, -1000.0]]), 1)
    assert rebuilt_in_8_bits(said)[0].tolist() == pytest.approx([0.0, -10.0, -24.0, -24.0], abs=0.05)


@pytest.mark.parametrize("wrong", [(1.0, 0.1), (-1.0, -0.1), (-1.0, 9.0), (float("nan"), 0.1), (-1.0, float("inf"))])
def test_ranges_that_are_never_written_are_refused(wrong: tuple[float, float]) -> None:
    codec = FullCodec(CLASSES, "uint8")
    arrays = codec.encode(codec.select(teacher_log_probs(4), labels_for(4)), 4)
    arrays["range"][:, 2] = wrong
    with pytest.raises(CorruptError, match="range"):
        codec.decode(arrays, 4)


def test_a_temperature_is_applied_to_the_whole_answer() -> None:
    logits = torch.randn(8, CLASSES, generator=torch.Generator().manual_seed(0))
    kept = FullCodec(CLASSES).select(torch.log_softmax(logits, 1), labels_for(8))
    assert torch.allclose(
        kept.log_probs(num_classes=CLASSES, temperature=4.0), torch.log_softmax(logits / 4, 1), atol=1e-6
    )


def test_chunks_of_many_classes_have_few_rows() -> None:
    assert FullCodec(1000).chunk_rows(131072) == 2048
    assert FullCodec(21841).chunk_rows(131072) == 64


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="float32"):
        create_codec("full", 10, dtype="float64")
    with pytest.raises(UsageError, match="parameter 'k'"):
        create_codec("full", 10, k=3)
    with pytest.raises(UsageError, match="use topk, "):
        create_codec("best", 10)
    with pytest.raises(UsageError, match="cannot be"):
        create_codec("topk", 10, k=True)

"""Full targets give back what the teacher said, bit for bit."""

import pytest
import torch

from kdcache.errors import UsageError
from kdcache.targets.full import FullCoding
from kdcache.targets.kinds import make_coding
from support.targets_contract import CLASSES, TargetsContract, answers, labels_for


class TestFull(TargetsContract):
    coding = FullCoding(CLASSES)
    label_error = 0.0


def test_the_bits_come_back() -> None:
    coding, said, labels = FullCoding(CLASSES), answers(50), labels_for(50)
    stored = coding.unpack(coding.pack(coding.keep(said, labels), 64), 50).with_labels(labels)
    assert torch.equal(stored.log_probs(CLASSES).view(torch.int32), said.view(torch.int32))


def test_a_temperature_is_applied_to_the_whole_answer() -> None:
    logits = torch.randn(8, CLASSES, generator=torch.Generator().manual_seed(0))
    kept = FullCoding(CLASSES).keep(torch.log_softmax(logits, 1), labels_for(8))
    assert torch.allclose(kept.log_probs(CLASSES, 4.0), torch.log_softmax(logits / 4, 1), atol=1e-6)


def test_chunks_of_many_classes_have_few_rows() -> None:
    assert FullCoding(1000).chunk_rows(131072) == 16384
    assert FullCoding(21841).chunk_rows(131072) == 512


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="float32"):
        make_coding("full", 10, dtype="float64")
    with pytest.raises(UsageError, match="parameter 'k'"):
        make_coding("full", 10, k=3)
    with pytest.raises(UsageError, match="topk or full"):
        make_coding("best", 10)
    with pytest.raises(UsageError, match="cannot be"):
        make_coding("topk", 10, k=True)

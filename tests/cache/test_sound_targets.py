"""Targets that are read are looked at: distributions without holes, and features that are numbers."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kdcache.cache.verify import check_targets
from kdcache.errors import CorruptError
from kdcache.inspection.verify import VerifyOptions, verify
from kdcache.targets.base import TargetCodec
from kdcache.targets.embedding import EmbeddingTargets
from kdcache.targets.full import FullTargets
from kdcache.targets.topk import TopKTargets
from support.small_cache import EMBEDDING, FULL, TOPK, fill, open_entry
from support.targets_contract import teacher_log_probs


def test_targets_have_to_be_distributions() -> None:
    sound = TOPK.select(teacher_log_probs(5, 12), torch.full((5, 2), -1))
    assert isinstance(sound, TopKTargets)
    check_targets(sound, 12)
    with pytest.raises(CorruptError, match="twice"):
        check_targets(replace(sound, class_id=torch.zeros_like(sound.class_id)), 12)
    for part in (replace(sound, tail=sound.tail + 0.1), replace(sound, prob=-sound.prob),
                 replace(sound, tail=sound.tail * torch.nan)):  # fmt: skip
        with pytest.raises(CorruptError, match="sum to 1"):
            check_targets(part, 12)
    full = FullTargets(teacher_log_probs(5, 12), None)
    check_targets(full, 12)
    with pytest.raises(CorruptError, match="sum to 1"):
        check_targets(FullTargets(full.stored + 0.1, None), 12)


@pytest.mark.parametrize("value", [-torch.inf, torch.nan])
def test_an_answer_in_full_has_a_probability_for_every_class(value: float) -> None:
    """One that is impossible makes a loss of infinity, and sums to 1 all the same."""
    stored = teacher_log_probs(5, 12)
    stored[2, 3] = -torch.inf
    stored = torch.log_softmax(stored, 1)
    stored[2, 3] = value
    with pytest.raises(CorruptError, match="NaN or infinite"):
        check_targets(FullTargets(stored, None), 12)


@pytest.mark.parametrize("codec", [replace(FULL, dtype="uint8"), EMBEDDING, replace(EMBEDDING, dtype="float16")],
                         ids=["full", "embedding", "embedding in half"])  # fmt: skip
def test_codes_are_looked_at_and_not_what_is_made_of_them(
    tmp_path: Path, codec: TargetCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is a distribution whatever they are; and the classifier of an embedding costs more than all else."""
    fill(open_entry(tmp_path, codec), 1)
    for kind in (EmbeddingTargets, FullTargets):
        monkeypatch.setattr(kind, "log_probs", lambda *_: pytest.fail("computed"))
    assert verify(VerifyOptions(cache=str(tmp_path))).whole


def test_codes_in_8_bits_stand_for_a_distribution() -> None:
    codec = replace(FULL, dtype="uint8")
    packed = codec.encode(FULL.select(teacher_log_probs(50, 12), torch.full((50, 2), -1)), 50)
    sound = codec.decode(packed, 50)
    assert sound.scale is not None
    check_targets(sound, 12)
    half = torch.tensor([-0.3, 0.0])
    for wrong in (replace(sound, scale=sound.scale + half), replace(sound, stored=sound.stored // 2),
                  replace(sound, scale=sound.scale + half / 0)):  # fmt: skip
        with pytest.raises(CorruptError, match="sum to 1"):
            check_targets(wrong, 12)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_features_are_numbers(value: float) -> None:
    sound = EMBEDDING.select(teacher_log_probs(5, 12), torch.full((5, 2), -1), teacher_log_probs(5, 12))
    check_targets(sound, 12)
    code = sound.code.clone()
    code[2, 3] = value
    with pytest.raises(CorruptError, match="NaN or infinite"):
        check_targets(replace(sound, code=code), 12)

import numpy as np
import pytest
import torch
from torch import Tensor

from kdcache.errors import CorruptError, ModelError, UsageError
from kdcache.targets.base import MAX_CHUNK_BYTES, Targets
from kdcache.targets.embedding import EmbeddingCodec, EmbeddingTargets
from kdcache.targets.error import coded, divergence
from kdcache.targets.head import Head
from kdcache.targets.kinds import create_codec
from support.targets_contract import CLASSES, TargetsContract, labels_for, teacher_log_probs

FEATURES = 20


def head_of(classes: int = CLASSES, features: int = FEATURES, seed: int = 0) -> Head:
    """A classifier with orthonormal columns of weights for as many features as there are classes, and biases."""
    rng = np.random.default_rng(seed)
    square, _ = np.linalg.qr(rng.standard_normal((max(classes, features),) * 2))
    weight = torch.from_numpy(square[:classes, :features]).float()
    return Head.of(weight, torch.from_numpy(rng.standard_normal(classes)).float())


def features_for(head: Head, said: Tensor) -> Tensor:
    """The smallest features that the classifier makes these log-probabilities of; float32 [rows, features]."""
    table = torch.from_numpy(head.table).double()
    return ((said.double() - table[:, -1]) @ torch.linalg.pinv(table[:, :-1]).T).float()


def coding_with(dtype: str, head: Head) -> EmbeddingCodec:
    classes, columns = head.table.shape
    return EmbeddingCodec(classes, columns - 1, dtype, head)


class EmbeddingContract(TargetsContract):
    """What is kept are features that a classifier makes the outputs of."""

    codec: EmbeddingCodec
    rounding = 1e-5

    def select(self, said: Tensor, labels: Tensor) -> Targets:
        assert self.codec.head is not None
        known = said[:, :CLASSES].nan_to_num(0.0, 0.0, 0.0)
        return self.codec.select(said, labels, features_for(self.codec.head, known))

    def test_features_come_back(self, kept: Targets) -> None:
        stored = self.stored(kept, labels_for(40))
        assert stored.features().dtype == torch.float32
        reach = kept.features().amax(1, keepdim=True) - kept.features().amin(1, keepdim=True)
        assert bool(((stored.features() - kept.features()).abs() <= 0.502 * reach / 255).all())
        assert torch.equal(stored[3:9].features(), stored.features()[3:9])
        assert torch.equal(stored.take(torch.tensor([5, 2])).features(), stored.features()[[5, 2]])

    @pytest.mark.parametrize("temperature", [0.5, 4.0, 20.0])
    def test_any_temperature_is_as_good_as_one(self, kept: Targets, temperature: float) -> None:
        exact = torch.log_softmax(teacher_log_probs(40) / temperature, 1)
        assert torch.allclose(kept.log_probs(num_classes=CLASSES, temperature=temperature), exact, atol=1e-5)
        stored = self.stored(kept, labels_for(40)).log_probs(num_classes=CLASSES, temperature=temperature)
        assert divergence(exact, stored).mean().item() < 5e-4

    def test_without_its_classifier_nothing_is_read(self, kept: Targets) -> None:
        bare = self.codec.with_tables({})
        with pytest.raises(CorruptError, match="classifier"):
            bare.decode(self.codec.encode(kept, 64), 40)

    @pytest.mark.parametrize("wrong", [None, torch.zeros(4, FEATURES + 1)])
    def test_other_features_than_the_classifier_takes_are_refused(self, wrong: Tensor | None) -> None:
        with pytest.raises(ModelError, match="20 were expected"):
            self.codec.select(teacher_log_probs(4), labels_for(4), wrong)

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e5])
    def test_features_that_are_no_numbers_are_refused(self, bad: float) -> None:
        features = torch.zeros(4, FEATURES)
        features[2, 3] = bad
        with pytest.raises(ModelError, match="cannot be stored"):
            self.codec.select(teacher_log_probs(4), labels_for(4), features)


class TestEightBits(EmbeddingContract):
    codec = coding_with("uint8", head_of())
    label_error = 0.02


class TestHalf(EmbeddingContract):
    codec = coding_with("float16", head_of())
    label_error = 0.002


class TestFewerFeaturesThanClasses:
    def test_they_are_enough_where_the_classifier_has_no_more(self) -> None:
        head = head_of(200, 16)
        features = torch.randn(50, 16, generator=torch.Generator().manual_seed(0)) * 3
        said = head.log_probs(features)
        codec = coding_with("uint8", head)
        rebuilt = coded(codec, said, torch.full((50, 2), -1), features)
        assert divergence(said, rebuilt).mean().item() < 5e-4
        assert sum(spec.nbytes for spec in codec.arrays(50).values()) == 50 * (16 + 8)


def test_features_of_one_value_are_kept() -> None:
    head = head_of()
    features = torch.full((3, FEATURES), 2.5)
    codec = coding_with("uint8", head)
    kept = codec.select(head.log_probs(features), torch.full((3, 2), -1), features)
    assert torch.equal(codec.decode(codec.encode(kept, 4), 3).features(), features)


@pytest.mark.parametrize("wrong", [(7e4, 0.1), (-1.0, -0.1), (-1.0, 600.0), (float("nan"), 0.1), (-1.0, float("inf"))])
def test_ranges_that_are_never_written_are_refused(wrong: tuple[float, float]) -> None:
    head = head_of()
    codec = coding_with("uint8", head)
    kept = codec.select(teacher_log_probs(4), labels_for(4), features_for(head, teacher_log_probs(4)))
    arrays = codec.encode(kept, 4)
    arrays["range"][:, 2] = wrong
    with pytest.raises(CorruptError, match="never written"):
        codec.decode(arrays, 4)


def test_half_precision_numbers_that_are_none_are_refused() -> None:
    head = head_of()
    codec = coding_with("float16", head)
    arrays = codec.encode(
        codec.select(teacher_log_probs(4), labels_for(4), features_for(head, teacher_log_probs(4))), 4
    )
    arrays["feature"][1, 1] = np.nan
    with pytest.raises(CorruptError, match="never written"):
        codec.decode(arrays, 4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e9])
def test_a_classifier_of_no_numbers_is_refused(bad: float) -> None:
    table = head_of().table.copy()
    table[3, 4] = bad
    with pytest.raises(CorruptError, match="classifier"):
        EmbeddingCodec(CLASSES, FEATURES).with_tables({"head": table})


def test_another_classifier_is_another_identity() -> None:
    table = head_of().table
    other = table.copy()
    other[0, 0] = np.nextafter(other[0, 0], 1, dtype=np.float32)
    one, two = (EmbeddingCodec(CLASSES, FEATURES).with_tables({"head": found}) for found in (table, other))
    assert one.identity()["head"] != two.identity()["head"]
    assert one.identity() == coding_with("uint8", Head(table.copy())).identity()


def test_autocast_does_not_reach_the_rebuilt_logits() -> None:
    head = head_of()
    features = torch.randn(5, FEATURES, generator=torch.Generator().manual_seed(1))
    plain = head.log_probs(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head.log_probs(features), plain)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="uint8 or float16"):
        create_codec("embedding", 10, num_features=4, dtype="float32")
    with pytest.raises(UsageError, match="0 features"):
        create_codec("embedding", 10)
    with pytest.raises(UsageError, match=r"512 MiB.*topk or full"):
        create_codec("embedding", 21843, num_features=6144)
    with pytest.raises(UsageError, match="parameter 'k'"):
        create_codec("embedding", 10, num_features=4, k=3)


def test_imagenet_21k_fits() -> None:
    codec = EmbeddingCodec(21841, 1024)
    rows = codec.chunk_rows(131072)
    assert rows == 8192
    assert all(spec.nbytes <= MAX_CHUNK_BYTES for spec in codec.arrays(rows).values())


def test_codes_stay_eight_bits_wide_until_they_are_asked_for() -> None:
    head = head_of()
    codec = coding_with("uint8", head)
    kept = codec.select(teacher_log_probs(4), labels_for(4), features_for(head, teacher_log_probs(4)))
    stored = codec.decode(codec.encode(kept, 4), 4)
    assert isinstance(stored, EmbeddingTargets)
    assert stored.code.dtype == torch.uint8

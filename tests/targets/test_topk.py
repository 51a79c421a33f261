"""Top-k targets: what is kept, the tail, the labels, and how they are stored."""

import hashlib
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdcache.errors import CorruptError, UsageError
from kdcache.targets.class_order import ClassOrder, class_dtype, prefix_of
from kdcache.targets.kinds import create_codec
from kdcache.targets.ragged import first_maxima
from kdcache.targets.topk import TINY, TopKTargets, keep_top
from kdcache.targets.topk_codec import TopKCodec
from support.targets_contract import CLASSES, TargetsContract, labels_for, random_order, teacher_log_probs


class TestAdaptive(TargetsContract):
    codec = TopKCodec(CLASSES, k=8, min_prob=0.02)
    label_error = 0.04


class TestOrdered(TargetsContract):
    codec = TopKCodec(CLASSES, k=8, min_prob=0.02, order=random_order(CLASSES))
    label_error = 0.04


class TestFixed(TargetsContract):
    codec = TopKCodec(CLASSES, k=3, min_prob=0.0, bits=8)
    label_error = 0.01


class TestOneBitOfOneClass(TargetsContract):
    codec = TopKCodec(CLASSES, k=1, min_prob=0.5, bits=1)
    label_error = 0.25


class TestEverything(TargetsContract):
    codec = TopKCodec(CLASSES, k=CLASSES, min_prob=0.0, bits=8)
    label_error = 0.01


def by_hand(log_prob: list[float], labels: list[int], k: int, min_prob: float) -> dict[str, object]:
    """Selection of one row, slow and obvious."""
    prob = [math.exp(value) for value in log_prob]
    ranked = sorted(range(len(prob)), key=lambda c: (-np.float32(prob[c]), c))
    kept = sorted(c for c in ranked[:k] if c == ranked[0] or np.float32(prob[c]) > np.float32(min_prob))
    exceptions = {label for label in labels if label >= 0 and label not in kept}
    rest = [c for c in range(len(prob)) if c not in kept and c not in exceptions]
    tail = math.fsum(prob[c] for c in rest)
    rebuilt = [tail / len(rest) if c in rest else prob[c] for c in range(len(prob))]
    return {"kept": kept, "tail": tail, "rebuilt": rebuilt, "exceptions": exceptions}


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, int, float]:
    classes, rows = draw(st.integers(2, 9)), draw(st.integers(1, 4))
    # Few different values, so that classes tie.
    logits = draw(
        st.lists(
            st.lists(st.sampled_from([-6.0, -1.0, 0.0, 0.5, 3.0]), min_size=classes, max_size=classes),
            min_size=rows,
            max_size=rows,
        )
    )
    label = st.integers(-1, classes - 1)
    labels = draw(st.lists(st.tuples(label, label), min_size=rows, max_size=rows))
    k = draw(st.integers(1, classes))
    min_prob = draw(st.sampled_from([0.0, 0.0031, 0.1, 0.3, 0.9]))
    return torch.log_softmax(torch.tensor(logits), 1), torch.tensor(labels), k, min_prob


@given(cases())
def test_it_keeps_what_the_slow_way_keeps(case: tuple[Tensor, Tensor, int, float]) -> None:
    log_probs, labels, k, min_prob = case
    targets = keep_top(log_probs, labels, k, min_prob)
    rebuilt = targets.log_probs(num_classes=log_probs.shape[1]).exp()
    for row in range(len(log_probs)):
        expected = by_hand(log_probs[row].tolist(), labels[row].tolist(), k, min_prob)
        one = targets[row : row + 1]
        assert one.class_id.tolist() == expected["kept"]
        assert one.tail.item() == pytest.approx(expected["tail"], abs=1e-6)
        assert int((~one.label_prob.isnan()).sum()) == len(expected["exceptions"])
        assert rebuilt[row].tolist() == pytest.approx(expected["rebuilt"], abs=1e-6)


@given(st.integers(0, 1000), st.floats(0.1, 60))
def test_all_classes_of_a_fixed_k_are_the_exact_answer(seed: int, sharpness: float) -> None:
    teacher = teacher_log_probs(6, seed=seed, sharpness=sharpness)
    student = teacher_log_probs(6, seed=seed + 1)
    kept = TopKCodec(CLASSES, k=CLASSES, min_prob=0.0).select(teacher, labels_for(6, seed=seed))
    rebuilt = kept.log_probs(num_classes=CLASSES)

    def kl(of: Tensor) -> Tensor:
        return (of.double().exp() * (of.double() - student.double())).sum(1)

    assert torch.allclose(kl(rebuilt), kl(teacher), rtol=1e-5, atol=1e-5)


def test_equal_probabilities_keep_the_lower_classes() -> None:
    targets = keep_top(torch.full((1, 8), 1 / 8).log(), torch.tensor([[-1, -1]]), 3, 0.0)
    assert targets.class_id.tolist() == [0, 1, 2]


def test_a_row_with_nothing_over_the_threshold_keeps_its_first_class() -> None:
    codec, labels = TopKCodec(CLASSES, min_prob=0.5, bits=8), torch.tensor([[-1, -1]])
    kept = codec.select(torch.full((1, CLASSES), 1 / CLASSES).log(), labels)
    assert kept.class_id.tolist() == [0]
    stored = codec.decode(codec.encode(kept, 2), 1).with_labels(labels)
    assert stored.log_probs(num_classes=CLASSES).exp()[0].tolist() == pytest.approx([1 / CLASSES] * CLASSES, abs=4e-3)


def test_another_temperature_is_refused_with_the_remedy() -> None:
    kept = TopKCodec(CLASSES).select(teacher_log_probs(2), labels_for(2))
    with pytest.raises(UsageError, match='targets="full"'):
        kept.log_probs(num_classes=CLASSES, temperature=2.0)


def test_labels_below_everything_stored_keep_their_probability() -> None:
    teacher = torch.log_softmax(torch.tensor([[0.0, -5, -10, -20, -30, -39, *[-9.0] * 6]]), 1)
    codec = TopKCodec(CLASSES, k=1)
    for label in range(1, 6):
        labels = torch.tensor([[label, -1]])
        stored = codec.decode(codec.encode(codec.select(teacher, labels), 2), 1).with_labels(labels)
        assert stored.label_log_prob()[0, 0].item() == pytest.approx(teacher[0, label].item(), abs=1e-3)


def test_the_widest_row_fits() -> None:
    for min_prob in (0.1, 0.0999999, 1 / 3, 0.25, 0.9):
        codec = TopKCodec(CLASSES, min_prob=min_prob)
        assert codec.width <= 1 / min_prob
        fair = math.floor(1 / min_prob)
        spread = torch.full((1, CLASSES), 1e-9)
        spread[0, :fair] = 1
        kept = codec.select((spread / spread.sum()).log(), torch.tensor([[-1, -1]]))
        assert len(kept) == 1
        codec.encode(kept, 1)


@pytest.mark.parametrize(
    ("classes", "k", "types"),
    [
        (10, 10, ("uint8", "uint8", "uint8")),
        (1000, 256, ("uint16", "uint8", "uint16")),
        (40000, 257, ("uint16", "uint16", "uint16")),
        (65400, 5, ("uint16", "uint8", "uint32")),
        (70000, 5, ("uint32", "uint8", "uint32")),
    ],
)
@pytest.mark.parametrize("ordered", [False, True])
def test_types_are_wide_enough(classes: int, k: int, types: tuple[str, str, str], ordered: bool) -> None:
    """More classes than 16 bits hold with a sign are nothing special."""
    nearest = (np.arange(classes)[:, None] + np.arange(1, prefix_of(classes) + 1)) % classes
    order = ClassOrder(nearest.astype(class_dtype(classes))) if ordered else None
    codec = TopKCodec(classes, k=k, min_prob=0.0, order=order)
    arrays = codec.arrays(2)
    if ordered:
        assert (arrays["top"].dtype, arrays["count"].dtype, arrays["class"].dtype) == types
    teacher = teacher_log_probs(2, classes)
    labels = torch.tensor([[classes - 1, 0], [0, -1]])
    kept = codec.select(teacher, labels)
    stored = codec.decode(codec.encode(kept, 2), 2).with_labels(labels)
    for row in range(2):
        assert stored[row : row + 1].class_id.sort()[0].tolist() == kept[row : row + 1].class_id.tolist()


@pytest.mark.parametrize("order", [None, random_order(300)])
def test_the_most_probable_class_stands_first_and_stays_it(order: ClassOrder | None) -> None:
    teacher = torch.cat(
        [teacher_log_probs(300, 300, sharpness=sharpness) for sharpness in (0.0, 0.05, 0.3, 1.0, 3.0, 30.0)]
    )
    for min_prob, bits in ((0.0033, 5), (0.0033, 1), (0.0, 5), (0.2, 3)):
        codec = TopKCodec(300, min_prob=min_prob, bits=bits, order=order)
        kept = codec.select(teacher, torch.full((len(teacher), 2), -1))
        stored = codec.decode(codec.encode(kept, len(teacher)), len(teacher))
        assert torch.equal(stored.class_id[stored.offset[:-1]].long(), teacher.argmax(1))
        first = first_maxima(stored.prob.numpy(), stored.offset.diff().numpy())
        assert first.tolist() == stored.offset[:-1].tolist()


def test_the_first_probability_is_right_within_a_level_though_it_is_not_stored() -> None:
    teacher = torch.cat(
        [teacher_log_probs(300, 300, seed=seed, sharpness=sharpness) for seed, sharpness in ((0, 1.5), (1, 3.0))]
    )
    codec = TopKCodec(300, min_prob=0.0033)
    kept = codec.select(teacher, torch.full((600, 2), -1))
    stored = codec.decode(codec.encode(kept, 600), 600)
    found, expected = stored.prob[stored.offset[:-1]], teacher.amax(1).exp()
    # A level in the root, and as much again for the tail, whose level is as wide.
    assert float((found.sqrt() - expected.sqrt()).abs().max()) < 2 / 32


def test_the_bytes_are_these() -> None:
    """A change of what is written needs a new format."""
    codec = TopKCodec(300, order=random_order(300))
    packed = codec.encode(codec.select(teacher_log_probs(64, 300, sharpness=4.0), labels_for(64, 300)), 64)
    data = b"".join(packed[name].tobytes() for name in ("top", "count", "class", "level", "tail", "label"))
    assert hashlib.blake2b(data, digest_size=8).hexdigest() == "fbe4a1eb63686010"


def packed() -> tuple[TopKCodec, dict[str, np.ndarray], Tensor]:
    codec, labels = TopKCodec(CLASSES, k=4, min_prob=0.02), labels_for(16)
    return codec, codec.encode(codec.select(teacher_log_probs(16), labels), 16), labels


def test_other_labels_than_those_written_are_noticed() -> None:
    codec, arrays, labels = packed()
    bare = codec.decode(arrays, 16)
    bare.with_labels(labels)
    exceptions = np.argwhere(arrays["label"].T != 0)
    assert len(exceptions) > 8
    for row, column in exceptions:
        other = labels.clone()
        other[row, column] = -1
        with pytest.raises(CorruptError, match=rf"the first is {row}\)"):
            bare.with_labels(other)
    without = labels.clone()
    without[:] = -1
    with pytest.raises(CorruptError, match="other labels"):
        bare.with_labels(without)


@pytest.mark.parametrize(
    ("name", "value"), [("top", CLASSES), ("count", 4), ("class", CLASSES), ("level", 32), ("tail", 32)]
)
def test_impossible_values_are_refused(name: str, value: int) -> None:
    codec, arrays, _ = packed()
    arrays[name][0] = value
    with pytest.raises(CorruptError, match="than there can be"):
        codec.decode(arrays, 16)


@pytest.mark.parametrize(
    "parameters", [{"k": 0}, {"min_prob": 1.0}, {"min_prob": -0.1}, {"min_prob": math.nan}, {"bits": 9}]
)
def test_settings_that_make_no_sense_are_refused(parameters: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        create_codec("topk", CLASSES, **parameters)


def test_a_whole_number_is_a_probability_too() -> None:
    assert create_codec("topk", CLASSES, min_prob=0) == create_codec("topk", CLASSES, min_prob=0.0)
    assert isinstance(create_codec("topk", CLASSES, min_prob=0).identity()["min_prob"], float)


def test_targets_are_slim() -> None:
    kept = TopKCodec(1000).select(teacher_log_probs(64, 1000, sharpness=4), labels_for(64, 1000))
    assert isinstance(kept, TopKTargets)
    assert sum(tensor.nbytes for tensor in vars(kept).values() if isinstance(tensor, Tensor)) < 64 * 1000


@given(cases())
def test_log_probs_have_the_bits_of_a_table_that_is_filled_row_by_row(case: tuple[Tensor, Tensor, int, float]) -> None:
    log_probs, labels, k, min_prob = case
    targets = keep_top(log_probs, labels, k, min_prob)
    expected = torch.empty_like(log_probs)
    for row, (first, stop) in enumerate(pairwise(targets.offset.tolist())):
        exceptions = [column for column in (0, 1) if not bool(targets.label_prob[row, column].isnan())]
        others = max(log_probs.shape[1] - (stop - first) - len(exceptions), 1)
        expected[row] = (targets.tail[row] / others).clamp(min=TINY).log()
        expected[row, targets.class_id[first:stop].long()] = targets.prob[first:stop].clamp(min=TINY).log()
        for column in exceptions:
            expected[row, labels[row, column]] = targets.label_prob[row, column].clamp(min=TINY).log()
    assert torch.equal(targets.log_probs(), expected)

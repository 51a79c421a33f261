"""What holds for every kind of targets; a kind's test class inherits from `TargetsContract`."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor

from kdcache.errors import CorruptError, ModelError, UsageError
from kdcache.targets.base import MAX_CHUNK_BYTES, MAX_FILE_BYTES, TargetCodec, Targets
from kdcache.targets.class_order import ClassOrder, class_dtype, prefix_of
from kdcache.targets.kinds import create_codec

CLASSES = 12


def teacher_log_probs(rows: int, classes: int = CLASSES, seed: int = 0, sharpness: float = 2.0) -> Tensor:
    """Random log-probabilities, float32 [rows, classes]."""
    draw = np.random.default_rng(seed).standard_normal((rows, classes)) * sharpness
    return torch.log_softmax(torch.from_numpy(draw), 1).float()


def labels_for(rows: int, classes: int = CLASSES, seed: int = 0) -> Tensor:
    """Own and partner's labels, int64 [rows, 2]; some rows have none, no partner, or the same label twice."""
    rng = np.random.default_rng(seed + 1)
    labels = rng.integers(0, classes, (rows, 2))
    labels[rng.random(rows) < 0.2, 1] = -1
    labels[rng.random(rows) < 0.2] = -1
    same = rng.random(rows) < 0.2
    labels[same, 1] = labels[same, 0]
    return torch.from_numpy(labels)


def random_order(classes: int, seed: int = 0) -> ClassOrder:
    """Every class's row is a random choice of others."""
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(np.delete(np.arange(classes), row))[: prefix_of(classes)] for row in range(classes)]
    return ClassOrder(np.stack(rows).astype(class_dtype(classes)))


def same(a: Targets, b: Targets) -> bool:
    """Whether two targets are equal in every bit, NaN included."""
    return bits(a) == bits(b)


def bits(targets: Targets) -> dict[str, object]:
    """Every field; of tensors the type, the shape and the bytes."""
    return {
        name: (value.dtype, value.shape, value.numpy().tobytes()) if isinstance(value, Tensor) else value
        for name, value in vars(targets).items()
    }


class TargetsContract:
    """Subclasses say which codec, and how far a label's log-probability may move by being stored.

    rounding: how far log-probabilities may differ that are rebuilt in batches of other sizes.
    """

    codec: TargetCodec
    label_error: float
    rounding: float = 0.0

    @pytest.fixture
    def kept(self) -> Targets:
        return self.select(teacher_log_probs(40), labels_for(40))

    def select(self, said: Tensor, labels: Tensor) -> Targets:
        return self.codec.select(said, labels)

    def alike(self, a: Tensor, b: Tensor) -> bool:
        return torch.allclose(a, b, rtol=0, atol=self.rounding, equal_nan=True)

    def stored(self, targets: Targets, labels: Tensor, rows: int = 64) -> Targets:
        return self.codec.decode(self.codec.encode(targets, rows), len(targets)).with_labels(labels)

    def test_log_probs_are_a_finite_distribution(self, kept: Targets) -> None:
        for targets in (kept, self.stored(kept, labels_for(40))):
            log_probs = targets.log_probs(num_classes=CLASSES)
            assert log_probs.shape == (40, CLASSES)
            assert log_probs.dtype == torch.float32
            assert bool(log_probs.isfinite().all())
            assert torch.allclose(log_probs.exp().sum(1), torch.ones(40), atol=1e-5)

    @pytest.mark.parametrize("given", [-1000.0, 1000.0])
    def test_a_teacher_that_is_certain_stays_finite(self, given: float) -> None:
        certain = torch.zeros(1, CLASSES)
        certain[0, 3] = given
        labels = torch.tensor([[3, 4]])
        kept = self.select(torch.log_softmax(certain, 1), labels)
        assert bool(kept.log_probs(num_classes=CLASSES).isfinite().all())
        assert bool(self.stored(kept, labels).log_probs(num_classes=CLASSES).isfinite().all())

    def test_the_labels_have_the_teachers_probability(self, kept: Targets) -> None:
        labels = labels_for(40)
        expected = teacher_log_probs(40).gather(1, labels.clamp(min=0)).masked_fill(labels < 0, torch.nan)
        assert torch.allclose(kept.label_log_prob(), expected, atol=1e-5, equal_nan=True)
        stored = self.stored(kept, labels).label_log_prob()
        assert torch.allclose(stored.exp(), expected.exp(), atol=self.label_error, equal_nan=True)

    def test_labels_and_log_probs_agree(self, kept: Targets) -> None:
        labels = labels_for(40)
        for targets in (kept, self.stored(kept, labels)):
            found = targets.log_probs(num_classes=CLASSES).gather(1, labels.clamp(min=0))
            assert torch.equal(found[labels >= 0], targets.label_log_prob()[labels >= 0])

    def test_a_row_is_kept_alike_in_any_batch(self, kept: Targets) -> None:
        parts = [
            self.select(teacher_log_probs(40)[start:stop], labels_for(40)[start:stop])
            for start, stop in ((0, 1), (1, 30), (30, 40))
        ]
        assert same(type(kept).concat(parts), kept)

    def test_slices_and_their_concatenation(self, kept: Targets) -> None:
        whole = kept.log_probs(num_classes=CLASSES)
        assert self.alike(kept[7:19].log_probs(num_classes=CLASSES), whole[7:19])
        assert self.alike(kept[7:19][2:].label_log_prob(), kept.label_log_prob()[9:19])
        assert len(kept[9:9]) == 0
        assert same(type(kept).concat([kept[:9], kept[9:9], kept[9:]]), kept)
        with pytest.raises(IndexError):
            kept[::2]

    def test_rows_are_gathered_by_position(self, kept: Targets) -> None:
        rows = torch.tensor([7, 39, 0, 7, 8])
        parts = [kept[row : row + 1] for row in rows.tolist()]
        assert same(kept.take(rows), type(kept).concat(parts))
        assert same(kept.take(torch.arange(40)), kept)
        assert len(kept.take(rows[:0])) == 0
        bare = self.codec.decode(self.codec.encode(kept, 64), 40)
        assert same(bare.take(rows).with_labels(labels_for(40)[rows]), self.stored(kept, labels_for(40)).take(rows))

    def test_labels_come_after_reading(self, kept: Targets) -> None:
        bare = self.codec.decode(self.codec.encode(kept, 64), 40)
        for part in (bare, bare[3:5], bare.to("cpu"), type(bare).concat([bare[:3], bare[3:]])):
            with pytest.raises(UsageError, match="with_labels"):
                part.label_log_prob()
        again = type(bare).concat([bare[:9].with_labels(labels_for(40)[:9]), bare[9:].with_labels(labels_for(40)[9:])])
        assert same(again, self.stored(kept, labels_for(40)))
        with pytest.raises(CorruptError, match="12 classes"):
            bare.with_labels(torch.full((40, 2), CLASSES))

    def test_moving_keeps_everything(self, kept: Targets) -> None:
        assert same(kept.to("cpu"), kept)

    def test_arrays_are_as_announced_and_padded_with_zeros(self, kept: Targets) -> None:
        arrays = self.codec.encode(kept, 64)
        specs = self.codec.arrays(64)
        assert {name: (array.shape, str(array.dtype)) for name, array in arrays.items()} == {
            name: (spec.shape, spec.dtype) for name, spec in specs.items()
        }
        shorter = self.codec.encode(kept[:0], 64)
        assert all(not array.any() for array in shorter.values())

    def test_padding_changes_nothing(self, kept: Targets) -> None:
        assert same(self.stored(kept, labels_for(40), rows=40), self.stored(kept, labels_for(40), rows=128))

    def test_rows_of_a_chunk_are_read_as_those_of_the_whole(self, kept: Targets) -> None:
        arrays = self.codec.encode(kept, 64)
        whole = self.codec.decode(arrays, 40)
        for start, stop in ((0, 40), (0, 1), (7, 30), (39, 40), (5, 5)):
            part = self.codec.decode(self.codec.rows_of(arrays, start, stop), stop - start)
            assert same(part, whole[start:stop])

    def test_packing_is_repeatable(self, kept: Targets) -> None:
        again = self.codec.encode(self.select(teacher_log_probs(40), labels_for(40)), 64)
        for name, array in self.codec.encode(kept, 64).items():
            assert array.tobytes() == again[name].tobytes()

    def test_chunks_divide_blocks_and_stay_small(self) -> None:
        for block_rows in (2, 1024, 131072):
            rows = self.codec.chunk_rows(block_rows)
            assert block_rows % rows == 0
            assert all(spec.nbytes <= MAX_CHUNK_BYTES for spec in self.codec.arrays(rows).values())
            of_file = self.codec.file_rows(block_rows)
            assert block_rows % of_file == of_file % rows == 0
            assert all(spec.nbytes <= MAX_FILE_BYTES for spec in self.codec.arrays(of_file).values())

    def test_the_identity_makes_the_same_coding(self) -> None:
        identity = self.codec.identity()
        again = create_codec(identity.pop("kind"), CLASSES, self.codec.tables(), **identity)
        assert again.identity() == self.codec.identity()
        assert again.with_tables({}).tables() == {}
        for name, table in self.codec.tables().items():
            spec = self.codec.table_specs()[name]
            assert (spec.dtype, spec.shape) == (table.dtype, table.shape)
            assert identity[name] == again.identity()[name]

    def test_capabilities_are_what_the_targets_can_do(self, kept: Targets) -> None:
        """Another temperature asks for every class."""
        stored, told = self.stored(kept, labels_for(40)), self.codec.capabilities
        asked = {
            "every_class": lambda: stored.log_probs(num_classes=CLASSES, temperature=4.0),
            "features": stored.features,
            "maps": stored.maps,
        }
        for name, ask in asked.items():
            with nullcontext() if getattr(told, name) else pytest.raises(UsageError):
                ask()
        assert told.description == f"{self.codec.kind} targets"

    def test_numbers_go_by_their_names_and_temperatures_are_above_0(self, kept: Targets) -> None:
        """So that log_probs(4) is neither taken for a temperature nor for a number of classes."""
        with pytest.raises(TypeError):
            kept.log_probs(CLASSES)
        for temperature in (0.0, -1.0, torch.nan, torch.inf):
            with pytest.raises(UsageError, match="give a number above 0"):
                kept.log_probs(temperature=temperature)

    def test_what_they_cannot_give_is_refused_in_words_of_python(self, kept: Targets) -> None:
        """A loop of one's own asks them; the command line has its own words of the same error."""
        told = self.codec.capabilities
        asked = {"every_class": lambda: kept.log_probs(temperature=4.0), "features": kept.features, "maps": kept.maps}
        for name, ask in asked.items():
            if not getattr(told, name):
                with pytest.raises(UsageError) as refused:
                    ask()
                assert "--" not in str(refused.value)
                assert "--" in refused.value.option_words

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 3.0])
    def test_what_is_no_log_probability_is_refused(self, bad: float) -> None:
        broken = teacher_log_probs(4)
        broken[2, 5] = bad
        with pytest.raises(ModelError, match="not log-probabilities"):
            self.select(broken, labels_for(4))

    def test_other_classes_are_refused(self) -> None:
        with pytest.raises(ModelError, match="13 classes"):
            self.select(teacher_log_probs(4, CLASSES + 1), labels_for(4))
        with pytest.raises(UsageError, match="Label 12"):
            self.select(teacher_log_probs(1), torch.tensor([[CLASSES, -1]]))

    def test_the_wrong_number_of_classes_is_refused_on_reading(self, kept: Targets) -> None:
        with pytest.raises(UsageError, match="13 were asked for"):
            kept.log_probs(num_classes=CLASSES + 1)

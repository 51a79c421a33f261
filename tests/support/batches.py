"""Batches for objectives: random logits of a student and of a teacher, labels and mixing."""

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcache.errors import UsageError
from kdcache.objectives.base import Losses, LossInputs, LossSpec, Objective
from kdcache.targets.base import Targets

ROWS, CLASSES, FEATURES = 8, 7, 5
SAMPLES, TEACHER_FEATURES = 20, 6
MAPS, TEACHER_MAPS = ((3, 8, 8), (4, 4, 4)), ((5, 8, 8), (6, 4, 4))


@dataclass(frozen=True)
class FixedTargets(Targets):
    """A teacher's targets of every class; at T = 1 alone, as every kind of targets can give them."""

    values: Tensor
    entered: Tensor | None = None
    levels: tuple[Tensor, ...] = ()

    def log_probs(self, *, num_classes, temperature=1.0):
        assert num_classes == self.values.shape[1]
        assert temperature == 1.0
        return self.values

    def __len__(self):
        return len(self.values)

    def take(self, rows):
        raise NotImplementedError

    def with_labels(self, labels):
        raise NotImplementedError

    def to(self, device):
        raise NotImplementedError

    @classmethod
    def concat(cls, parts):
        raise NotImplementedError

    def label_log_prob(self):
        raise NotImplementedError

    def __getitem__(self, rows):
        entered = None if self.entered is None else self.entered[rows]
        return FixedTargets(self.values[rows], entered, tuple(level[rows] for level in self.levels))

    def features(self):
        if self.entered is None:
            raise UsageError("There are none.")
        return self.entered

    def maps(self):
        return list(self.levels)


def drawn(seed, rows=ROWS, classes=CLASSES, dtype=torch.float64):
    """Logits of a student and log-probabilities of a teacher, far from uniform."""
    random = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(rows, classes, generator=random, dtype=dtype) * 3 for _ in range(2))
    return student, F.log_softmax(teacher, dim=-1)


def labels_of(seed, rows=ROWS, classes=CLASSES):
    """Labels and shares of pairs: the first two rows are not mixed."""
    random = torch.Generator().manual_seed(seed)
    own = torch.randint(classes, (rows,), generator=random)
    partner = own[torch.arange(rows) ^ 1]
    share = torch.rand(rows // 2, generator=random, dtype=torch.float64).repeat_interleave(2)
    partner[:2], share[:2] = -1, 1.0
    return torch.stack([own, partner], dim=1), share


def batch_for(objective: Objective, seed=0, rows=ROWS, classes=CLASSES, dtype=torch.float64) -> LossInputs:
    """Everything that any objective may ask for, in the epoch after the first of ten."""
    student, teacher = drawn(seed, rows, classes, dtype)
    labels, weight = labels_of(seed, rows, classes)
    random = torch.Generator().manual_seed(seed + 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        aux_module = objective.aux_module(loss_spec(objective, classes))
    features, past = (torch.randn(rows, width, generator=random, dtype=dtype) for width in (FEATURES, classes))
    entered = torch.randn(rows, TEACHER_FEATURES, generator=random, dtype=dtype)
    maps, levels = (
        tuple(torch.randn(rows, *level, generator=random, dtype=dtype) for level in side)
        for side in (MAPS, TEACHER_MAPS)
    )
    return LossInputs(
        student,
        labels,
        weight.to(dtype),
        FixedTargets(teacher, entered, levels),
        features=features,
        maps=maps,
        past_probs=torch.softmax(past, dim=1),
        samples=torch.arange(rows),
        aux_module=None if aux_module is None else aux_module.to(dtype),
        epoch=1,
        epochs=10,
    )


def loss_spec(objective: Objective, classes: int = CLASSES) -> LossSpec:
    """What `batch_for` has, as a aux_module is told; an objective whose needs are less is told less."""
    needs = objective.needs
    return LossSpec(
        classes,
        FEATURES if needs.features else None,
        SAMPLES,
        torch.arange(SAMPLES) % classes,
        TEACHER_FEATURES if needs.teacher_features else None,
        MAPS if needs.maps else (),
        TEACHER_MAPS if needs.maps else (),
    )


def called(objective: Objective, inputs: LossInputs) -> Losses:
    """The objective's losses, with a copy of what it remembers, so that another call is told the same."""
    return objective(replace(inputs, aux_module=copy.deepcopy(inputs.aux_module)))


def moved(inputs: LossInputs, rows: Tensor, classes: Tensor) -> LossInputs:
    """The same batch with its rows and classes in another order."""
    where = torch.argsort(classes)
    aux_module = inputs.aux_module
    if isinstance(aux_module, nn.Linear):
        aux_module = nn.Linear(FEATURES, len(classes), dtype=aux_module.weight.dtype)
        aux_module.load_state_dict({name: value[classes] for name, value in inputs.aux_module.state_dict().items()})
    return replace(
        inputs,
        logits=inputs.logits[rows][:, classes],
        labels=torch.where(inputs.labels < 0, -1, where[inputs.labels.clamp(min=0)])[rows],
        weight=inputs.weight[rows],
        targets=FixedTargets(
            inputs.targets.values[rows][:, classes],
            inputs.targets.entered[rows],
            tuple(level[rows] for level in inputs.targets.levels),
        ),
        features=inputs.features[rows],
        maps=tuple(level[rows] for level in inputs.maps),
        past_probs=inputs.past_probs[rows][:, classes],
        samples=inputs.samples[rows],
        aux_module=aux_module,
    )


def by_torchdistill(loss, student, teacher, targets=None):
    """A loss of torchdistill's on these logits."""
    return loss({"z": {"output": student}}, {"z": {"output": teacher}}, targets=targets)


WHERE = {
    "student_module_path": "z",
    "student_module_io": "output",
    "teacher_module_path": "z",
    "teacher_module_io": "output",
}
"""Where torchdistill's losses find the logits of `by_torchdistill`."""

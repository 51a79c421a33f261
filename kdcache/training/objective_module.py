"""What an objective is called with, in `kdcache train` and in a loop of one's own, and an objective as a module."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from kdcache.data.index import Index
from kdcache.errors import UsageError
from kdcache.io.checked import read
from kdcache.loader.batches import Batch
from kdcache.loader.cached_teachers import why_unlabelled
from kdcache.loader.dataset import CachedDataset
from kdcache.models.features import feature_size
from kdcache.models.student_outputs import StudentOutputs, WithStudentOutputs
from kdcache.objectives.base import LossInputs, LossSpec, MapShape, Needs, Objective, require
from kdcache.objectives.gathering import place_among_ranks
from kdcache.objectives.registry import objective_named
from kdcache.runtime.distributed import Distributed
from kdcache.runtime.python_words import in_python_words
from kdcache.runtime.ranks import Ranks
from kdcache.runtime.transfer import to_device
from kdcache.training.settings import overlay, to_plain


class ObjectiveModule(nn.Module):
    """A loss over a student's outputs and a batch of the cache; `create_objective` makes it.

    What it learns beside the student (such as the embeddings of CRD) is its parameters: give them to the optimiser as
    well, and save its state dict. An objective on logits alone has none.

    Attributes:
        objective: the settings, a frozen value.
        aux_module: what is learnt beside the student; None where there is nothing.

    Example:
        >>> objective = kdcache.create_objective("dist")
        >>> losses = objective(model(batch.images), batch, epoch=0, epochs=100)
        >>> losses["loss"].backward()
    """

    def __init__(self, objective: Objective, aux_module: nn.Module | None = None) -> None:
        """
        Args:
            objective: the settings.
            aux_module: what `objective.aux_module` made.
        """
        super().__init__()
        self.objective = objective
        self.aux_module = aux_module

    @in_python_words()
    def forward(
        self, student_outputs: Tensor | StudentOutputs, batch: Batch, *, epoch: int, epochs: int
    ) -> dict[str, Tensor]:
        """Return the losses of a batch by name: "loss" is the total to descend, the others are its parts.

        It is to be called outside of torch.autocast, with outputs in whatever precision: losses are float32.

        Args:
            student_outputs: logits [b, c], or the `StudentOutputs` of a module that `wrap_student` made.
            batch: of a `CachedLoader`; b rows on the device of the logits.
            epoch: number of the epoch, counted from 0, for weights that change with it.
            epochs: number of epochs of the training.

        Returns:
            Scalars: "loss", then each part before its weight, such as "kd" and "label".

        Raises:
            UsageError: something that the objective needs is not there, such as the student's features; or the outputs
                are no logits, or of other rows than the batch.
        """
        _require_outputs(student_outputs, batch)
        losses = self.objective(
            loss_inputs(student_outputs, batch, aux_module=self.aux_module, epoch=epoch, epochs=epochs)
        )
        return {"loss": losses.total, **losses.parts}

    def wrap_student(self, student: nn.Module) -> nn.Module:
        """Return a module whose outputs hold what the objective needs; the student itself where logits are enough.

        DistributedDataParallel is to hold the module that is returned. Its parameters are those of the student.

        Raises:
            ModelError: the student is no timm model that has the features or feature maps.
        """
        return wrap_student(student, self.objective.needs)

    def average_gradients(self) -> None:
        """Average the gradients of what is learnt beside the student over all processes; alone, do nothing.

        It is to be called after each backward pass of a loop under torch.distributed whose DistributedDataParallel
        holds the student alone. Every process has to call it.
        """
        parameter = next(self.parameters(), None)
        if parameter is not None:
            Distributed(Ranks(*place_among_ranks()), parameter.device).average_gradients(self)


def _require_outputs(student_outputs: object, batch: Batch) -> None:
    """Raise UsageError unless the outputs are logits, or have them, one row for each of the batch."""
    if not isinstance(student_outputs, Tensor | StudentOutputs):
        raise UsageError(
            f"The student's outputs are of type {type(student_outputs).__name__}, and an objective takes logits "
            "[b, c]: give these, such as outputs.logits, or kdcache.StudentOutputs(logits, features)."
        )
    logits = student_outputs if isinstance(student_outputs, Tensor) else student_outputs.logits
    if logits.ndim != 2 or len(logits) != len(batch):
        raise UsageError(
            f"The student's logits have the shape {list(logits.shape)}, and the batch {len(batch)} rows: give logits "
            "[b, c] of all its images, and of a part of them the batch that batch.take(rows) returns."
        )


@in_python_words()
def create_objective(
    name: str,
    *,
    dataset: CachedDataset | None = None,
    student: nn.Module | None = None,
    spec: LossSpec | None = None,
    seed: int = 0,
    **settings: Any,
) -> ObjectiveModule:
    """Return an objective by name as a module, and refuse what the data set's targets cannot serve.

    Args:
        name: as `objective.name` of `kdcache train` has it, such as "kd", "dkd", "dist" or "crd"; docs/objectives.md
            describes each.
        dataset: whose batches it will see; it is needed for objectives that learn something beside the student, and
            lets the others be checked before the first step.
        student: the timm model that is trained; needed where features are compared.
        spec: a `LossSpec` with what is known of data and models, in place of `dataset` and `student`: for batches and
            teachers from elsewhere, such as feature maps, which no cache holds.
        seed: fixes the first weights of what is learnt beside the student, as `kdcache train` draws them.
        settings: of the objective, over those of its name, such as `temperature=4.0` or `label_loss="none"`.

    Raises:
        ConfigError: an unknown name or setting, or a value that it cannot have.
        UsageError: the targets of the cache cannot serve it, or `dataset` and `student` are needed and not given.
        ModelError: the student has no features.

    Example:
        >>> objective = kdcache.create_objective("kd", temperature=2.0, label_loss="none")
        >>> crd = kdcache.create_objective("crd", dataset=dataset, student=model)
        >>> student = crd.wrap_student(model)
        >>> optimizer = torch.optim.AdamW([*model.parameters(), *crd.parameters()])
    """
    usual = objective_named(name)
    values = overlay(to_plain(usual), {key: to_plain(value) for key, value in settings.items()})
    objective = read(type(usual), values, "objective")
    needs = objective.needs
    if needs.history:
        raise UsageError(
            f"{name} learns from the student's own past predictions, which `kdcache train` keeps and a loop of one's "
            "own does not: use `kdcache train --supervised`, or another objective."
        )
    if dataset is not None:
        if needs.teacher_features:
            dataset.teachers.require_one()
        unlabelled = why_unlabelled(dataset.index, dataset.teachers.label_space)
        require(needs, targets=dataset.teachers.capabilities, unlabelled=unlabelled, num_classes=dataset.num_classes)
    if spec is None and dataset is not None:
        spec = _spec(dataset, objective, student)
    if spec is None:
        if needs.maps:
            raise UsageError(
                f"{name} compares feature maps, which no cache holds: `kdcache train --online-teacher` has them. In "
                "a loop of your own, give create_objective(spec=kdcache.LossSpec(...)) the shapes of both sides' maps."
            )
        if needs.features:
            raise UsageError(
                f"{name} compares more than logits: give create_objective the dataset and the student, so that it can "
                "make what is learnt beside the student."
            )
        return ObjectiveModule(objective)
    return ObjectiveModule(objective, create_aux_module(objective, spec, seed))


def _spec(dataset: CachedDataset, objective: Objective, student: nn.Module | None) -> LossSpec:
    needs = objective.needs
    if needs.features and student is None:
        raise UsageError(f"{objective.name} compares features: give create_objective the student that has them.")
    teacher_features = dataset.teachers.num_features if needs.teacher_features else None
    spec = data_spec(dataset.index, dataset.num_classes, teacher_features=teacher_features)
    return spec if not needs.features or student is None else spec._replace(num_features=feature_size(student))


def data_spec(
    index: Index, num_classes: int, *, teacher_features: int | None = None, teacher_maps: tuple[MapShape, ...] = ()
) -> LossSpec:
    """Return the `LossSpec` of a data set and a teacher, without the part that describes the student."""
    return LossSpec(
        num_classes=num_classes,
        num_features=None,
        samples=len(index),
        labels=torch.from_numpy(np.asarray(index.label).astype(np.int64)),
        teacher_features=teacher_features,
        teacher_maps=teacher_maps,
    )


def wrap_student(student: nn.Module, needs: Needs) -> nn.Module:
    """Return a module whose outputs hold what an objective needs; arguments and errors as `WithStudentOutputs` has.

    It is the student itself where logits are enough.
    """
    if not (needs.features or needs.maps):
        return student
    layers = needs.student_layers if needs.maps else None
    return WithStudentOutputs(student, features=needs.features, layers=layers)


def loss_inputs(
    student_outputs: Tensor | StudentOutputs,
    batch: Batch,
    *,
    aux_module: nn.Module | None,
    epoch: int,
    epochs: int,
    past_probs: Float[Tensor, "b c"] | None = None,
    mixed: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> LossInputs:
    """Return what an objective is called with, in float32 and on the device of the student's outputs.

    Args:
        student_outputs: logits [b, c], or the outputs of a module that `wrap_student` made; in whatever precision.
        batch: the rows that the outputs are of; its targets lie on their device.
        aux_module, epoch, epochs, past_probs, mixed: as `LossInputs` has them.
    """
    if isinstance(student_outputs, Tensor):
        student_outputs = StudentOutputs(student_outputs)
    logits, features, maps = student_outputs
    device = logits.device
    return LossInputs(
        logits.float(),
        to_device(batch.labels, device),
        to_device(batch.mix_weight, device),
        batch.targets,
        features=None if features is None else features.float(),
        maps=maps,
        past_probs=None if past_probs is None else to_device(past_probs, device),
        samples=to_device(batch.samples, device),
        aux_module=aux_module,
        mixed=mixed,
        epoch=epoch,
        epochs=epochs,
    )


def create_aux_module(objective: Objective, spec: LossSpec, seed: int) -> nn.Module | None:
    """Return what an objective learns beside the student, drawn under `seed`; torch's random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed every GPU as well.
        torch.default_generator.manual_seed(seed)
        return objective.aux_module(spec)

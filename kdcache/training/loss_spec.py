"""The facts about the data set and the teacher that an objective is given before it makes its `aux_module`."""

import numpy as np
import torch

from kdcache.objectives.base import LossSpec
from kdcache.training.setup import Setup


def loss_spec(setup: Setup) -> LossSpec:
    """Return the `LossSpec` of a training, without the part that describes the student.

    Raises:
        ModelError: the objective needs the teacher's features or feature maps, and it has none.
        ConfigError: it asks for layers that the teacher does not have.
    """
    needs = setup.config.objective.needs
    return LossSpec(
        num_classes=setup.num_classes,
        num_features=None,
        samples=len(setup.index),
        labels=torch.from_numpy(np.asarray(setup.index.label).astype(np.int64)),
        teacher_features=_teacher_features(setup) if needs.teacher_features else None,
        teacher_maps=setup.live.teacher.map_shapes(needs.teacher_layers) if needs.maps and setup.live else (),
    )


def _teacher_features(setup: Setup) -> int | None:
    if setup.live is not None:
        return setup.live.teacher.num_features
    return None if setup.stored is None else setup.stored.num_features

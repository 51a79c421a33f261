"""kdcache: an offline cache of a teacher's outputs for knowledge distillation, and fast training of students from it.

Stage 1 (`kdcache dump-logits`) runs a large teacher once over every image under seeded augmentations and caches
targets. Stage 2 (`kdcache train`, or a training loop of one's own) replays exactly those augmentations and trains
students with no teacher in memory.

The names in `__all__` are the public API; docs/python.md shows them at work. They are imported when they are first
used, so `import kdcache` imports no torch.

Example:
    >>> import kdcache
    >>> dataset = kdcache.open_cache("cache", data="data")
    >>> with dataset.loader(batch_size=256, epochs=100) as loader:
    ...     for batch in loader:
    ...         print(batch.images.shape, batch.targets.log_probs().shape)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# First of all: what is imported after it looks for the user's name and home folder.
from kdcache.runtime import account as account
from kdcache.version import __version__ as __version__

if TYPE_CHECKING:
    from kdcache.errors import KdcacheError as KdcacheError
    from kdcache.jobs import dump_logits as dump_logits
    from kdcache.jobs import evaluate as evaluate
    from kdcache.jobs import export as export
    from kdcache.jobs import inspect as inspect
    from kdcache.jobs import pull as pull
    from kdcache.jobs import push as push
    from kdcache.jobs import train as train
    from kdcache.jobs import verify as verify
    from kdcache.jobs import write_card as write_card
    from kdcache.loader.batches import Batch as Batch
    from kdcache.loader.cached_loader import CachedLoader as CachedLoader
    from kdcache.loader.dataset import CachedDataset as CachedDataset
    from kdcache.loader.dataset import open_cache as open_cache
    from kdcache.models.student_outputs import StudentOutputs as StudentOutputs
    from kdcache.models.teacher_module import TeacherModule as TeacherModule
    from kdcache.objectives.base import LossSpec as LossSpec
    from kdcache.training.objective_module import ObjectiveModule as ObjectiveModule
    from kdcache.training.objective_module import create_objective as create_objective


#: The module of each public name.
_MODULES = {
    "Batch": "kdcache.loader.batches",
    "CachedDataset": "kdcache.loader.dataset",
    "CachedLoader": "kdcache.loader.cached_loader",
    "KdcacheError": "kdcache.errors",
    "LossSpec": "kdcache.objectives.base",
    "ObjectiveModule": "kdcache.training.objective_module",
    "StudentOutputs": "kdcache.models.student_outputs",
    "TeacherModule": "kdcache.models.teacher_module",
    "create_objective": "kdcache.training.objective_module",
    "dump_logits": "kdcache.jobs",
    "evaluate": "kdcache.jobs",
    "export": "kdcache.jobs",
    "inspect": "kdcache.jobs",
    "open_cache": "kdcache.loader.dataset",
    "pull": "kdcache.jobs",
    "push": "kdcache.jobs",
    "train": "kdcache.jobs",
    "verify": "kdcache.jobs",
    "write_card": "kdcache.jobs",
}

__all__ = [
    "Batch",
    "CachedDataset",
    "CachedLoader",
    "KdcacheError",
    "LossSpec",
    "ObjectiveModule",
    "StudentOutputs",
    "TeacherModule",
    "__version__",
    "create_objective",
    "dump_logits",
    "evaluate",
    "export",
    "inspect",
    "open_cache",
    "pull",
    "push",
    "train",
    "verify",
    "write_card",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'kdcache' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

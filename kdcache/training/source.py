"""The source of a training's targets: entries of a cache, a live teacher, or labels alone where both are None."""

from typing import Any

from kdcache.data.index import Index
from kdcache.loader.cached_teachers import CachedTeachers, why_unlabelled
from kdcache.loader.live_teacher import LiveTeacher
from kdcache.targets.base import Capabilities


def capabilities_of(stored: CachedTeachers | None, live: LiveTeacher | None) -> Capabilities | None:
    """Return what the targets can give to an objective; None for labels alone."""
    source = stored or live
    return None if source is None else source.capabilities


def label_space_of(stored: CachedTeachers | None, live: LiveTeacher | None) -> str:
    """Return "teacher" where labels are the teacher's classes, and "none" where they are others."""
    if stored is not None:
        return stored.label_space
    return live.label_space if live is not None else "teacher"


def describe_unlabelled(index: Index, stored: CachedTeachers | None, live: LiveTeacher | None) -> str:
    """Describe why some images have no label in the student's classes, as a clause; empty where all have one."""
    label_space = label_space_of(stored, live)
    if label_space == "none" and live is not None and live.teacher.num_classes != index.num_classes:
        return f"the live teacher has {live.teacher.num_classes:,} classes where the data has {index.num_classes:,}"
    return why_unlabelled(index, label_space)


def num_classes_of(index: Index, stored: CachedTeachers | None, live: LiveTeacher | None) -> int:
    """Return the number of the student's classes."""
    if stored is not None:
        return stored.num_classes
    return live.teacher.num_classes if live is not None else index.num_classes


def teacher_to_json(stored: CachedTeachers | None, live: LiveTeacher | None) -> dict[str, Any] | None:
    """Return what identifies the teacher of a run, as JSON data; None for labels alone."""
    if stored is not None:
        return stored.to_json()
    if live is None:
        return None
    return {"name": live.teacher.name, "weights": live.teacher.weight_hash, "live": True}

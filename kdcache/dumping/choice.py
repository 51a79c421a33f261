"""What a dump keeps of a teacher's answers: as it is told, or what serves the objectives that it is told of."""

from collections.abc import Sequence
from dataclasses import replace

from kdcache.dumping.options import require_parameters_of
from kdcache.errors import ModelError, UsageError
from kdcache.models.teachers import Teacher
from kdcache.objectives.distillation import Distillation, plainly
from kdcache.objectives.registry import AnyObjective, objective_named
from kdcache.runtime.progress import Progress
from kdcache.targets.base import TargetCodec
from kdcache.targets.embedding import EmbeddingCodec
from kdcache.targets.head import Head
from kdcache.targets.kinds import create_codec
from kdcache.targets.topk_codec import usual_bits

DEFAULT_KIND = "topk"
DEFAULT_K = 128
DEFAULT_MIN_PROB = 0.0033


def coding_of(teacher: Teacher, kind: str, *, k: int | None, min_prob: float | None, dtype: str | None) -> TargetCodec:
    """The codec of a kind; None gives the kind's default.

    Raises:
        UsageError: a parameter that the kind does not have, or a value that makes no sense.
        ModelError: `embedding`, and the teacher's classifier is not one linear layer.
    """
    require_parameters_of(kind, k=k, min_prob=min_prob, dtype=dtype)
    if kind == "embedding":
        return embedding_of(teacher, dtype or "uint8")
    if kind != "topk":
        return create_codec(kind, teacher.num_classes, dtype=dtype or "float32")
    k = min(DEFAULT_K if k is None else k, teacher.num_classes)
    min_prob = DEFAULT_MIN_PROB if min_prob is None else min_prob
    return create_codec("topk", teacher.num_classes, k=k, min_prob=min_prob, bits=usual_bits(min_prob))


def embedding_of(teacher: Teacher, dtype: str) -> EmbeddingCodec:
    """The codec of a teacher's features.

    Raises:
        UsageError: its classifier is too large for a cache.
        ModelError: it is not one linear layer.
    """
    codec = EmbeddingCodec(teacher.num_classes, teacher.num_features, dtype)
    return replace(codec, head=Head.of(*teacher.linear_head()))


def objectives_called(names: str) -> tuple[AnyObjective, ...]:
    """The objectives of a list such as "dkd,dist", each of which can learn from a cache.

    Raises:
        ConfigError: an unknown name.
        UsageError: an objective that no cache can serve, or needs none.
    """
    found = tuple(objective_named(name.strip()) for name in names.split(","))
    for objective in found:
        if not objective.needs.teacher:
            raise UsageError(f"{objective.name} learns without a teacher: leave it out of --for.")
        if objective.needs.maps:
            raise UsageError(
                f"{objective.name} compares feature maps, which are too large to be kept: leave it out of --for, and "
                "train it with --online-teacher."
            )
    return found


def require_no_labels(objectives: Sequence[AnyObjective], progress: Progress) -> None:
    """Refuse what cannot learn where the labels are not the teacher's classes, and say what the others will want.

    Raises:
        UsageError: an objective that distils by the label.
    """
    wanted: dict[str, list[str]] = {}
    for objective in objectives:
        changes = objective.without_labels if isinstance(objective, Distillation) else {}
        if not changes:
            raise UsageError(
                f"{objective.name} distils by the label, and with --label-space none labels are not the teacher's "
                "classes: leave it out of --for."
            )
        settings = " ".join(f"--set objective.{name}={plainly(value)}" for name, value in changes.items())
        wanted.setdefault(settings, []).append(objective.name)
    each = [f"{' and '.join(dict.fromkeys(names))} will want {settings}" for settings, names in wanted.items()]
    progress.say(f"Labels are not the teacher's classes (--label-space none): in training {'; '.join(each)}.")


def coding_for(teacher: Teacher, objectives: Sequence[AnyObjective], progress: Progress) -> TargetCodec:
    """The codec that serves all of these objectives, with their own settings and without approximation.

    Where two kinds do, it is that with fewer numbers an answer.

    Raises:
        ModelError: one needs features, and the teacher's classifier is not one linear layer.
        UsageError: one needs features, and the classifier is too large for a cache; or one needs more classes.
    """
    for objective in objectives:
        if teacher.num_classes < objective.needs.classes:
            raise UsageError(
                f"{objective.name} has nothing to compare with fewer than {objective.needs.classes} classes, and "
                f"{teacher.name} has {teacher.num_classes}: leave it out of --for."
            )
    related = [objective.name for objective in objectives if objective.needs.teacher_features]
    whole = [objective.name for objective in objectives if objective.needs.full]
    codec: TargetCodec
    if related:
        codec, why = embedding_of(teacher, "uint8"), f"{_listed(related)} the teacher's features"
    elif whole:
        codec, reason = _every_class(teacher)
        why = f"{_listed(whole)} every class, and {reason}"
    else:
        codec = coding_of(teacher, DEFAULT_KIND, k=None, min_prob=None, dtype=None)
        why = f"{_listed([objective.name for objective in objectives])} no more than the likely classes and a tail"
    settings = ", ".join(f"{name} {value}" for name, value in codec.parameters().items() if name != "head")
    progress.say(f"Keeps {codec.kind} targets ({settings}): {why}.")
    return codec


def _every_class(teacher: Teacher) -> tuple[TargetCodec, str]:
    """Of the two kinds that have every class, that with fewer numbers an answer, and why."""
    full = create_codec("full", teacher.num_classes, dtype="uint8")
    vectors = teacher.class_vectors
    if vectors is None:
        return full, "the teacher's classifier is not one linear layer"
    features = vectors.shape[1]
    if features >= teacher.num_classes:
        return full, f"{teacher.num_classes:,} classes take no more than the {features:,} features"
    try:
        return embedding_of(teacher, "uint8"), f"{features:,} features take less than {teacher.num_classes:,} classes"
    except (ModelError, UsageError):
        return full, "they cannot be rebuilt from the teacher's features"


def _listed(names: Sequence[str]) -> str:
    """Names with a verb: "dkd needs", "dkd and dist need"."""
    names = list(dict.fromkeys(names))
    if len(names) == 1:
        return f"{names[0]} needs"
    return f"{', '.join(names[:-1])} and {names[-1]} need"

"""The choice of a dump's target codec, from its options or from the objectives to be trained."""

from collections.abc import Sequence

from kdcache.errors import ModelError, UsageError
from kdcache.models.teachers import Teacher
from kdcache.objectives.distillation import format_setting
from kdcache.objectives.registry import AnyObjective, objective_named
from kdcache.runtime.progress import Progress
from kdcache.targets.base import TargetCodec
from kdcache.targets.embedding import EmbeddingCodec
from kdcache.targets.full import FullCodec
from kdcache.targets.kinds import DEFAULT_KIND, codec_for_teacher, require_options_of


def codec_of(teacher: Teacher, kind: str, *, k: int | None, min_prob: float | None, dtype: str | None) -> TargetCodec:
    """Return the codec of a kind of targets; None stands for the default of that kind.

    Raises:
        UsageError: a parameter that the kind does not have, or a value that makes no sense.
        ModelError: the kind stores the teacher's classifier, which is not one linear layer.
    """
    options = {"k": k, "min_prob": min_prob, "dtype": dtype}
    require_options_of(kind, options)
    given = {name: value for name, value in options.items() if value is not None}
    return codec_for_teacher(kind, teacher.num_classes, teacher.linear_head, **given)


def parse_objectives(names: str) -> tuple[AnyObjective, ...]:
    """Return the objectives of a list such as "dkd,dist", each of which can learn from a cache.

    Raises:
        ConfigError: an unknown name.
        UsageError: an objective that no cache can serve, or that needs no teacher.
    """
    found = tuple(objective_named(name.strip()) for name in names.split(","))
    for objective in found:
        if not objective.needs.teacher:
            raise UsageError(f"{objective.name} learns without a teacher: leave it out of --for.")
        if objective.needs.maps:
            raise UsageError(
                f"{objective.name} compares feature maps, which are too large to be cached: leave it out of --for, and "
                "train it with --online-teacher."
            )
    return found


def require_no_labels(objectives: Sequence[AnyObjective], progress: Progress) -> None:
    """Refuse objectives that need the teacher's classes as labels, and report the settings that the others need.

    Raises:
        UsageError: an objective that distils by the label.
    """
    wanted: dict[str, list[str]] = {}
    for objective in objectives:
        changes = objective.without_labels
        if not changes:
            raise UsageError(
                f"{objective.name} distils by the label, and with --label-space none labels are not the teacher's "
                "classes: leave it out of --for."
            )
        settings = " ".join(f"--set objective.{name}={format_setting(value)}" for name, value in changes.items())
        wanted.setdefault(settings, []).append(objective.name)
    each = [f"{' and '.join(dict.fromkeys(names))} will need {settings}" for settings, names in wanted.items()]
    progress.say(f"Labels are not the teacher's classes (--label-space none): in training {'; '.join(each)}.")


def codec_for(teacher: Teacher, objectives: Sequence[AnyObjective], progress: Progress) -> TargetCodec:
    """Return the codec that serves all of these objectives, with their own settings and without approximation.

    If two kinds do, the one with fewer numbers per view is taken.

    Raises:
        ModelError: an objective needs features, and the teacher's classifier is not one linear layer.
        UsageError: an objective needs features, and the classifier is too large for a cache; or it needs more classes
            than the teacher has.
    """
    for objective in objectives:
        if teacher.num_classes < objective.needs.classes:
            raise UsageError(
                f"{objective.name} needs at least {objective.needs.classes} classes, and "
                f"{teacher.name} has {teacher.num_classes}: leave it out of --for."
            )
    related = [objective.name for objective in objectives if objective.needs.teacher_features]
    whole = [objective.name for objective in objectives if objective.needs.full]
    codec: TargetCodec
    if related:
        codec = _embedding_of(teacher)
        why = f"{_listed(related)} the teacher's features"
    elif whole:
        codec, reason = _every_class(teacher)
        why = f"{_listed(whole)} every class, and {reason}"
    else:
        codec = codec_of(teacher, DEFAULT_KIND, k=None, min_prob=None, dtype=None)
        why = f"{_listed([objective.name for objective in objectives])} no more than the likely classes and a tail"
    settings = ", ".join(f"{name} {value}" for name, value in codec.parameters().items() if name != "head")
    progress.say(f"Stores {codec.kind} targets ({settings}): {why}.")
    return codec


def _every_class(teacher: Teacher) -> tuple[TargetCodec, str]:
    """Return the codec with every class that stores fewer numbers per view, and the reason as a clause."""
    full = FullCodec(teacher.num_classes, dtype="uint8")
    vectors = teacher.class_vectors
    if vectors is None:
        return full, "the teacher's classifier is not one linear layer"
    features = vectors.shape[1]
    if features >= teacher.num_classes:
        return full, f"{teacher.num_classes:,} classes take no more than the {features:,} features"
    try:
        return _embedding_of(teacher), f"{features:,} features take less than {teacher.num_classes:,} classes"
    except (ModelError, UsageError):
        return full, "they cannot be rebuilt from the teacher's features"


def _embedding_of(teacher: Teacher) -> EmbeddingCodec:
    return EmbeddingCodec.for_teacher(teacher.num_classes, teacher.linear_head)


def _listed(names: Sequence[str]) -> str:
    """Return names with a verb, such as "dkd needs" or "dkd and dist need"."""
    names = list(dict.fromkeys(names))
    if len(names) == 1:
        return f"{names[0]} needs"
    return f"{', '.join(names[:-1])} and {names[-1]} need"

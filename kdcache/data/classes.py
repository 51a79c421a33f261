"""Checks that a data set and a model number the same classes alike."""

from kdcache.data.index import Index
from kdcache.errors import IdentityError, UsageError


def require_same_classes(data: tuple[str, ...] | None, model: tuple[str, ...] | None, other: str) -> None:
    """Raise IdentityError if both have class names and these differ: labels would be shifted."""
    if data is None or model is None or data == model:
        return
    differing = next((pair for pair in zip(data, model, strict=False) if pair[0] != pair[1]), None)
    what = (
        f"{len(data):,} classes, {other} {len(model):,}"
        if differing is None
        else f"{differing[0]!r}, {other} {differing[1]!r}"
    )
    raise IdentityError(
        f"The data's classes are not those of {other}: the data has {what}. Give data whose classes.json lists the "
        "same classes in the same order, also those that have no image there.",
        field="class_names",
    )


def check_labels(index: Index, num_classes: int, class_names: tuple[str, ...] | None) -> None:
    """Raise UsageError or IdentityError if a model with these classes cannot be scored on `index`."""
    require_same_classes(index.class_names, class_names, "the model")
    if len(index) == 0 or int(index.label.min()) < 0:
        raise UsageError(
            f"{data_of(index)} has samples without labels, and a score needs a label for each: add them as KEY.cls and "
            "index the data again."
        )
    if index.num_classes > num_classes or (index.class_names is not None and index.num_classes != num_classes):
        raise IdentityError(
            f"{data_of(index)} has {index.num_classes:,} classes, the model {num_classes:,}: evaluate on data with "
            "the classes it was trained on.",
            field="num_classes",
        )


def data_of(index: Index) -> str:
    """Return the place of an index's samples, for messages."""
    return str(index.shards_folder) if len(index.shards) > 1 else index.shards[0]

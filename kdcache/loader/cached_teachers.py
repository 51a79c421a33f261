"""Cached targets of one teacher, or a weighted mixture of several teachers."""

from dataclasses import dataclass
from typing import Any

from kdcache.cache.coverage import MissingViews, missing_views
from kdcache.cache.entry import Entry
from kdcache.cache.store import Cache
from kdcache.data.index import Index
from kdcache.errors import IdentityError, UsageError
from kdcache.runtime.formatting import format_count, format_ranges
from kdcache.runtime.progress import Progress
from kdcache.targets.base import Capabilities
from kdcache.targets.mixture import mixed_capabilities


@dataclass(frozen=True)
class CachedTeachers:
    """Entries of a cache that a student learns from.

    Attributes:
        entries: entries of one cache, of the same label space and number of classes.
        shares: weight of each entry in the mixture; the weights sum to 1.
    """

    entries: tuple[Entry, ...]
    shares: tuple[float, ...]

    @property
    def name(self) -> str:
        """The teacher's name, or the names of all teachers with their weights, as text for messages."""
        names = [entry.identity.name for entry in self.entries]
        if len(names) == 1:
            return names[0]
        return " and ".join(f"{share:.3g} of {name}" for share, name in zip(self.shares, names, strict=True))

    @property
    def label_space(self) -> str:
        """The label space, which is the same for all entries."""
        return self.entries[0].identity.label_space

    @property
    def num_classes(self) -> int:
        """Number of classes, which is the same for all entries."""
        return self.entries[0].identity.num_classes

    @property
    def num_features(self) -> int | None:
        """Number of features that enter the classifier of the first teacher; None where they are not kept."""
        return self.entries[0].codec.kept_features

    @property
    def capabilities(self) -> Capabilities:
        """What the targets can give to an objective."""
        each = [entry.codec.capabilities for entry in self.entries]
        return each[0] if len(each) == 1 else mixed_capabilities(each)

    def require_one(self) -> None:
        """Raise UsageError where there are several teachers, because their features have nothing in common."""
        if len(self.entries) > 1:
            raise UsageError(
                "The objective relates the teacher's features, and those of several teachers have nothing in common: "
                "choose one with --teacher."
            )

    def require_records(self, views: int) -> None:
        """Raise CorruptError where a record of the first `views` views is damaged or belongs to another block.

        Without this check a training would stop when it reaches that block, perhaps after days.
        """
        for entry in self.entries:
            entry.require_records(range(views))

    def complete_views(self) -> int:
        """Return the number of views, from view 0 on without a gap, that are complete in every entry."""
        return min(entry.complete_views() for entry in self.entries)

    def usable_views(self, repeats: int) -> int:
        """Return the number of views that a training can use: from view 0 on without a gap, in whole groups.

        Args:
            repeats: number of views of a group.

        Raises:
            UsageError: no view can be used; the message names the views that are there and the remedy.
        """
        usable = self.complete_views() // repeats * repeats
        if usable:
            return usable
        there = sorted(set.intersection(*(set(entry.whole_views()) for entry in self.entries)))
        groups = f", in groups of {repeats}" if repeats > 1 else ""
        if not there:
            raise UsageError(
                f"{self.name} has no view in the cache that is complete in every block: run the same `kdcache "
                "dump-logits` again to finish it."
            )
        missing = format_ranges(sorted(set(range(repeats)) - set(there)))
        cache, up_to = self.entries[0].files.locate(""), -(-(there[-1] + 1) // repeats) * repeats
        raise UsageError(
            f"Training takes views from 0 on without a gap{groups}, and of {self.name} the cache {cache} holds views "
            f"{format_ranges(there)}, without {missing}. Add the others from the cache that these were copied from: "
            "`kdcache "
            f"cache copy SRC {cache} --views 0:{repeats}`; or make them: `kdcache dump-logits` as before, with --views "
            f"{up_to}."
        )

    def missing_views(self, repeats: int) -> list[MissingViews]:
        """Return the missing views of each entry that has any before its last view."""
        found = [missing_views(entry, repeats) for entry in self.entries]
        return [each for each in found if each is not None]

    def to_json(self) -> dict[str, Any]:
        """Return the identities of the teachers, with their shares where there are several, as JSON data."""
        if len(self.entries) == 1:
            return self.entries[0].identity.to_json()
        pairs = zip(self.entries, self.shares, strict=True)
        return {"mixture": [{"share": share, **entry.identity.to_json()} for entry, share in pairs]}


def parse_teachers(text: str) -> dict[str, float]:
    """Return the share of each teacher that a text such as "a=0.7,b=0.3" names; the shares sum to 1.

    Names without weights get equal shares.

    Raises:
        UsageError: the text is of another form.
    """
    weights = _weights(text)
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def describe_scaled_weights(text: str) -> str | None:
    """Return a warning that tells the shares where the given weights do not sum to 1.

    Returns None where the weights sum to 1, and for names without weights.

    Raises:
        UsageError: as `parse_teachers` does.
    """
    total = sum(_weights(text).values())
    if "=" not in text or abs(total - 1) < 1e-3:
        return None
    shares = " and ".join(f"{share:.3g} of {name}" for name, share in parse_teachers(text).items())
    return (
        f"The weights of --teachers sum to {total:.4g}; divided by that, the student learns from {shares}. Give "
        "weights that sum to 1 if other shares are meant."
    )


def _weights(text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, separator, number = part.strip().partition("=")
        try:
            weight = float(number) if separator else 1.0
        except ValueError:
            weight = 0.0
        if not name or name in weights or not 0 < weight < float("inf"):
            raise UsageError(
                f"--teachers {text!r} makes no sense at {part.strip()!r}: give each name once, with a weight above 0, "
                "such as a=0.7,b=0.3."
            )
        weights[name] = weight
    if 0 < text.count("=") < len(weights):
        raise UsageError(
            f"--teachers {text!r} gives some names a weight and others none: give all of them one, or none."
        )
    return weights


def open_cached_teachers(cache: Cache, teacher: str | None, teachers: str | None) -> CachedTeachers:
    """Open the entries of a cache that a student is to learn from.

    Args:
        cache: cache that holds the entries.
        teacher: name of one entry; None for the only one of the cache, or for `teachers`.
        teachers: names and weights of several entries, as `parse_teachers` reads them.

    Raises:
        UsageError: the cache does not hold a named entry, or holds several and none is named.
        IdentityError: the teachers differ in number of classes or label space, so their targets cannot be mixed.
    """
    there = cache.names()
    if not there:
        raise UsageError(
            f"The cache {cache.location} holds no teacher's targets yet: run `kdcache dump-logits --teacher NAME`."
        )
    if teacher is not None and teachers is not None:
        raise UsageError("--teacher names one entry of the cache and --teachers several: give one of them.")
    if teacher is None and teachers is None and len(there) > 1:
        raise UsageError(
            f"The cache {cache.location} holds {', '.join(there)}: choose one with --teacher, or mix them with "
            "--teachers."
        )
    shares = parse_teachers(teachers) if teachers is not None else {teacher or there[0]: 1.0}
    for name in shares:
        if name not in there:
            raise UsageError(f"The cache {cache.location} holds no teacher {name!r}; it holds {', '.join(there)}.")
    entries = tuple(cache.entry(name) for name in shares)
    for entry in entries[1:]:
        for field in ("num_classes", "label_space"):
            first, other = getattr(entries[0].identity, field), getattr(entry.identity, field)
            if first != other:
                raise IdentityError(
                    f"{entries[0].identity.name} has {field} {first} and {entry.identity.name} {other}: their targets "
                    "cannot be mixed. Choose teachers of the same classes.",
                    field=field,
                )
    return CachedTeachers(entries, tuple(shares.values()))


def log_repeated_views(
    epochs: int, views: int, repeats: int, stored: CachedTeachers | None, progress: Progress
) -> None:
    """Report that views are shown again where there are more epochs than views, and which views could be added.

    Args:
        epochs: number of epochs of the training.
        views: number of views that are used.
        repeats: number of views of a group.
        stored: entries whose missing views are reported; None without a cache.
        progress: receives the messages.
    """
    if epochs <= views:
        return
    progress.say(
        f"{format_count(epochs, 'epoch')} over {format_count(views, 'view')}: each is shown {epochs / views:.3g} "
        "times, in new batches."
    )
    for missing in stored.missing_views(repeats) if stored is not None else ():
        # A gap makes the complete views behind it useless, so it is warned of; an unfinished last view is usual.
        tell = progress.warn if missing.coverage.is_cut else progress.say
        tell(missing.describe())


def why_unlabelled(index: Index, label_space: str) -> str:
    """Return why some images have no label in the teacher's classes, as a clause; empty where all have one."""
    if label_space == "none":
        return "the teacher's classes are not the labels' (label space none)"
    missing = int((index.label < 0).sum())
    return f"{missing:,} of {len(index):,} images have none" if missing else ""

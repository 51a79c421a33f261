"""Whose stored answers a student learns from: one teacher's, or a mixture of several."""

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
    """Entries of a cache, each with its share of the whole; the shares sum to 1."""

    entries: tuple[Entry, ...]
    shares: tuple[float, ...]

    @property
    def name(self) -> str:
        """In words."""
        names = [entry.identity.name for entry in self.entries]
        if len(names) == 1:
            return names[0]
        return " and ".join(f"{share:.3g} of {name}" for share, name in zip(self.shares, names, strict=True))

    @property
    def label_space(self) -> str:
        """That of all."""
        return self.entries[0].identity.label_space

    @property
    def num_classes(self) -> int:
        """Of each of them."""
        return self.entries[0].identity.num_classes

    @property
    def num_features(self) -> int | None:
        """Number of features that enter the classifier of the first teacher; None where they are not kept."""
        return getattr(self.entries[0].codec, "num_features", None)

    @property
    def capabilities(self) -> Capabilities:
        """What the targets can give to an objective."""
        each = [entry.codec.capabilities for entry in self.entries]
        return each[0] if len(each) == 1 else mixed_capabilities(each)

    def require_one(self) -> None:
        """Raise UsageError where there are several, whose features have nothing in common."""
        if len(self.entries) > 1:
            raise UsageError(
                "The objective relates the teacher's features, and those of several teachers have nothing in common: "
                "choose one with --teacher."
            )

    def require_records(self, views: int) -> None:
        """Raise CorruptError where a record of the first views is damaged, or of another block.

        Else a training would end when it comes to that block, perhaps after days.
        """
        for entry in self.entries:
            entry.require_records(range(views))

    def complete_views(self) -> int:
        """Length of the longest prefix of views that each has whole."""
        return min(entry.complete_views() for entry in self.entries)

    def usable_views(self, repeats: int) -> int:
        """Views that a training can use: from 0 on without a gap, in whole groups of `repeats`.

        Raises UsageError where there are none, saying which there are and what helps.
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
        """Return what each entry lacks, of those that lack anything up to their last views."""
        found = [missing_views(entry, repeats) for entry in self.entries]
        return [each for each in found if each is not None]

    def to_json(self) -> dict[str, Any]:
        """What a run's results depend on."""
        if len(self.entries) == 1:
            return self.entries[0].identity.to_json()
        pairs = zip(self.entries, self.shares, strict=True)
        return {"mixture": [{"share": share, **entry.identity.to_json()} for entry, share in pairs]}


def parse_teachers(text: str) -> dict[str, float]:
    """Names with weights, "a=0.7,b=0.3", as shares that sum to 1; names alone have equal ones.

    Raises UsageError for anything else.
    """
    weights = _weights(text)
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def scaled_words(text: str) -> str | None:
    """What weights come to that do not sum to 1, as a line; None for those that do, and for names alone.

    Raises UsageError as `parse_teachers` does.
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
    """The entries that were asked for: `teacher` by its name, several as `parse_teachers` reads them, or the only one.

    Raises:
        UsageError: names that the cache does not hold, or none where it holds several.
        IdentityError: teachers of other numbers of classes or label spaces, which cannot be mixed.
    """
    there = cache.names()
    if not there:
        raise UsageError(
            f"The cache {cache.location} holds no teacher's answers yet: run `kdcache dump-logits --teacher NAME`."
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
                    f"{entries[0].identity.name} has {field} {first} and {entry.identity.name} {other}: their answers "
                    "cannot be mixed. Choose teachers of the same classes.",
                    field=field,
                )
    return CachedTeachers(entries, tuple(shares.values()))


def tell_of_repeated_views(
    epochs: int, views: int, repeats: int, stored: CachedTeachers | None, progress: Progress
) -> None:
    """Say that views are shown again where there are more epochs, and which views of `stored` could be added."""
    if epochs <= views:
        return
    progress.say(
        f"{format_count(epochs, 'epoch')} over {format_count(views, 'view')}: each is shown {epochs / views:.3g} "
        "times, in new batches."
    )
    for lack in stored.missing_views(repeats) if stored is not None else ():
        # A gap makes whole views useless; a view that a dump is at is no news.
        tell = progress.warn if lack.coverage.is_cut else progress.say
        tell(lack.describe())


def why_unlabelled(index: Index, label_space: str) -> str:
    """Return why some images have no label in the teacher's classes, as a clause; empty where all have one."""
    if label_space == "none":
        return "the teacher's classes are not the labels' (label space none)"
    missing = int((index.label < 0).sum())
    return f"{missing:,} of {len(index):,} images have none" if missing else ""

"""`kdcache index`: build the index of shards, check all images, or write the index of a part; and what it holds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.data.index import Index, open_index
from kdcache.data.part import write_part
from kdcache.errors import UsageError
from kdcache.inspection.options import IndexOptions
from kdcache.runtime.formatting import format_count
from kdcache.runtime.progress import Progress, logged


@dataclass(frozen=True)
class IndexReport:
    """What an index holds.

    Attributes:
        classes: number of classes; None without labels.
        checked: whether every image was decoded.
        left_out: number of bad samples that are not in the index.
        lost: number of bad samples that are in the index, marked as lost.
        path: folder of the index.
        found_bad, found_lost: what this check has left out, and marked as lost, in a line each.
    """

    samples: int
    classes: int | None
    shards: int
    checked: bool
    left_out: int
    lost: int
    fingerprint: str
    path: Path
    found_bad: tuple[str, ...] = ()
    found_lost: tuple[str, ...] = ()

    @classmethod
    def of(cls, index: Index, found_bad: tuple[str, ...] = (), found_lost: tuple[str, ...] = ()) -> "IndexReport":
        """Return the report of an index; of a check, with what it has found."""
        return cls(
            samples=len(index),
            classes=index.num_classes or None,
            shards=len(index.shards),
            checked=index.crc is not None,
            left_out=index.left_out,
            lost=len(index.lost),
            fingerprint=index.fingerprint,
            path=Path(index.path),
            found_bad=found_bad,
            found_lost=found_lost,
        )

    def lines(self) -> list[str]:
        """Return the report as plain lines."""
        classes = f"{self.classes:,} classes" if self.classes else "no labels"
        images = f"checked, {self.left_out:,} bad ones left out" if self.checked else "not checked"
        if self.lost:
            images += f", {self.lost:,} marked as lost"
        return [
            *(f"left out {sample}" for sample in self.found_bad),
            *(f"lost {sample}" for sample in self.found_lost),
            f"{self.samples:,} samples, {classes}, {format_count(self.shards, 'shard')}",
            f"images {images}",
            f"fingerprint {self.fingerprint}",
            f"index {self.path}",
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {
            **{name: value for name, value in vars(self).items() if not name.startswith("found_")},
            "path": str(self.path),
            "found": {"left_out": list(self.found_bad), "lost": list(self.found_lost)},
        }


def index(options: IndexOptions, progress: Progress = logged) -> IndexReport:
    """Build the index of shards if it is missing or stale, check their images, or write the index of a part of them.

    Raises:
        UsageError: options that do not belong together.
        BadSamplesError: a check has found bad samples, which are neither left out nor marked as lost.
        DataError: the shards cannot be read, or the index cannot be written.
    """
    if (options.fraction is None) != (options.out is None) or (options.stratified and options.fraction is None):
        raise UsageError("--fraction, --out and --stratified make a smaller index: give --fraction F --out FOLDER.")
    with_check = options.check or options.drop_bad or options.mark_bad
    if options.fraction is not None and with_check:
        raise UsageError("Check the whole first (--check), then take a part of it (--fraction).")
    if options.renderer != IndexOptions.renderer and not with_check:
        raise UsageError("--renderer chooses the decoders of a check: give it with --check, --mark-bad or --drop-bad.")
    if with_check:
        return _check(options, progress)
    found = open_index(options.data, unlabelled=options.unlabelled, progress=progress)
    if options.fraction is not None and options.out is not None:
        found = write_part(found, options.fraction, options.out, stratified=options.stratified, progress=progress)
    return IndexReport.of(found)


def _check(options: IndexOptions, progress: Progress) -> IndexReport:
    from kdcache.inspection.check import check  # which imports torch

    checked = check(
        options.data,
        drop_bad=options.drop_bad,
        mark_bad=options.mark_bad,
        unlabelled=options.unlabelled,
        renderer=options.renderer,
        progress=progress,
    )
    return IndexReport.of(checked.index, tuple(map(str, checked.bad)), tuple(map(str, checked.lost)))

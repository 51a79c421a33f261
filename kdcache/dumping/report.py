"""The report of a dump."""

from dataclasses import asdict, dataclass
from typing import Any

from kdcache.runtime.formatting import format_bytes, format_count, format_duration, format_energy


@dataclass(frozen=True)
class DumpReport:
    """The result of a dump, or the prediction of a dry run.

    Attributes:
        samples: number of samples in the data set.
        views: number of complete views at the end, which may exceed the option `views`; of a dry run, that option.
        written: blocks written by this run, of the `blocks` of all requested views.
        bytes_per_view: bytes on disk for one sample in one view, records included.
        images_per_s: images per second of this run; None if no block was missing.
        top1: share of the views in this run's first blocks (one a process) whose top-1 class is the label; None
            without labels.
        kl: mean KL divergence in nats of the targets from the teacher's outputs, in a dry run's first batch.
        once_bytes, tried: bytes of tables, which are stored once, and number of computed rows; of a dry run.
        to_come: number of rows that the cache does not hold yet; of a dry run.
        rows: targets written by this run.
        seconds: time in which they were computed and written; None of a dry run, or if no block was missing.
        joules: energy of all processes in that time (`kdcache.runtime.energy`); None if it could not be read.
    """

    cache: str
    teacher: str
    samples: int
    views: int
    written: int
    blocks: int
    bytes_per_view: float
    images_per_s: float | None
    top1: float | None
    dry_run: bool
    kl: float | None = None
    once_bytes: int = 0
    tried: int = 0
    to_come: int = 0
    rows: int = 0
    seconds: float | None = None
    joules: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the report as plain lines."""
        total = self.bytes_per_view * self.samples * self.views
        size = f"{self.bytes_per_view:,.1f} bytes a view, {format_bytes(total)} in all"
        what = f"{self.samples:,} samples x {format_count(self.views, 'view')} of {self.teacher}"
        if self.dry_run:
            assert self.images_per_s is not None
            rate = f"{self.images_per_s:,.0f}" if self.images_per_s >= 10 else f"{self.images_per_s:.2g}"
            pace = f"in {format_duration(self.to_come / self.images_per_s)} at {rate} images/s"
            if self.to_come == 0:
                pace = "all of which the cache holds already"
            elif self.to_come < self.samples * self.views:
                some = format_bytes(self.bytes_per_view * self.to_come)
                pace = f"of which {self.to_come:,} targets are still missing, about {some} {pace}"
            once = f", and {format_bytes(self.once_bytes)} once for its tables" if self.once_bytes else ""
            return [
                f"Dry run: {what}: about {size}{once}, {pace}, as "
                f"{self.tried:,} views showed. Targets differ from the teacher's outputs by a KL of {self.kl:.3g} nats "
                f"in the mean. Nothing was written to {self.cache}."
            ]
        if self.images_per_s is None:
            return [f"{self.cache} holds {what} already: {size}. No block was missing, and nothing was written."]
        spent = "" if self.seconds is None else f" in {format_duration(self.seconds)}"
        energy = "" if self.joules is None else f", with {format_energy(self.joules)}"
        done = f"{self.written} of {self.blocks} blocks written by this run{spent}{energy}"
        return [f"{self.cache} holds {what}: {size}; {done}."]

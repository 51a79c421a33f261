"""The options of `report`; nothing heavy is imported here, so that `kdcache report --help` is quick."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from kdcache.runtime.option import Option
from kdcache.runtime.shared_options import Device, Imports, Renderer

_SCORES, _CACHE = "Scores", "Cache"


@dataclass(frozen=True)
class ReportOptions:
    """The options of `report`.

    Attributes:
        data: labelled shards on which the students are scored; None for no scores.
        reference, reference_weights: teacher that they are compared with, as `evaluate` takes it.
        cache: cache that is described; None for none.
        cache_data: its shards, for the gallery and for statistics that need labels; None without these.
        teacher: entry of the cache that the gallery shows; None for the only one.
        dumps: reports of dumps as JSON, whose time and energy the page shows.
    """

    runs: Annotated[
        tuple[str, ...], Option("Run folders, also of trainings that go on.", metavar="RUN", is_argument=True)
    ]
    out: Annotated[Path, Option("HTML file to write.", metavar="FILE")] = Path("report.html")
    data: Annotated[
        str | None,
        Option(
            "Labelled shards on which the students are scored, for the reliability diagram.",
            metavar="DATA",
            default_text="none",
            group=_SCORES,
        ),
    ] = None
    reference: Annotated[
        str | None,
        Option(
            "Teacher or run that the students are compared with on --data: agreement and KL.",
            metavar="MODEL",
            default_text="none",
            group=_SCORES,
            names="teacher",
        ),
    ] = None
    reference_weights: Annotated[
        Path | None,
        Option(
            "Weights of the reference, as --weights of `kdcache evaluate` takes them.",
            metavar="FILE",
            default_text="its own",
            group=_SCORES,
        ),
    ] = None
    cache: Annotated[
        str | None, Option("Cache that the page describes.", metavar="PATH", default_text="none", group=_CACHE)
    ] = None
    cache_data: Annotated[
        str | None,
        Option(
            "Shards of the cache, for the gallery and for statistics that need labels.",
            metavar="DATA",
            default_text="none",
            group=_CACHE,
        ),
    ] = None
    teacher: Annotated[
        str | None,
        Option(
            "Teacher that the gallery shows.",
            metavar="NAME",
            default_text="the cache's only one",
            group=_CACHE,
            names="entry",
        ),
    ] = None
    dumps: Annotated[
        tuple[Path, ...],
        Option(
            "File into which `kdcache dump-logits --json` has printed: its time and energy are shown; repeatable.",
            flag="--dump",
            metavar="FILE",
            default_text="none",
        ),
    ] = ()
    device: Device = "auto"
    renderer: Renderer = "dali"
    imports: Imports = ()

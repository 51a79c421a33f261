"""The options of `index`, `preview`, `inspect`, `verify` and `cache copy`; nothing heavy is imported here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from kdcache.runtime.option import COMPARISON, OUTPUT, VIEWS, Option
from kdcache.runtime.shared_options import (
    DATA,
    DEFAULT_DATA,
    RENDERER,
    CacheArgument,
    Data,
    DecodeOn,
    Device,
    Imports,
    Renderer,
    Weights,
    seed_option,
)


@dataclass(frozen=True)
class IndexOptions:
    """The options of `index`."""

    data: Annotated[
        str,
        Option(
            "Webdataset shards: a folder of tars, or a brace pattern; or a URL of either.",
            metavar="DATA",
            envvar=DATA.envvar,
            is_argument=True,
        ),
    ] = DEFAULT_DATA
    unlabelled: Annotated[bool, Option("Index samples without labels, or ignore their labels.")] = False
    check: Annotated[
        bool, Option("Decode every image, list the bad ones, and store a checksum of the others.", group="Check")
    ] = False
    drop_bad: Annotated[
        bool,
        Option(
            "Do --check, and leave bad images out of the index; caches dumped before are refused afterwards.",
            group="Check",
        ),
    ] = False
    mark_bad: Annotated[
        bool,
        Option(
            "Do --check, and mark bad images as lost: caches of these data stay usable, and training skips the images.",
            group="Check",
        ),
    ] = False
    renderer: Annotated[
        str,
        Option(
            "With --check: pillow tries only Pillow's decoders; dali tries DALI's as well.",
            choices=RENDERER.choices,
            group="Check",
        ),
    ] = "dali"
    fraction: Annotated[
        float | None,
        Option(
            "Share of the samples, from 0 to 1, for a smaller index in --out.", metavar="F", group="A part of the data"
        ),
    ] = None
    stratified: Annotated[
        bool, Option("With --fraction: take this share of every class.", group="A part of the data")
    ] = False
    out: Annotated[
        Path | None,
        Option(
            "With --fraction: folder of the smaller index, which other commands take as DATA.",
            metavar="FOLDER",
            group="A part of the data",
        ),
    ] = None


@dataclass(frozen=True)
class InspectOptions:
    """The options of `inspect`.

    Attributes:
        samples: approximate number of targets of each teacher that are read, spread evenly over all blocks.
    """

    cache: CacheArgument
    data: Annotated[
        str | None,
        Option("Shards of the cache, for the statistics that need labels.", metavar="DATA", default_text="none"),
    ] = None
    samples: Annotated[
        int,
        Option("Number of targets of each teacher that are read for the statistics.", metavar="N", minimum=1),
    ] = 100_000


@dataclass(frozen=True)
class VerifySettings:
    """The options of `verify`, as a user gives them; `VerifyOptions` has those of the comparison as one value."""

    cache: CacheArgument
    data: Annotated[
        str | None,
        Option(
            "With --teacher: shards from which views are rendered again.",
            metavar="DATA",
            default_text="none",
            group=COMPARISON,
        ),
    ] = None
    teacher: Annotated[
        str | None,
        Option(
            "With --data: teacher whose targets are computed again and compared: an entry of the cache (with "
            "--weights if its weights are not timm's), or the --teacher that was given to dump-logits.",
            metavar="NAME",
            default_text="none",
            group=COMPARISON,
            names="entry",
        ),
    ] = None
    weights: Weights = None
    samples: Annotated[
        int,
        Option(
            "With --teacher: number of targets that are computed again, spread over all views and blocks.",
            metavar="N",
            minimum=1,
            group=COMPARISON,
        ),
    ] = 1024
    max_kl: Annotated[
        float,
        Option(
            "With --teacher: nats of KL that targets may lose in the mean, beyond their encoding; one target, 100 "
            "times that.",
            metavar="KL",
            minimum=0.0,
            group=COMPARISON,
        ),
    ] = 0.01
    seed: Annotated[int, seed_option("With --teacher: seed of the choice of targets.", group=COMPARISON)] = 0
    repair: Annotated[bool, Option("Drop bad blocks, so that the next dump-logits computes them again.")] = False
    device: Device = "auto"
    renderer: Renderer = "dali"
    decode: DecodeOn = "auto"
    imports: Imports = ()


CopiedViews = Annotated[
    str | None,
    Option(
        "Only views A to B - 1 (from the first on without A, to the last without B), or view A alone, given as A. "
        "Views keep their numbers.",
        metavar="A:B",
        default_text="all",
    ),
]
CopiedTeachers = Annotated[
    tuple[str, ...],
    Option(
        "Only the targets of these teachers.",
        metavar="NAME,...",
        default_text="all",
        separator=",",
        names="entry",
    ),
]


@dataclass(frozen=True)
class CopyOptions:
    """The options of `cache copy`.

    Attributes:
        views: range of the views to copy, such as "0:50" (without view 50); None for all. Views keep their numbers.
        teachers: names of entries; empty for all.
    """

    source: Annotated[str, Option("The cache to copy.", metavar="SRC", is_argument=True)]
    target: Annotated[
        str,
        Option("Path of the copy; a cache of the same views may exist there.", metavar="DST", is_argument=True),
    ]
    views: CopiedViews = None
    teachers: CopiedTeachers = ()


@dataclass(frozen=True)
class PreviewOptions:
    """The options of `preview`.

    Attributes:
        out: file to write, .html or .png.
        cache: cache whose views are shown, with its targets if it holds any; None for views of `policy` and `seed`.
        images: number of images, taken from the first pairs of view 0, which is a random choice.
        views: number of views, from view 0 on.
        size: pixels per side; None for the policy's reference size.
    """

    data: Data = DEFAULT_DATA
    out: Annotated[Path, Option("File to write: .html or .png.", metavar="FILE", group=OUTPUT)] = Path("preview.html")
    policy: Annotated[
        str | None,
        Option(
            "Policy of the views: a name from `kdcache policies`, or a JSON or YAML file.",
            metavar="NAME_OR_FILE",
            default_text="the cache's, or a2",
            group=VIEWS,
            names="policy",
        ),
    ] = None
    seed: Annotated[int | None, seed_option("Seed of the views.", default_text="the cache's, or 0", group=VIEWS)] = None
    cache: Annotated[
        str | None, Option("Cache whose views are shown, with the teacher's likeliest classes.", metavar="PATH")
    ] = None
    teacher: Annotated[
        str | None,
        Option("Teacher whose targets are shown.", metavar="NAME", default_text="the cache's only one", names="entry"),
    ] = None
    images: Annotated[int, Option("Number of images.", metavar="N", minimum=1, maximum=1000, group=OUTPUT)] = 6
    views: Annotated[
        int, Option("Number of views of each image.", metavar="V", minimum=1, maximum=100, group=OUTPUT)
    ] = 4
    samples: Annotated[
        tuple[str, ...],
        Option(
            "Key of an image to show; may be given several times.",
            flag="--sample",
            metavar="KEY",
            group=OUTPUT,
        ),
    ] = ()
    size: Annotated[
        int | None,
        Option(
            "Pixels per side of a view.",
            metavar="PIXELS",
            minimum=8,
            maximum=1024,
            default_text="the policy's, usually 224",
            group=OUTPUT,
        ),
    ] = None
    renderer: Renderer = "dali"

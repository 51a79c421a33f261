"""The options of `cache push`, `pull` and `card`; nothing heavy is imported here."""

from dataclasses import dataclass
from typing import Annotated

from kdcache.inspection.options import CopiedTeachers, CopiedViews
from kdcache.runtime.option import Option
from kdcache.runtime.shared_options import CacheArgument

Sheet = Annotated[
    str | None,
    Option(
        "Shards of the cache. The card then shows views of some of their images, which everybody sees who sees the "
        "card.",
        metavar="DATA",
        default_text="no contact sheet",
    ),
]


@dataclass(frozen=True)
class PushOptions:
    """The options of `cache push`.

    Attributes:
        target: hf://datasets/OWNER/NAME.
        views: range of the views to push, such as "0:50"; None for all.
        teachers: names of entries; empty for all.
        data: shards, for the contact sheet of the card; None for a card without one.
    """

    cache: CacheArgument
    target: Annotated[
        str,
        Option("Data set on the hub, made private if it is new.", metavar="hf://datasets/OWNER/NAME", is_argument=True),
    ]
    views: CopiedViews = None
    teachers: CopiedTeachers = ()
    data: Sheet = None


@dataclass(frozen=True)
class PullOptions:
    """The options of `cache pull`.

    Attributes:
        source: hf://datasets/OWNER/NAME[@REVISION], or the http(s) URL of a shared cache.
        cache: path or URL of the copy.
    """

    source: Annotated[
        str,
        Option("hf://datasets/OWNER/NAME[@REVISION], or the https URL of a cache.", metavar="URL", is_argument=True),
    ]
    cache: Annotated[
        str,
        Option("Path of the copy; a cache of the same views may exist there.", metavar="CACHE", is_argument=True),
    ]
    views: CopiedViews = None
    teachers: CopiedTeachers = ()


@dataclass(frozen=True)
class CardOptions:
    """The options of `cache card`.

    Attributes:
        place: hf://datasets/OWNER/NAME where it will be shared; None where that is not known yet.
    """

    cache: CacheArgument
    place: Annotated[
        str | None,
        Option("Where it will be shared.", metavar="hf://datasets/OWNER/NAME", default_text="not known yet"),
    ] = None
    data: Sheet = None

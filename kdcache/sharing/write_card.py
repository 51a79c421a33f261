"""`kdcache cache card`: write a card, its contact sheet and the listing that a web server needs beside a cache."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdcache.cache.files import Files
from kdcache.cache.listing import LISTING, Listing
from kdcache.cache.store import Cache
from kdcache.errors import CorruptError
from kdcache.inspection.contact_sheet import png_of
from kdcache.inspection.preview import PreviewOptions, build_sheet
from kdcache.io.hub import HubPlace
from kdcache.runtime.progress import Progress, logged
from kdcache.sharing.card import cache_card
from kdcache.sharing.card_files import CARD, MAX_CARD, SHEET, is_own
from kdcache.sharing.facts import read_facts
from kdcache.sharing.options import CardOptions

#: Images and views of the contact sheet.
_IMAGES, _VIEWS = 4, 4


@dataclass(frozen=True)
class CardReport:
    """The result of `cache card`.

    Attributes:
        card, sheet, listing: places of what was written; None for a README that was left alone, and without a sheet.
        kept: place of the README that was left alone.
    """

    card: str | None
    sheet: str | None
    listing: str
    kept: str | None = None

    def lines(self) -> list[str]:
        """Return the report as plain lines."""
        lines = []
        if self.card is not None:
            lines.append(f"{self.card}: the card of the cache. Fill in its licences before you share it.")
        if self.kept is not None:
            lines.append(
                f"{self.kept} was left as it is: somebody has edited it. Remove it, or give it another name, to have a "
                "card written."
            )
        if self.sheet is not None:
            lines.append(f"{self.sheet}: some images in the first views, for the card.")
        return [*lines, f"{self.listing}: what a web server needs, beside the cache's own files, to offer it."]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return asdict(self)


def write_cache_card(options: CardOptions, progress: Progress = logged) -> CardReport:
    """Write README.md, the contact sheet and the listing beside a cache; a README that somebody edited stays as it is.

    Raises:
        CacheError: there is no cache, it is damaged, or nothing can be written there.
        IdentityError: `data` does not hold the samples of the cache.
        UsageError: a place that names no data set on the hub.
    """
    place = None if options.place is None else str(HubPlace.parse(options.place))
    cache = Cache.open(options.cache, read_only=False)
    files = cache.files
    sheet = None if options.data is None else contact_sheet(options.cache, options.data, cache.names(), progress)
    if sheet is not None:
        files.put(SHEET, sheet)
    own = is_own(read_card(files))
    if own:
        has_sheet = sheet is not None or files.size(SHEET) is not None
        files.put(CARD, cache_card(read_facts(cache), place, has_sheet=has_sheet).encode())
    files.put(LISTING, Listing.of(cache).to_bytes())
    written = [LISTING, *([CARD] if own else []), *([SHEET] if sheet is not None else [])]
    files.flush(written)
    files.tidy()
    return CardReport(
        card=files.locate(CARD) if own else None,
        sheet=None if sheet is None else files.locate(SHEET),
        listing=files.locate(LISTING),
        kept=None if own else files.locate(CARD),
    )


def read_card(files: Files) -> bytes | None:
    """Return the README beside a cache, None where there is none. Raises CorruptError where it is absurdly large."""
    size = files.size(CARD)
    if size is not None and size > MAX_CARD:
        raise CorruptError(f"{files.locate(CARD)} has {size:,} bytes, and a card has a few thousand.", "Remove it.")
    return None if size is None else files.get(CARD)


def contact_sheet(cache: str, data: str, teachers: list[str], progress: Progress) -> bytes:
    """Return the PNG of some images of a data set in the first views of a cache. Raises as `preview` does."""
    teacher = teachers[0] if teachers else None
    options = PreviewOptions(
        data, Path(SHEET), cache=cache, teacher=teacher, images=_IMAGES, views=_VIEWS, renderer="pillow"
    )
    return png_of(build_sheet(options, progress))

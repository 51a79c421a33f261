"""`kdcache cache pull`: copy a shared cache, or a part of it, from the hub or a web server, and check every chunk."""

from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from kdcache.cache.locations import hold_cache, open_files
from kdcache.cache.store import Cache
from kdcache.cache.web import WEB_SCHEMES
from kdcache.errors import UnreadableError, UsageError
from kdcache.inspection.copy import CopyOptions, CopyReport, copy_opened
from kdcache.io.hub import SCHEME
from kdcache.runtime.progress import Progress, logged
from kdcache.sharing.card_files import CARD, SHEET
from kdcache.sharing.options import PullOptions
from kdcache.sharing.write_card import read_card


@dataclass(frozen=True)
class PullReport:
    """The result of a pull.

    Attributes:
        copy: the blocks that were copied.
        card: whether the card was brought, too: only where the folder had none.
    """

    copy: CopyReport
    card: bool

    @property
    def whole(self) -> bool:
        """Whether nothing was left out."""
        return self.copy.whole

    def lines(self) -> list[str]:
        """Return the report as plain lines."""
        brought = [f"{self.copy.target}/{CARD} tells where it comes from, and its licences."] if self.card else []
        return [*self.copy.lines(), *brought]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return asdict(self)


def pull_cache(options: PullOptions, progress: Progress = logged) -> PullReport:
    """Copy a shared cache; a chunk counts when it is what its record says, and is asked for again if it is not.

    A pull that was interrupted goes on when it is run again, and a pull of more views adds them.

    Raises:
        UsageError: no URL of a shared cache, invalid views or teachers, or none that the source holds.
        IdentityError: the target is a cache of other views, or holds another teacher under the same name.
        SourceError: too many blocks in a row cannot be read.
        CacheError: the source cannot be read, or the target cannot be written.
        FolderHeldError: another process copies to the target, or repairs it.
    """
    scheme = options.source.partition("://")[0]
    if f"{scheme}://" != SCHEME and scheme not in WEB_SCHEMES:
        raise UsageError(
            f"{options.source} is no shared cache: give hf://datasets/OWNER/NAME or an https URL. A folder or an "
            "object store is copied by `kdcache cache copy`."
        )
    source = Cache.open(options.source)
    copying = CopyOptions(options.source, options.cache, options.views, options.teachers)
    with hold_cache(options.cache, progress.say, new=True):
        report = copy_opened(source, copying, progress, command="kdcache cache pull")
        return PullReport(report, _bring_card(source, options.cache))


def _bring_card(source: Cache, target: str) -> bool:
    """Put the source's card beside the copy, unless there is one; without a card a pull is as good."""
    files = open_files(target)
    if files.size(CARD) is not None:
        return False
    with suppress(UnreadableError):
        card = read_card(source.files)
        if card is not None:
            sheet = source.files.get(SHEET)
            if sheet is not None:
                files.put_if_absent(SHEET, sheet)
            brought = files.put_if_absent(CARD, card)
            files.tidy()
            return brought
    return False

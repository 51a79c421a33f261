"""`kdcache cache push`: bring a cache, or a part of it, to the Hugging Face hub, with a card."""

from dataclasses import asdict, dataclass
from typing import Any

from kdcache.cache.store import Cache
from kdcache.inspection.copy import CopyOptions, CopyReport, copy_opened
from kdcache.io.hub import HubPlace
from kdcache.runtime.progress import Progress, logged
from kdcache.sharing.card import cache_card
from kdcache.sharing.card_files import CARD, SHEET, is_own
from kdcache.sharing.facts import read_facts
from kdcache.sharing.hub_files import HubFiles
from kdcache.sharing.options import PushOptions
from kdcache.sharing.write_card import contact_sheet, read_card


@dataclass(frozen=True)
class PushReport:
    """The result of a push.

    Attributes:
        copy: the blocks that were copied.
        commits: number of commits that were made.
        card: "written", "taken" from beside the cache, or "kept" as somebody edited it on the hub.
        is_new: whether the repository was made, private.
    """

    copy: CopyReport
    commits: int
    card: str
    is_new: bool

    @property
    def whole(self) -> bool:
        """Whether nothing was left out."""
        return self.copy.whole

    def lines(self) -> list[str]:
        """Return the report as plain lines."""
        place = self.copy.target
        card = {
            "written": f"Its card {place}/{CARD} was written anew.",
            "taken": f"Its card {place}/{CARD} is the one that lies beside {self.copy.source}.",
            "kept": f"Its card {place}/{CARD} was left as it is: somebody has edited it, and it may not tell of what "
            "was pushed now.",
        }[self.card]
        lines = [*self.copy.lines(), card]
        if self.is_new:
            lines.append(
                "The repository is new and private. Fill in the licences on its card, then make it public in its "
                "settings on the hub if they allow it."
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return asdict(self)


def push_cache(options: PushOptions, progress: Progress = logged) -> PushReport:
    """Copy a cache to a repository on the hub, in commits of many files; blocks that are there are passed over.

    A push that was interrupted goes on when it is run again.

    Raises:
        UsageError: invalid views or teachers, none that the cache holds, no data set on the hub, or no token.
        IdentityError: the repository holds a cache of other views or another teacher of the same name, or `data` are
            not the samples of the cache.
        CacheError: the hub refuses it or cannot be reached; what was committed stays.
        SourceError: too many blocks in a row of the cache cannot be read.
    """
    place = HubPlace.parse(options.target)
    source = Cache.open(options.cache)
    sheet = None if options.data is None else contact_sheet(options.cache, options.data, source.names(), progress)
    opened: list[HubFiles] = []

    def open_target() -> HubFiles:
        opened.append(HubFiles(place, progress))
        return opened[0]

    copying = CopyOptions(options.cache, str(place), options.views, options.teachers)
    report = copy_opened(source, copying, progress, open_target, command="kdcache cache push")
    (files,) = opened
    card = _put_card(source, files, sheet)
    files.commit()
    return PushReport(report, files.commits, card, files.is_new)


def _put_card(source: Cache, files: HubFiles, sheet: bytes | None) -> str:
    """Put the card that belongs to what the repository has now; return what `PushReport.card` says of it."""
    beside = source.files.get(SHEET) if sheet is None and source.files.size(SHEET) is not None else sheet
    if beside is not None and files.size(SHEET) != len(beside):
        files.put(SHEET, beside)
    there, local = read_card(files), read_card(source.files)
    if not is_own(there):
        return "kept"
    if local is not None and not is_own(local):
        chosen, how = local, "taken"
    else:
        facts = read_facts(Cache.open(files.locate(""), files=files))
        text = cache_card(facts, str(files.place), has_sheet=files.size(SHEET) is not None)
        chosen, how = text.encode(), "written"
    if chosen != there:
        files.put(CARD, chosen)
    return how

"""The listing of a cache, for places that list nothing, such as a web server: `files.json` beside its zarr.json.

    {"teachers": {NAME: {VIEW: [[FIRST, STOP], ...]}}, "lost": [NAME, ...], "check": ...}

It says which blocks of each view have a record, as ranges of their numbers, and which lists of lost samples there are.
All other keys of a cache follow from its layout. It is no part of the cache's format: a cache in a folder or an object
store is read without it, and whatever it names is checked when it is read.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kdcache.cache.identity import MAX_BLOCKS, TEACHER_NAME, canonical, seal, unseal
from kdcache.cache.layout import LOST, VIEW_CAPACITY
from kdcache.cache.lost import lost_names
from kdcache.cache.record import LOST_NAME
from kdcache.cache.store import Cache
from kdcache.cache.zarr_form import META
from kdcache.errors import CorruptError
from kdcache.io.json_format import parse_json

#: The key of the listing.
LISTING = "files.json"

#: Bytes of the file, at most.
_MAX_BYTES = 64 * 2**20

#: Blocks as ranges of their numbers: the first number of each, and the one after its last.
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Listing:
    """What a cache's folders hold.

    Attributes:
        blocks: the recorded blocks, by teacher and view. They stay ranges, as a few bytes may name millions.
        lost: names of the lists of lost samples.
    """

    blocks: Mapping[str, Mapping[int, Ranges]]
    lost: frozenset[str] = frozenset()

    @classmethod
    def of(cls, cache: Cache) -> "Listing":
        """Return what a cache has, by the names of its records. Raises CacheError where it cannot be listed."""
        blocks = {}
        for name in cache.names():
            entry = cache.entry(name, strict=False, tables=False)
            found = {view: _ranges(entry.surely_listed(view)) for view in entry.views()}
            blocks[name] = {view: ranges for view, ranges in found.items() if ranges}
        return cls(blocks, frozenset(lost_names(cache.files)))

    @classmethod
    def of_keys(cls, keys: Iterable[str]) -> "Listing":
        """Return what a cache has that consists of these keys."""
        blocks: dict[str, dict[int, set[int]]] = {}
        lost = set()
        for parts in (key.split("/") for key in keys):
            match parts:
                case ["teachers", name, meta] if meta == META and TEACHER_NAME.fullmatch(name):
                    blocks.setdefault(name, {})
                case ["teachers", name, "records", view, file] if TEACHER_NAME.fullmatch(name):
                    block = file.removesuffix(".json")
                    if view.isdecimal() and block.isdecimal() and file.endswith(".json"):
                        blocks.setdefault(name, {}).setdefault(int(view), set()).add(int(block))
                case [folder, file] if folder == LOST and LOST_NAME.fullmatch(file.removesuffix(".json")):
                    lost.add(file.removesuffix(".json"))
        ranges = {name: {view: _ranges(found) for view, found in views.items()} for name, views in blocks.items()}
        return cls(ranges, frozenset(lost))

    def to_bytes(self) -> bytes:
        """Return the bytes of the file."""
        teachers = {
            name: {str(view): [list(pair) for pair in ranges] for view, ranges in views.items()}
            for name, views in self.blocks.items()
        }
        return canonical(seal({"teachers": teachers, "lost": sorted(self.lost)})).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> "Listing":
        """Return the listing. Raises CacheError, naming `where`, for anything that `to_bytes` does not write."""
        try:
            content = unseal(parse_json(data, max_bytes=_MAX_BYTES), where)
            blocks = {
                name: {_view(view): _checked(ranges) for view, ranges in views.items()}
                for name, views in content["teachers"].items()
                if TEACHER_NAME.fullmatch(name)
            }
            lost = frozenset(name for name in content["lost"] if LOST_NAME.fullmatch(name))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptError(
                f"{where} is no listing of a cache, or it was altered.",
                "Write it again with `kdcache cache card` or `kdcache cache push`, where the cache lies in a folder.",
            ) from error
        return cls(blocks, lost)

    def names(self, folder: str) -> list[str] | None:
        """Return the names directly under one of the folders that have to be listed; None for any other folder."""
        match folder.split("/"):
            case ["teachers"]:
                return sorted([META, *self.blocks])
            case ["teachers", name, "records"]:
                return sorted([META, *map(str, self.blocks.get(name, {}))])
            case ["teachers", name, "records", view]:
                ranges = self.blocks.get(name, {}).get(int(view) if view.isdecimal() else -1, ())
                return sorted(f"{block}.json" for first, stop in ranges for block in range(first, stop))
            case [only] if only == LOST:
                return sorted(f"{name}.json" for name in self.lost)
        return None


def _ranges(numbers: Iterable[int]) -> Ranges:
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number:
            found[-1] = (found[-1][0], number + 1)
        else:
            found.append((number, number + 1))
    return tuple(found)


def _checked(ranges: Any) -> Ranges:
    """Return ranges in ascending order that do not overlap. Raises ValueError for anything else."""
    last = 0
    for first, stop in ranges:
        if type(first) is not int or type(stop) is not int or not last <= first < stop <= MAX_BLOCKS:
            raise ValueError(f"{first} to {stop} are no blocks")
        last = stop
    return tuple((first, stop) for first, stop in ranges)


def _view(text: str) -> int:
    view = int(text)
    if str(view) != text or not 0 <= view < VIEW_CAPACITY:
        raise ValueError(f"{text} is no view")
    return view

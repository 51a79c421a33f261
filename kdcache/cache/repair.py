"""Putting a damaged cache right, as far as what is left of it tells how.

The zarr.json files of arrays and folders follow from the identities, and are written again. A block of which a byte is
wrong loses its record, and a table that is wrong goes, so that the next dump makes them anew. An identity follows from
nothing; but it is sealed, and of all that differ from it in one byte only it fits its own seal.
"""

import string
from dataclasses import dataclass, field

from kdcache.cache.files import Files
from kdcache.cache.identity import unseal
from kdcache.cache.zarr_form import OURS, group_metadata
from kdcache.errors import CacheError
from kdcache.io.json_format import parse_json

#: What a zarr.json is made of.
LETTERS = (string.digits + string.ascii_letters + string.punctuation + " \n").encode()

#: Bytes of an identity for which each byte is tried, which takes some seconds; identities have one or two thousand.
MAX_IDENTITY = 2**13


@dataclass(frozen=True)
class Repair:
    """What puts something right: the bytes that belong under a key, or None where the key has to go."""

    key: str
    data: bytes | None


@dataclass
class Repairs:
    """Repairs that were tried.

    files: where they are made, None where nothing may be changed.
    rewritten, dropped: the keys.
    failed: what could not be changed, and why, in sentences.
    """

    files: Files | None = None
    rewritten: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def make(self, repair: Repair) -> bool:
        """Try a repair and return whether it was made. An error is kept and not raised, so that no finding is lost."""
        if self.files is None:
            return False
        try:
            if repair.data is None:
                self.files.delete(repair.key)
                self.dropped.append(repair.key)
            else:
                self.files.put(repair.key, repair.data)
                self.files.flush([repair.key])
                self.rewritten.append(repair.key)
        except CacheError as error:
            self.failed.append(str(error))
            return False
        return True

    def done(self, repair: Repair) -> str:
        """Return the outcome of a repair as a sentence; empty where nothing was tried, or it failed."""
        if repair.key in self.rewritten:
            return "It was written again."
        return "It was dropped." if repair.key in self.dropped else ""


def repaired_identity(data: bytes) -> bytes | None:
    """Return an identity's zarr.json as it was before one byte, or what is not the identity's, was altered, or None."""
    found = _sealed(data)
    if found is not None:
        return found
    if len(data) > MAX_IDENTITY:
        return None
    altered = bytearray(data)
    for place, byte in enumerate(data):
        for letter in LETTERS:
            altered[place] = letter
            found = _sealed(bytes(altered))
            if found is not None and found == altered:
                return found
        altered[place] = byte
    return None


def _sealed(data: bytes) -> bytes | None:
    """Return the zarr.json that holds the identity of this one, where that fits its seal."""
    try:
        sealed = parse_json(data)["attributes"][OURS]
        return group_metadata({OURS: sealed}) if unseal(sealed, "") else None
    except (ValueError, LookupError, TypeError, CacheError):
        return None

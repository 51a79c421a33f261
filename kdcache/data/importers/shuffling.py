"""The random order in which importers write samples."""

import hashlib
from collections.abc import Iterable


def shuffled(keys: Iterable[str], seed: int) -> list[str]:
    """Return the keys in a random order that depends on them and the seed alone, not on the order they came in.

    Sorted by the BLAKE2b hash of each key under the seed (0 to 2^64 - 1), so that some of the keys come in the order
    that they have among all.
    """
    salt = seed.to_bytes(8, "little")
    return sorted(keys, key=lambda key: (hashlib.blake2b(key.encode(), digest_size=16, key=salt).digest(), key))

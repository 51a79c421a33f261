"""One shard -> the table of its samples, by webdataset's rules, from tar and image headers alone."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader

import numpy as np
from jaxtyping import Int32, Int64

from kdcache.data.images import IMAGE_EXTENSIONS, image_size
from kdcache.data.shard_file import FileSlice, ShardFile
from kdcache.data.shards import open_shard
from kdcache.data.tar import Member, members
from kdcache.errors import DataError

LABEL = "cls"
LARGEST_LABEL = 2**31 - 1
_LONGEST_LABEL_TEXT = 32
_META = re.compile(r"__[^/]*__($|/)")


@dataclass(frozen=True)
class BadSample:
    """A sample whose image cannot be used: its key, the shard, the byte there at which the image begins, and why.

    label: -1 for unlabelled.
    """

    key: str
    shard: str
    offset: int
    reason: str
    label: int

    def __str__(self) -> str:
        return f"{self.key} in {self.shard} at byte {self.offset}: {self.reason}"


@dataclass(frozen=True, eq=False)
class ShardTable:
    """The samples of one shard, in its order.

    keys: their UTF-8 bytes one after the other; key_lengths int64 [n]: how many bytes each has.
    offset, length: int64 [n], where in the shard the image file lies; height, width: int32 [n] in pixels.
    label: int32 [n], -1 without labels.
    bad: samples that are not among them, where broken image headers are passed over.
    """

    keys: bytes
    key_lengths: Int64[np.ndarray, " n"]
    offset: Int64[np.ndarray, " n"]
    length: Int64[np.ndarray, " n"]
    height: Int32[np.ndarray, " n"]
    width: Int32[np.ndarray, " n"]
    label: Int32[np.ndarray, " n"]
    bad: tuple[BadSample, ...] = ()


def split_name(name: str) -> tuple[str, str] | None:
    """The key and the extension, in lower case, of a tar member, as webdataset splits them; None: not a component.

    The key ends at the first dot of the base name. Members named `__x__`, or in a folder so named, are metadata.
    Differing from webdataset, a base name that begins with a dot has no key.
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    if not (stem and dot) or _META.match(name):
        return None
    return folder + slash + stem, extension.lower()


def group(found: Iterable[Member], shard: str) -> Iterator[tuple[str, dict[str, Member]]]:
    """Neighbouring members with one key, as (key, extension -> member).

    Raises DataError when one sample has the same component twice.
    """
    current: str | None = None
    parts: dict[str, Member] = {}
    for member in found:
        split = split_name(member.name)
        if split is None:
            continue
        key, extension = split
        if key != current:
            if current is not None:
                yield current, parts
            current, parts = key, {}
        if extension in parts:
            raise DataError(
                f"The shard {shard} has {member.name} twice, at bytes {parts[extension].offset} and {member.offset}. "
                "A key must name one sample: write the shard again with keys that differ."
            )
        parts[extension] = member
    if current is not None:
        yield current, parts


def scan_shard(shard: str, unlabelled: bool, pass_over: bool = False, data: str = "DATA") -> ShardTable:
    """The table of the samples in the tar at `shard`.

    pass_over: put a sample with a broken image header among the `bad` ones, where it is an error else.
    data: all of the shards as a command takes them, for what an error advises.

    Raises DataError, naming shard, member and byte offset, for a tar that is damaged or cut short, a sample without
    an image, with several, or without a label, a label that is no whole number from 0, and a broken image header.
    """
    with open_shard(shard) as file:
        return _table(shard, file, unlabelled, pass_over, data)


def _table(shard: str, file: ShardFile, unlabelled: bool, pass_over: bool, data: str) -> ShardTable:
    keys: list[bytes] = []
    rows: list[tuple[int, int, int, int, int]] = []
    bad: list[BadSample] = []
    for key, parts in group(members(shard, file), shard):
        image = _image(key, parts, shard)
        encoded = _encode(key, image, shard)
        label = -1 if unlabelled else _label(key, parts, shard, file)
        try:
            height, width = image_size(BufferedReader(FileSlice(file, image.offset, image.length)))
        except ValueError as error:
            if pass_over:
                bad.append(BadSample(key, shard, image.offset, str(error), label))
                continue
            raise DataError(
                f"{image.name} in {shard} at byte {image.offset} cannot be read as an image: {error}. "
                f"`kdcache index {data} --check` finds all such images, and --drop-bad leaves them out; or write the "
                "shard again without them."
            ) from error
        keys.append(encoded)
        rows.append((image.offset, image.length, height, width, label))
    columns = np.array(rows, np.int64).reshape(-1, 5).T
    return ShardTable(
        keys=b"".join(keys),
        key_lengths=np.array([len(key) for key in keys], np.int64),
        offset=columns[0].copy(),
        length=columns[1].copy(),
        height=columns[2].astype(np.int32),
        width=columns[3].astype(np.int32),
        label=columns[4].astype(np.int32),
        bad=tuple(bad),
    )


def _image(key: str, parts: dict[str, Member], shard: str) -> Member:
    images = [extension for extension in parts if extension in IMAGE_EXTENSIONS]
    if len(images) == 1:
        return parts[images[0]]
    first = next(iter(parts.values()))
    listed = ", ".join(images or parts)
    what = f"{len(images)} images ({listed})" if images else f"no image (it has {listed})"
    raise DataError(
        f"The sample {key} in {shard} at byte {first.offset} has {what}. "
        f"Write the shard again with one of {', '.join(IMAGE_EXTENSIONS)} for each sample."
    )


def _encode(key: str, image: Member, shard: str) -> bytes:
    try:
        return key.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{image.name!a} in {shard} at byte {image.offset} has a name that is not UTF-8. "
            "Write the shard again with UTF-8 names."
        ) from error


def _label(key: str, parts: dict[str, Member], shard: str, file: ShardFile) -> int:
    member = parts.get(LABEL)
    if member is None:
        first = next(iter(parts.values()))
        raise DataError(
            f"The sample {key} in {shard} at byte {first.offset} has no label: there is no {key}.{LABEL}. "
            "Write the shard again with labels, or index it with --unlabelled for losses that need none."
        )
    text = file.read(min(member.length, _LONGEST_LABEL_TEXT), member.offset).strip()
    if member.length <= _LONGEST_LABEL_TEXT and re.fullmatch(rb"[0-9]+", text) and int(text) <= LARGEST_LABEL:
        return int(text)
    raise DataError(
        f"{member.name} in {shard} at byte {member.offset} holds {text.decode('ascii', 'backslashreplace')!r}, "
        "which is no class number. Write the shard again with whole numbers from 0, "
        "or index it with --unlabelled for losses that need none."
    )

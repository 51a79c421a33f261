"""One shard -> the table of its samples, by webdataset's rules, from tar and image headers alone."""

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from typing import NoReturn

import numpy as np
from jaxtyping import Int32, Int64

from kdcache.data import remote
from kdcache.data.advice import about_bad
from kdcache.data.images import IMAGE_EXTENSIONS, image_size
from kdcache.data.member_names import LABEL, has_inner_dot, has_no_key, split_name, why_no_component
from kdcache.data.passed_over import PassedOver
from kdcache.data.places import is_url
from kdcache.data.shard_file import FileSlice, ShardFile
from kdcache.data.shards import open_shard
from kdcache.data.tar import Member, members
from kdcache.errors import DataError
from kdcache.io.limits import MAX_CLASSES

LARGEST_LABEL = MAX_CLASSES - 1

_LONGEST_LABEL_TEXT = 32
_NONE = -1
_NOT_READ = -2  # of labels, among which -1 means unlabelled
_EXTENSIONS_SHOWN = 5
_BITS = 64  # of the extensions in a shard; only where the dots are wrong there are more


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

    keys: UTF-8 bytes of the keys, one after the other.
    key_lengths: int64 [n], bytes of each key.
    offset, length: int64 [n], position and size of the image file in the shard, in bytes.
    height, width: int32 [n], pixels.
    label: int32 [n], -1 without labels.
    bad: samples with broken image headers, which are left out of the table if such headers are accepted.
    passed_over: counts of the other members of the shard.
    """

    keys: bytes
    key_lengths: Int64[np.ndarray, " n"]
    offset: Int64[np.ndarray, " n"]
    length: Int64[np.ndarray, " n"]
    height: Int32[np.ndarray, " n"]
    width: Int32[np.ndarray, " n"]
    label: Int32[np.ndarray, " n"]
    bad: tuple[BadSample, ...] = ()
    passed_over: PassedOver = field(default_factory=PassedOver)


def scan_shard(shard: str, unlabelled: bool, pass_over: bool = False, data: str = "DATA") -> ShardTable:
    """Return the table of the samples in the tar at `shard`.

    A sample is all members with its key, wherever in the shard they lie: all images may come before all labels.

    pass_over: put a sample with a broken image header among the `bad` ones, where it is an error else.
    data: all of the shards as a command takes them, for what an error advises.

    Raises DataError, naming shard, member and byte offset, for a tar that is damaged or cut short, a sample without
    an image, with several, or without a label, a label that is no whole number from 0, and a broken image header.
    """

    def scan() -> ShardTable:
        with open_shard(shard) as file:
            scan = _Scan(shard, file, unlabelled, pass_over, data)
            scan.run()
            return scan.table()

    return remote.read_again(shard, scan, lambda table: not table.bad) if is_url(shard) else scan()


class _Scan:
    """The samples of a shard as they come together, some 250 bytes for each.

    Members are read front to back, once: a shard in an object store is fetched by windows.
    """

    def __init__(self, shard: str, file: ShardFile, unlabelled: bool, pass_over: bool, data: str) -> None:
        self._shard, self._file, self._data = shard, file, data
        self._unlabelled, self._pass_over = unlabelled, pass_over
        self._rows: dict[str, int] = {}  # key -> row
        self._first, self._offset, self._length = array("q"), array("q"), array("q")
        self._height, self._width, self._label = array("i"), array("i"), array("i")
        self._extensions: dict[str, int] = {}  # by their number, in the order in which they come
        self._bits, self._more = array("Q"), set[tuple[int, int]]()  # which extensions each row has
        self._broken: dict[int, str] = {}  # row -> what is wrong with the image's header
        self._passed_over = PassedOver()

    def run(self) -> None:
        """Read every member."""
        found = members(self._shard, self._file)
        while True:
            try:
                member = next(found)
            except StopIteration as end:
                if end.value > 1:
                    self._passed_over.joined.append(self._shard)
                return
            self._take(member)

    def _take(self, member: Member) -> None:
        split = split_name(member.name)
        if split is None:
            self._set_aside(member)
            return
        key, extension = split
        row = self._row(key, member)
        number = self._extensions.setdefault(extension, len(self._extensions))
        if self._has(row, number):
            self._refuse_twice(key, extension, member)
        if number < _BITS:
            self._bits[row] |= 1 << number
        else:
            self._more.add((row, number))
        if extension in IMAGE_EXTENSIONS:
            self._take_image(key, row, member)
        elif extension == LABEL:
            self._label[row] = _NONE if self._unlabelled else self._read_label(key, member)
        else:
            self._passed_over.components[extension] += 1

    def _row(self, key: str, member: Member) -> int:
        row = self._rows.setdefault(key, len(self._first))
        if row == len(self._first):
            self._first.append(member.offset)
            self._offset.append(_NONE)
            for column in (self._length, self._height, self._width):
                column.append(0)
            self._label.append(_NONE if self._unlabelled else _NOT_READ)
            self._bits.append(0)
        return row

    def _take_image(self, key: str, row: int, member: Member) -> None:
        if self._offset[row] != _NONE:
            images = [extension for extension in self._extensions_of(row) if extension in IMAGE_EXTENSIONS]
            self._refuse_images(key, row, f"{len(images)} images ({', '.join(images)})")
        if not key.isascii():
            _require_utf8(key, member, self._shard)
        self._offset[row], self._length[row] = member.offset, member.length
        try:
            size = image_size(BufferedReader(FileSlice(self._file, member.offset, member.length)))
        except ValueError as error:
            if not self._pass_over:
                raise DataError(
                    f"{member.name} in {self._shard} at byte {member.offset} cannot be read as an image: {error}. "
                    f"{about_bad(self._data)}; or write the shard again without them."
                ) from error
            self._broken[row] = str(error)
        else:
            self._height[row], self._width[row] = size

    def _read_label(self, key: str, member: Member) -> int:
        text = self._file.read(min(member.length, _LONGEST_LABEL_TEXT), member.offset).strip()
        if member.length <= _LONGEST_LABEL_TEXT and re.fullmatch(rb"[0-9]+", text) and int(text) <= LARGEST_LABEL:
            return int(text)
        raise DataError(
            f"{member.name} in {self._shard} at byte {member.offset} holds "
            f"{text.decode('ascii', 'backslashreplace')!r}, which is no class number: these are whole numbers from 0 "
            f"to {LARGEST_LABEL:,}. Correct the label of the sample {key} and write the shard again, or index it with "
            "--unlabelled for losses that need no labels."
        )

    def _set_aside(self, member: Member) -> None:
        if has_no_key(member.name):
            raise DataError(
                f"{member.name} in {self._shard} at byte {member.offset} has no key: nothing stands before the "
                "extension. Give it a name, and write the shard again."
            )
        self._passed_over.set_aside(why_no_component(member.name), member.name, self._shard)

    def table(self) -> ShardTable:
        """Return the table of the samples. Raises DataError for the first sample without image or label."""
        offset, label = np.array(self._offset, np.int64), np.array(self._label, np.int32)
        incomplete = np.flatnonzero((offset == _NONE) | (label == _NOT_READ))
        keys = list(self._rows)
        if len(incomplete):
            row = int(incomplete[0])
            if offset[row] == _NONE:
                self._refuse_images(keys[row], row, f"no image (it has {self._listed(row)})")
            self._refuse_unlabelled(keys[row], row)
        bad = tuple(
            BadSample(keys[row], self._shard, int(offset[row]), reason, int(label[row]))
            for row, reason in self._broken.items()
        )
        whole = np.delete(np.arange(len(keys)), list(self._broken))
        encoded = [keys[row].encode() for row in whole.tolist()]
        return ShardTable(
            keys=b"".join(encoded),
            key_lengths=np.array([len(key) for key in encoded], np.int64),
            offset=offset[whole],
            length=np.array(self._length, np.int64)[whole],
            height=np.array(self._height, np.int32)[whole],
            width=np.array(self._width, np.int32)[whole],
            label=label[whole],
            bad=bad,
            passed_over=self._passed_over,
        )

    def _extensions_of(self, row: int) -> Iterator[str]:
        return (extension for extension, number in self._extensions.items() if self._has(row, number))

    def _has(self, row: int, number: int) -> bool:
        return bool(self._bits[row] >> number & 1) if number < _BITS else (row, number) in self._more

    def _listed(self, row: int) -> str:
        extensions = list(self._extensions_of(row))
        more = f" and {len(extensions) - _EXTENSIONS_SHOWN:,} more" if len(extensions) > _EXTENSIONS_SHOWN else ""
        return ", ".join(extensions[:_EXTENSIONS_SHOWN]) + more

    def _refuse_images(self, key: str, row: int, what: str) -> NoReturn:
        raise DataError(
            f"The sample {key} in {self._shard} at byte {self._first[row]} has {what}. "
            + (
                self._about_dots(key, row)
                or f"Write the shard again with one of {', '.join(IMAGE_EXTENSIONS)} for each sample."
            )
        )

    def _refuse_unlabelled(self, key: str, row: int) -> NoReturn:
        raise DataError(
            f"The sample {key} in {self._shard} at byte {self._first[row]} has no label: there is no {key}.{LABEL} in "
            "this shard. "
            + (
                self._about_dots(key, row)
                or "Write the shard again with labels, or index it with --unlabelled for losses that need none."
            )
        )

    def _about_dots(self, key: str, row: int) -> str:
        """Return webdataset's rule for keys, for errors, if this sample shows that the shard follows another."""
        dotted = next((extension for extension in self._extensions_of(row) if has_inner_dot(extension)), None)
        if dotted is None:
            return ""
        middle, _, last = dotted.rpartition(".")
        base = key.rpartition("/")[2]
        return (
            f"As in webdataset, a key ends at the first dot of the base name: {base}.{dotted} is the component "
            f"{dotted} of the sample {base}. Give the files names with one dot, such as "
            f"{base}_{middle.replace('.', '_')}.{last}, and write the shard again; `kdcache import folder` does so by "
            "itself."
        )

    def _refuse_twice(self, key: str, extension: str, member: Member) -> NoReturn:
        first = next(
            other.offset for other in members(self._shard, self._file) if split_name(other.name) == (key, extension)
        )
        raise DataError(
            f"The key {key} is there twice: {member.name} is in {self._shard} at byte {first} and in {self._shard} at "
            f"byte {member.offset}. A key must name one sample: leave one out, or write the shard again with keys that "
            "differ."
        )


def _require_utf8(key: str, member: Member, shard: str) -> None:
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{member.name!a} in {shard} at byte {member.offset} has a name that is not UTF-8. "
            "Write the shard again with UTF-8 names."
        ) from error

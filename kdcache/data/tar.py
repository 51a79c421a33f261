"""The members of a tar file, strictly: what a lenient reader passes over in silence is an error here.

Python's tarfile ends quietly at a damaged or half-written header as if the archive ended there, and so do most readers;
of a shard that was cut short, the last images would be missing and nobody would know. Most readers also stop at the
first end-of-archive mark, and lose what `cat b.tar >> a.tar` put behind it.
"""

import tarfile
from collections.abc import Generator
from io import BufferedIOBase, BufferedReader
from typing import IO, NamedTuple, NoReturn, cast

from kdcache.data.member_names import is_set_aside
from kdcache.data.shard_file import FileSlice, ShardFile
from kdcache.errors import DataError

BLOCK = tarfile.BLOCKSIZE

MAX_ZEROS = 64 << 20
"""Bytes of zeros that may follow an archive. Tars are filled up to a record, of 10,240 bytes or, for tapes, a few
megabytes; more is left where a download made the whole file beforehand and stopped."""

MAX_HEADER = 1 << 20
"""Limit of the bytes of one long name or extended header; file systems allow 4,096 for a path."""

_GZIP, _ZSTD, _APPLE_DOUBLE = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x00\x05\x16\x07"
_VOLUME_LABEL, _DIRECTORY_LISTING, _CONTINUATION = b"V", b"D", b"M"  # of GNU tar
_AGAIN = "Copy the shard again from its source"
_KINDS = {
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a FIFO",
}
_WITHOUT_DATA = (tarfile.DIRTYPE, _VOLUME_LABEL, _DIRECTORY_LISTING)


class Member(NamedTuple):
    """A file in a tar: its name, and where in the tar its content begins and how long it is, in bytes.

    A hard link has the content of the member that it links to.
    """

    name: str
    offset: int
    length: int


def members(path: str, file: ShardFile) -> Generator[Member, None, int]:
    """Every file of the tar at `path`, open as `file`, front to back, from its headers alone; returns the number of
    archives in it.

    Where archives follow one another, each with its end-of-archive mark, the members of all of them come. Directories
    and volume labels hold nothing, and do not come.

    Raises DataError when the file is no plain tar, has a damaged header, ends before its end-of-archive mark, has
    anything but archives or zeros behind it, or holds what cannot be read at random: a link to something outside, a
    sparse file, a device. Such a member comes, with length 0, if its name shows that it belongs to no sample.
    """
    start: int | None = 0
    archives = 0
    while start is not None:
        end = yield from _archive(path, file, start)
        archives += 1
        start = _next_archive(path, file, end)
    return archives


def _archive(path: str, file: ShardFile, start: int) -> Generator[Member, None, int]:
    """Yield the members of the archive that begins at byte `start`; return where its end-of-archive mark begins."""
    end = start  # of the members so far
    linked: dict[str, Member] | None = None  # every earlier file by name, once there is a hard link
    try:
        with file.stream() as stream, _open(stream, start) as tar:
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # or tarfile keeps every header it has seen
                offset = start + info.offset_data
                end = start + tar.offset
                if info.size < 0 or end < offset:
                    raise ValueError("a member of negative size")  # tarfile would go round in a circle
                if info.type in _WITHOUT_DATA:
                    continue
                is_plain = info.isreg() and not info.issparse()
                if not is_plain and is_set_aside(info.name):
                    yield Member(info.name, offset, 0)
                    continue
                if is_plain:
                    member = Member(info.name, offset, info.size)
                elif info.islnk():
                    if linked is None:
                        linked = _earlier(file, start, start + info.offset)
                    found = linked.get(info.linkname)
                    if found is None or info.size:
                        _refuse(path, start, info)
                    member = Member(info.name, found.offset, found.length)
                else:
                    _refuse(path, start, info)
                if member.offset + member.length > file.size:
                    raise DataError(
                        f"The shard {path} is cut short: {info.name} at byte {offset} should end at byte "
                        f"{offset + info.size}, and the file ends at byte {file.size}. {_AGAIN}."
                    )
                if linked is not None:
                    linked[member.name] = member
                yield member
    except (tarfile.TarError, ValueError, RecursionError) as error:
        raise _damage(path, file, start, end) from error
    if file.read(BLOCK, end) != bytes(BLOCK):
        raise _damage(path, file, start, end)
    return end


def _open(stream: BufferedIOBase, start: int) -> tarfile.TarFile:
    return tarfile.open(fileobj=cast(IO[bytes], _Headers(stream, start)), mode="r:")


class _Headers:
    """The stream from which tarfile reads headers: the shard from the byte `start` on. No image is read."""

    def __init__(self, stream: BufferedIOBase, start: int) -> None:
        self._stream, self._start = stream, start
        stream.seek(start)

    def read(self, size: int) -> bytes:
        if size > MAX_HEADER:
            raise ValueError(f"a header of {size} bytes")
        return self._stream.read(size)

    def seek(self, position: int) -> int:
        return self._stream.seek(self._start + position) - self._start

    def tell(self) -> int:
        return self._stream.tell() - self._start


def _earlier(file: ShardFile, start: int, end: int) -> dict[str, Member]:
    """Return the files of an archive whose headers lie before byte `end`, by name.

    Hard links are rare. So names are not kept while there is none, and looked up once when the first one comes.
    """
    found: dict[str, Member] = {}
    # A stream of a local file shares its position with every other one, and one is in use; slices have their own.
    stream = BufferedReader(FileSlice(file, 0, file.size))
    with stream, _open(stream, start) as tar:
        while (info := tar.next()) is not None and start + info.offset < end:
            tar.members.clear()  # type: ignore[attr-defined]
            if info.isreg() and not info.issparse():
                found[info.name] = Member(info.name, start + info.offset_data, info.size)
    return found


def _next_archive(path: str, file: ShardFile, end: int) -> int | None:
    """Return the start of a further archive behind the end-of-archive mark at byte `end`; None if only zeros follow.

    Raises DataError where there are more zeros than any tar has.
    """
    for low in range(end, min(file.size, end + MAX_ZEROS), 1 << 20):
        piece = file.read(1 << 20, low)
        zeros = len(piece) - len(piece.lstrip(b"\0"))
        if zeros < len(piece):
            return (low + zeros) // BLOCK * BLOCK
    if file.size > end + MAX_ZEROS:
        raise DataError(
            f"The shard {path} has {file.size - end} bytes behind its last member, at byte {end}, and they begin with "
            f"{MAX_ZEROS} zeros, as a download leaves them that made the whole file beforehand and stopped. {_AGAIN}."
        )
    return None


def _refuse(path: str, start: int, info: tarfile.TarInfo) -> NoReturn:
    """Raise the error for a member that is no regular file."""
    write_again = "write the shard again"
    if info.islnk() and info.size:
        what = "a hard link that carries data of its own, which readers disagree about"
        remedy = f"{write_again} with tar's --hard-dereference."
    elif info.islnk():
        what = f"a hard link to {info.linkname}, which does not come before it in this archive"
        remedy = f"{write_again} with tar's --hard-dereference, which stores the content with each name."
    elif info.issym():
        what = f"a symbolic link to {info.linkname}: the link is stored, and not what it leads to"
        remedy = f"{write_again} with tar's --dereference (-h), which stores the content, or without the link."
    elif info.issparse():
        what = "stored sparsely, which rules out random access"
        remedy = f"{write_again} without tar's --sparse."
    elif info.type == _CONTINUATION:
        what = "the rest of a file that began in another volume"
        remedy = f"{write_again} without tar's --multi-volume."
    else:
        what = _KINDS.get(info.type, f"of the type {info.type!r}, which is no file that is known here")
        remedy = f"{write_again} without it."
    raise DataError(
        f"{info.name} at byte {start + info.offset} of the shard {path} is {what}. {remedy[0].upper()}{remedy[1:]}"
    )


def _damage(path: str, file: ShardFile, start: int, end: int) -> DataError:
    first, size = file.read(4, 0), file.size
    if first.startswith(_GZIP) or first == _ZSTD:
        return DataError(
            f"The shard {path} is compressed, which rules out random access. "
            "Unpack it to a plain tar file (images are compressed already)."
        )
    if first == _APPLE_DOUBLE:
        return DataError(
            f"{path} is no shard, but what macOS notes about one (AppleDouble). Leave it out of DATA, or remove it."
        )
    if start and end == start:
        return DataError(
            f"The shard {path} has bytes behind its end-of-archive mark, from byte {start} on, that are no tar. "
            f"{_AGAIN}, or write it again."
        )
    if size < end + BLOCK:
        return DataError(
            f"The shard {path} is cut short: it ends at byte {size} without an end-of-archive mark. {_AGAIN}."
        )
    return DataError(
        f"The shard {path} has a broken or half-written tar header at byte {end}, so nothing after it can be found. "
        f"{_AGAIN}, or write it again."
    )

"""What a tar can hold beside regular files: read, or refused by name, and never passed over where it holds data."""

import io
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.data import tar
from kdcache.data.shards import open_shard
from kdcache.data.tar import BLOCK, Member, members
from kdcache.errors import DataError

Entry = tuple[str, bytes]


def add(
    archive: tarfile.TarFile, name: str, content: bytes = b"", type: bytes = tarfile.REGTYPE, **fields: object
) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.size = type, len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    archive.addfile(info, io.BytesIO(content))


def archive_of(*entries: Entry, format: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, content in entries:
            add(archive, name, content)
    return buffer.getvalue()


def read(path: Path) -> list[Entry]:
    """Name and content of every member, and one `archives` at the end where there are several."""
    with open_shard(str(path)) as file:
        found: list[Member] = []
        stepping = members(str(path), file)
        while True:
            try:
                found.append(next(stepping))
            except StopIteration as end:
                archives = end.value
                break
        entries = [(member.name, file.read(member.length, member.offset)) for member in found]
    return entries + ([("archives", str(archives).encode())] if archives > 1 else [])


FIRST, SECOND = [("a.jpg", b"A" * 700), ("a.cls", b"1")], [("b.jpg", b"B" * 512), ("b.cls", b"2")]


# What follows an end-of-archive mark


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("mark", [10_240, 1024, 512])
def test_archives_behind_the_first_are_read_as_well(tmp_path: Path, format: int, mark: int) -> None:
    path = tmp_path / "a.tar"
    first, second = archive_of(*FIRST, format=format), archive_of(*SECOND, format=format)
    end = len(first.rstrip(b"\0")) + -len(first.rstrip(b"\0")) % BLOCK
    path.write_bytes(first[: end + mark] + second + archive_of() + second[:-512])
    assert read(path) == [*FIRST, *SECOND, *SECOND, ("archives", b"3")]


@pytest.mark.parametrize("zeros", [0, 512, 1000, 9_216, 1 << 20, 10 << 20])
def test_zeros_behind_the_end_are_no_archive(tmp_path: Path, zeros: int) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(archive_of(*FIRST) + bytes(zeros))
    assert read(path) == FIRST


def test_more_zeros_than_any_tar_has_are_taken_for_a_download_that_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(archive_of(*FIRST))
    with path.open("r+b") as file:
        file.truncate((64 << 20) + (1 << 20))
    with pytest.raises(DataError, match=r"a\.tar has \d+ bytes behind its last member.*zeros.*Copy the shard again"):
        read(path)


@pytest.mark.parametrize("rest", [b"no tar" * 200, bytes(100) + archive_of(*SECOND), b"\1"])
def test_anything_else_behind_the_end_is_refused(tmp_path: Path, rest: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(archive_of(*FIRST) + rest)
    with pytest.raises(DataError, match=r"bytes behind its end-of-archive mark, from byte 10240 on, that are no tar"):
        read(path)


def test_an_archive_cut_short_behind_another_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(archive_of(*FIRST) + archive_of(*SECOND)[:900])
    with pytest.raises(DataError, match=r"cut short: b\.jpg at byte 10752 should end at byte 11264"):
        read(path)


@pytest.mark.skipif(shutil.which("tar") is None, reason="there is no tar here")
@pytest.mark.parametrize("options", [["-A"], ["-r"], ["-b", "2048"], ["-b", "1"]])
def test_what_tar_itself_appends_and_fills_is_read(tmp_path: Path, options: list[str]) -> None:
    for name, content in (*FIRST, *SECOND):
        (tmp_path / name).write_bytes(content)

    def run(*arguments: str) -> None:
        subprocess.run(["tar", *arguments], cwd=tmp_path, check=True, capture_output=True)

    fills = options if options[0] == "-b" else []
    run("-cf", "x.tar", *fills, "a.jpg", "a.cls", *(["b.jpg", "b.cls"] if fills else []))
    if options == ["-A"]:
        run("-cf", "y.tar", "b.jpg", "b.cls")
        run("-A", "-f", "x.tar", "y.tar")
    elif options == ["-r"]:
        run("-r", "-f", "x.tar", "b.jpg", "b.cls")
    assert read(tmp_path / "x.tar") == [*FIRST, *SECOND]


# Members that are no regular files


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_hard_link_has_the_content_of_the_member_that_it_links_to(tmp_path: Path, format: int) -> None:
    long = "folder/" * (10 if format == tarfile.USTAR_FORMAT else 20) + "a.jpg"
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=format) as archive:
        add(archive, long, b"A" * 700)
        add(archive, "a.cls", b"1")
        add(archive, "b.jpg", type=tarfile.LNKTYPE, linkname=long)
        add(archive, "b.cls", type=tarfile.LNKTYPE, linkname="a.cls")
        add(archive, "c.jpg", type=tarfile.LNKTYPE, linkname="b.jpg")
        add(archive, "c.cls", b"2")
    path.write_bytes(archive_of(*FIRST) + path.read_bytes())
    expected = [(long, b"A" * 700), ("a.cls", b"1"), ("b.jpg", b"A" * 700), ("b.cls", b"1")]
    assert read(path) == [*FIRST, *expected, ("c.jpg", b"A" * 700), ("c.cls", b"2"), ("archives", b"2")]


def test_directories_headers_and_volume_labels_hold_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x" * 2000}) as archive:
        add(archive, "label", type=b"V")
        add(archive, "n1", type=tarfile.DIRTYPE)
        add(archive, "n2", b"Yfile\0", type=b"D")
        add(archive, *FIRST[0], type=tarfile.CONTTYPE)
        add(archive, *FIRST[1], type=tarfile.AREGTYPE)
    assert read(path) == FIRST


SPECIAL: dict[str, tuple[dict[str, object], str]] = {
    "symbolic link": (
        {"type": tarfile.SYMTYPE, "linkname": "../x.jpg"},
        r"symbolic link to \.\./x\.jpg.*--dereference",
    ),
    "link to nothing": (
        {"type": tarfile.LNKTYPE, "linkname": "later.jpg"},
        r"hard link to later\.jpg.*--hard-dereference",
    ),
    "FIFO": ({"type": tarfile.FIFOTYPE}, "a FIFO"),
    "device": ({"type": tarfile.CHRTYPE}, "a device"),
    "disk": ({"type": tarfile.BLKTYPE}, "a device"),
    "part": ({"type": b"M"}, "another volume.*--multi-volume"),
    "unknown": ({"type": b"Q"}, "of the type b'Q'"),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_holds_no_data_in_the_place_of_a_file_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    fields, words = SPECIAL[kind]
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        add(archive, *FIRST[0])
        add(archive, "x.jpg", **fields)  # type: ignore[arg-type]
        add(archive, "later.jpg", b"?")
    with pytest.raises(DataError, match=rf"x\.jpg at byte 1536 of the shard {path} is .*{words}") as caught:
        read(path)
    assert "rite the shard again" in str(caught.value)


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", [".hidden", "n1/._a.jpg", "__meta__/x.jpg"])
def test_it_is_left_where_its_name_belongs_to_no_sample(tmp_path: Path, kind: str, name: str) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        add(archive, name, **SPECIAL[kind][0])  # type: ignore[arg-type]
        add(archive, *FIRST[0])
    assert read(path) == [(name, b""), FIRST[0]]


@pytest.mark.skipif(shutil.which("tar") is None, reason="there is no tar here")
@pytest.mark.parametrize("format", ["gnu", "pax"])
def test_a_sparse_file_is_refused_by_name(tmp_path: Path, format: str) -> None:
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"x" * 5000)
    command = ["tar", "--sparse", f"--format={format}", "-cf", "x.tar", "a.jpg"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    with pytest.raises(DataError, match=r"a\.jpg at byte \d+ of the shard .*stored sparsely.*without tar's --sparse"):
        read(tmp_path / "x.tar")


def test_what_macos_notes_about_a_shard_is_told_from_a_damaged_shard(tmp_path: Path) -> None:
    path = tmp_path / "._a.tar"
    path.write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(4000))
    with pytest.raises(DataError, match=r"macOS notes about one \(AppleDouble\)\. Leave it out"):
        read(path)


# Headers that mislead


def negative_size(header: bytearray) -> None:
    header[124:136] = b"\xff" + (-1024).to_bytes(11, "big", signed=True)


def huge_size(header: bytearray) -> None:
    header[124:136] = b"\x80" + (1 << 62).to_bytes(11, "big")


@pytest.mark.parametrize(
    ("change", "message"),
    [(negative_size, "broken or half-written"), (huge_size, "cut short")],
)
def test_sizes_that_cannot_be_are_refused(tmp_path: Path, change: Callable[[bytearray], None], message: str) -> None:
    content = bytearray(archive_of(*FIRST, *SECOND) + bytes(4 << 20))
    header = bytearray(content[1536:2048])
    change(header)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    content[1536:2048] = header
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.tar")


def test_a_name_of_megabytes_is_refused_and_not_read(tmp_path: Path) -> None:
    for length in (5000, 2 << 20):
        (tmp_path / "a.tar").write_bytes(archive_of(*FIRST, ("x" * length + ".jpg", b"X")))
        if length == 5000:
            assert len(read(tmp_path / "a.tar")[-1][0]) == 5004
        else:
            with pytest.raises(DataError, match="broken or half-written tar header at byte 2560"):
                read(tmp_path / "a.tar")


def test_a_chain_of_headers_is_refused(tmp_path: Path) -> None:
    one = archive_of(("x" * 200, b""))[:1024]  # a long name without the file
    (tmp_path / "a.tar").write_bytes(archive_of(*FIRST)[:2560] + one * 3000 + archive_of(*SECOND))
    with pytest.raises(DataError, match="broken or half-written tar header at byte 2560"):
        read(tmp_path / "a.tar")


@given(st.data())
def test_a_damaged_tar_gives_what_is_in_it_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Also damage that leaves a header's checksum right, as two bytes exchanged do."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        add(archive, "é.jpg", b"A" * 700)
        add(archive, "b" * 120 + ".jpg", b"B" * 20)
        add(archive, "c.jpg", type=tarfile.LNKTYPE, linkname="é.jpg")
    content = bytearray(buffer.getvalue())
    at = data.draw(st.integers(0, 5 * BLOCK))
    if data.draw(st.booleans()):
        content[at] = data.draw(st.integers(0, 255))
    else:
        other = at // BLOCK * BLOCK + data.draw(st.integers(0, BLOCK - 1))
        content[at], content[other] = content[other], content[at]
    path = tmp_path_factory.mktemp("damaged") / "a.tar"
    path.write_bytes(content)
    try:
        found = read(path)
    except DataError:
        return
    assert len(found) == 3 or found[-1][0] == "archives"


def test_the_limit_on_headers_allows_what_file_systems_allow() -> None:
    assert tar.MAX_HEADER >= 16 * 4096

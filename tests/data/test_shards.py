"""Finding shards and reading samples out of them."""

import errno
import os
import resource
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from kdcache.data.index import open_index
from kdcache.data.reader import SampleReader
from kdcache.data.scan import scan_shard
from kdcache.data.shards import INCOMPLETE, expand_data
from kdcache.errors import DataError
from support.indexing import Listener
from support.shards import make_shards


def touch(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).touch()
    return [str(folder / name) for name in names]


def test_a_folder_stands_for_its_tars_by_name(tmp_path: Path) -> None:
    expected = touch(tmp_path, "a-10.tar", "a-9.tar", "b.tar")
    touch(tmp_path, "classes.json", "c.tar.partial", "d.txt")
    assert expand_data(tmp_path) == tuple(expected)


def test_hidden_tars_are_no_shards_and_told_once(tmp_path: Path) -> None:
    """macOS writes ._NAME beside a file on disks that keep no notes on files."""
    shards = make_shards(tmp_path, images=4, size=(8, 8), shards=2)
    expected = expand_data(shards)
    for path in expected:
        Path(path).with_name(f"._{Path(path).name}").write_bytes(b"\x00\x05\x16\x07 ")
    assert expand_data(shards) == expected
    listener = Listener()
    for _ in range(2):
        assert len(open_index(shards, progress=listener)) == 4
    told = "passed over 2 hidden files that are called .tar, such as ._shard-000000.tar"
    assert [line for line in listener.lines if line.startswith("passed")] == [told]


def test_tars_below_a_folder_that_has_tars_of_its_own_are_told_once(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "out", images=4, size=(8, 8), shards=2)
    expected = expand_data(shards)
    make_shards(shards / "more", images=2, size=(8, 8), shards=1)
    (shards / "notes").mkdir()
    assert expand_data(shards) == expected
    listener = Listener()
    for _ in range(2):
        assert len(open_index(shards, progress=listener)) == 4
    (told,) = (line for line in listener.lines if line.startswith("passed"))
    assert told.startswith(f"passed over the .tar files in the folder more in {shards}: ")
    assert told.endswith("move them into one folder, or name them by one brace pattern")


def test_shards_in_folders_below_are_named(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        touch(tmp_path / split, "a.tar")
    with pytest.raises(DataError, match=r"no \.tar files in .* itself, but in train, val below it"):
        expand_data(tmp_path)


def test_what_is_called_a_shard_and_is_none_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.tar")
    (tmp_path / "B.TAR").symlink_to("a.tar")
    assert expand_data(tmp_path) == (str(tmp_path / "B.TAR"), str(tmp_path / "a.tar"))
    (tmp_path / "c.tar").symlink_to("elsewhere.tar")
    with pytest.raises(DataError, match=r"c\.tar is a link to elsewhere\.tar, which is not there"):
        expand_data(tmp_path)
    (tmp_path / "c.tar").unlink()
    os.mkfifo(tmp_path / "c.tar")
    with pytest.raises(DataError, match=r"c\.tar is no regular file"):
        expand_data(tmp_path)
    (tmp_path / "c.tar").unlink()
    (tmp_path / "c.tar").mkdir()
    with pytest.raises(DataError, match=r"c\.tar is a folder"):
        expand_data(tmp_path)


def test_a_pattern_is_expanded_in_webdatasets_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = touch(tmp_path, "b-08.tar", "b-09.tar", "b-10.tar", "a-08.tar", "a-09.tar", "a-10.tar")
    touch(tmp_path, "b-11.tar")
    assert expand_data(f"{tmp_path}/{{b,a}}-{{08..10}}.tar") == tuple(expected)
    monkeypatch.chdir(tmp_path)
    assert expand_data("{b,a}-{08..10}.tar") == tuple(expected)


def test_patterns_are_joined_and_environment_variables_filled_in_as_webdataset_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = touch(tmp_path, "a-0.tar", "a-1.tar", "c.tar")
    monkeypatch.setenv("WDS_DATA", str(tmp_path))
    assert expand_data("${DATA}/a-{0..1}.tar::${DATA}/c.tar") == tuple(expected)


def test_one_tar_stands_for_itself(tmp_path: Path) -> None:
    expected = touch(tmp_path, "a.tar")
    assert expand_data(tmp_path / "a.tar") == tuple(expected)


def test_what_cannot_be_looked_at_is_not_said_to_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "circle").symlink_to("circle")
    for data in (tmp_path / "circle", f"{tmp_path}/circle/train-{{000..001}}.tar"):
        with pytest.raises(DataError, match=r"circle.* cannot be reached: .*its links"):
            expand_data(data)

    def closed(path: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, "stat", closed)
    with pytest.raises(DataError, match=r"cannot be reached: Permission denied\. Check who owns it"):
        expand_data(tmp_path / "train")


@pytest.mark.parametrize(
    ("names", "data", "message"),
    [
        ([], "", "no .tar files"),
        (["a.txt"], "", "kdcache import folder"),
        (["a.tar.gz"], "", "1 shard in .* compressed.*Unpack"),
        (["a.tar", "a.tar.gz", "b.tgz", "c.tar.xz"], "", r"2 shards in .*such as b\.tgz.*Unpack"),
        (["._a.tar"], "", r"no \.tar files in .*, but hidden ones, such as \._a\.tar"),
        ([], "missing", "does not exist.*kdcache import folder"),
        (["a-0.tar", "a-2.tar"], "a-{0..2}.tar", "a-1.tar"),
        (["a-0.tar"], "a-{0,0}.tar", "twice"),
        ([], "${NOT_SET}/a.tar", "cannot be expanded"),
        (["a.tar", INCOMPLETE], "", "Run the same import again"),
        (["a.tar", INCOMPLETE], "a.tar", "Run the same import again"),
        (["shard-000000.tar.partial", INCOMPLETE], "", "Run the same import again"),
    ],
)
def test_what_names_no_whole_set_of_shards_is_refused(
    tmp_path: Path, names: list[str], data: str, message: str
) -> None:
    touch(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        expand_data(tmp_path / data)


@pytest.mark.parametrize("data", ["pipe:cat a.tar", "a.tar::pipe:cat b.tar"])
def test_programs_are_refused(data: str) -> None:
    with pytest.raises(DataError, match="is a program"):
        expand_data(data)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards") / "set", images=40, size=(24, 32), shards=10, varied=True)


@pytest.fixture(scope="module")
def images(shards: Path) -> dict[str, bytes]:
    """Key -> bytes, as Python's tarfile reads them."""
    found = {}
    for path in shards.glob("*.tar"):
        with tarfile.open(path) as tar:
            for name in tar.getnames():
                if name.endswith(".jpg"):
                    found[name.removesuffix(".jpg")] = tar.extractfile(name).read()
    return found


def test_reading_gives_tarfiles_bytes_in_the_order_asked_for(shards: Path, images: dict[str, bytes]) -> None:
    index = open_index(shards)
    samples = np.random.default_rng(0).integers(0, len(index), 100)
    with SampleReader(index, open_files=3) as reader:
        read = reader.read(samples)
        assert reader.read(np.empty(0, np.int64)) == []
    assert read == [images[index.key(sample)] for sample in samples.tolist()]


def open_shards(folder: Path) -> int:
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:
            continue
    return sum(link.startswith(str(folder)) and link.endswith(".tar") for link in links)


def test_any_number_of_threads_read_at_once_through_few_open_files(shards: Path, images: dict[str, bytes]) -> None:
    index = open_index(shards)
    reader = SampleReader(index, open_files=2)

    def read(seed: int) -> int:
        rng, most = np.random.default_rng(seed), 0
        for _ in range(40):
            samples = rng.integers(0, len(index), 5)
            assert reader.read(samples) == [images[index.key(sample)] for sample in samples.tolist()]
            most = max(most, open_shards(shards))
        return most

    with ThreadPoolExecutor(8) as pool:
        most = max(pool.map(read, range(8)))
    assert most <= 2 + 8
    assert open_shards(shards) == 2
    reader.close()
    assert open_shards(shards) == 0


@pytest.fixture
def few_files() -> Iterator[Callable[[int], None]]:
    """Leaves so many files to be opened in this process, until the test ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []

    def leave(count: int) -> None:
        highest = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + count, hard))
        while True:
            try:
                held.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        for _ in range(count):
            os.close(held.pop())

    yield leave
    for descriptor in held:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_fewer_shards_stay_open_where_few_files_may_be(
    shards: Path, images: dict[str, bytes], few_files: Callable[[int], None]
) -> None:
    index = open_index(shards)
    with SampleReader(index, open_files=64) as reader:
        few_files(3)
        for seed in range(5):
            samples = np.random.default_rng(seed).integers(0, len(index), 40)
            assert reader.read(samples) == [images[index.key(sample)] for sample in samples.tolist()]


def test_where_no_file_may_be_opened_the_limit_is_named(shards: Path, few_files: Callable[[int], None]) -> None:
    index = open_index(shards)
    with SampleReader(index) as reader:
        few_files(0)
        limit = f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]:,}"
        for work in (lambda: reader.read(np.arange(3)), lambda: scan_shard(index.shards[0], unlabelled=True)):
            with pytest.raises(DataError, match=rf"\.tar cannot be opened: .* as it may, {limit}\. .*`ulimit -n 4096`"):
                work()


def test_a_reader_keeps_an_eighth_of_the_files_that_may_be_open(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcache.data.reader.open_files_limit", lambda: 32)
    with SampleReader(open_index(shards)) as reader:
        reader.read(np.arange(40))
        assert open_shards(shards) == 4


def test_the_command_line_asks_for_as_many_files_as_the_system_allows() -> None:
    script = (
        "import resource, kdcache_cli.main as main; "
        "main.app = lambda **_: print(*resource.getrlimit(resource.RLIMIT_NOFILE)); "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 512)); main.main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["512", "512"]


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(DataError, match=r"a\.tar cannot be read: it is a FIFO"):
        scan_shard(str(tmp_path / "a.tar"), unlabelled=True)


def test_closing_waits_for_no_read_and_breaks_none(
    shards: Path, images: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = open_index(shards)
    reader = SampleReader(index)
    pread = os.pread

    def close_first(descriptor: int, length: int, offset: int) -> bytes:
        reader.close()
        return pread(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", close_first)
    assert reader.read(np.array([3])) == [images[index.key(3)]]
    assert open_shards(shards) == 0


def test_a_shard_that_shrank_is_an_error_that_names_the_sample(tmp_path: Path) -> None:
    index = open_index(make_shards(tmp_path, images=4, shards=1))
    last = int(np.argmax(index.offset))
    end = int(index.offset[last] + index.length[last])
    reader = SampleReader(index)
    assert len(reader.read(np.array([last]))[0]) == index.length[last]
    os.truncate(index.shards[0], end - 1)
    with pytest.raises(DataError, match=rf"`kdcache index {tmp_path}`") as caught:
        reader.read(np.arange(4))
    assert index.describe(last) in str(caught.value)
    assert "img-00003" in index.describe(last)
    reader.close()


def test_a_shard_that_is_gone_is_an_error_that_names_it(tmp_path: Path) -> None:
    index = open_index(make_shards(tmp_path, images=4, shards=2))
    os.remove(index.shards[1])
    with SampleReader(index) as reader, pytest.raises(DataError, match=r"shard-000001\.tar"):
        reader.read(np.arange(4))

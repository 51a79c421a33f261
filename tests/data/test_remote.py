"""Shards on a real S3 server: the index and the bytes of the same shards on a disk."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdcache.cache.objects import ObjectFiles
from kdcache.data import remote
from kdcache.data.check import check_index
from kdcache.data.columns import COLUMNS
from kdcache.data.index import Index, build_index, open_index
from kdcache.data.part import write_part
from kdcache.data.reader import SampleReader
from kdcache.data.shards import INCOMPLETE, expand_data
from kdcache.errors import BadSamplesError, DataError, UnreachableDataError
from kdcache.render import trial
from support.faulty_store import Faults, faulty
from support.s3 import s3, s3_server, upload  # noqa: F401
from support.shards import make_samples, make_shards, write_tar

IMAGES = 40


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards") / "set", images=IMAGES, size=(24, 32), shards=3, varied=True)


@pytest.fixture
def url(s3: str, shards: Path) -> str:  # noqa: F811
    return upload(shards, f"{s3}/some/train")


@pytest.fixture(params=[1000, 8 << 20], ids=["small-windows", "windows"])
def window(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_WINDOW", request.param)


def assert_equal(one: Index, other: Index) -> None:
    assert (one.fingerprint, one.class_names, one.num_classes) == (other.fingerprint, other.class_names, 10)
    for name in (*COLUMNS, "key_start", "key_bytes"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.usefixtures("window")
def test_the_index_is_that_of_the_same_shards_on_a_disk(shards: Path, url: str) -> None:
    index = build_index(url, workers=1)
    assert_equal(index, open_index(shards))
    assert index.shards == tuple(f"{url}/shard-{shard:06d}.tar" for shard in range(3))
    assert index.path.is_relative_to(os.environ["XDG_CACHE_HOME"])
    assert index.describe(0).endswith(f"in {index.shards[index.shard[0]]} at byte {index.offset[0]}")


def test_it_is_built_once_for_a_folder_and_for_a_pattern(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = f"{url}/shard-{{000000..000001}}.tar"
    folder, two, one = open_index(url), open_index(pattern), open_index(f"{url}/shard-000002.tar")
    assert len({folder.path, two.path, one.path}) == 3
    assert len(two) + len(one) == len(folder) == IMAGES
    assert two.shards == folder.shards[:2]
    assert two.class_names == folder.class_names

    def never(*asked: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr("kdcache.data.index.write_index", never)
    for data, index in ((url, folder), (f"{url}/", folder), (pattern, two)):
        assert open_index(data).path == index.path


def test_processes_scan_together(shards: Path, url: str) -> None:
    assert_equal(build_index(url, workers=2), open_index(shards))


def test_reading_gives_the_same_bytes_in_the_order_asked_for(shards: Path, url: str) -> None:
    samples = np.random.default_rng(0).integers(0, IMAGES, 150)
    with SampleReader(open_index(shards)) as local, SampleReader(open_index(url)) as elsewhere:
        assert elsewhere.read(samples) == local.read(samples)
        assert elsewhere.read(np.empty(0, np.int64)) == []
        with ThreadPoolExecutor(4) as pool:
            for part, images in zip(
                np.split(samples, 10), pool.map(elsewhere.read, np.split(samples, 10)), strict=True
            ):
                assert images == local.read(part)


def test_a_shard_written_over_makes_the_index_stale(url: str, tmp_path: Path) -> None:
    files = ObjectFiles(url)
    former = open_index(url)
    old = files.get("shard-000000.tar")
    samples = [
        sample._replace(label=9 - sample.label)
        for sample in make_samples(IMAGES, size=(24, 32), varied=True)
        if sample.key in {former.key(row) for row in np.flatnonzero(former.shard == 0).tolist()}
    ]
    new = write_tar(tmp_path / "new.tar", samples).read_bytes()
    assert old is not None
    assert len(new) == len(old)
    files.put("shard-000000.tar", new)
    index = open_index(url)
    np.testing.assert_array_equal(index.label, np.where(former.shard == 0, 9 - former.label, former.label))
    files.put("shard-000000.tar", old)
    assert open_index(url).fingerprint == former.fingerprint


def test_another_shard_makes_the_index_of_a_folder_stale(url: str, tmp_path: Path) -> None:
    assert len(open_index(url)) == IMAGES
    more = write_tar(tmp_path / "more.tar", [make_samples(IMAGES + 1)[-1]])
    ObjectFiles(url).put("z.tar", more.read_bytes())
    assert len(open_index(url)) == IMAGES + 1


def test_a_shard_that_has_gone_or_shrunk_is_named_when_it_is_read(url: str) -> None:
    index = open_index(url)
    last = int(np.flatnonzero(index.shard == 2)[np.argmax(index.offset[index.shard == 2])])
    files = ObjectFiles(url)
    data = files.get("shard-000002.tar")
    assert data is not None
    with SampleReader(index) as reader:
        files.put("shard-000002.tar", data[: int(index.offset[last] + index.length[last]) - 10])
        with pytest.raises(DataError, match=r"shard-000002.tar at byte \d+ ends after \d+ of"):
            reader.read(np.array([0, last]))
        files.delete("shard-000002.tar")
        with pytest.raises(DataError, match=f"There is no {url}/shard-000002.tar"):
            reader.read(np.array([last]))
    with pytest.raises(DataError, match=f"There is no {url}/shard-000002.tar"):
        open_index(f"{url}/shard-{{000000..000002}}.tar")


def test_a_check_finds_what_is_bad_and_keeps_checksums(shards: Path, url: str) -> None:
    checked = check_index(url, no_fault, workers=1).index
    local = check_index(shards, no_fault, workers=1).index
    assert checked.crc is not None
    np.testing.assert_array_equal(checked.crc, local.crc)
    assert open_index(url).crc is not None
    with pytest.raises(BadSamplesError) as found:
        check_index(url, always_bad, workers=1)
    assert len(found.value.samples) == IMAGES


def test_two_processes_ask_the_decoders_of_a_dump(url: str) -> None:
    checked = check_index(url, trial.faults, workers=2)
    assert not checked.bad
    assert checked.index.crc is not None
    assert checked.index.data == url


def test_a_check_fetches_each_byte_once(shards: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To index the shards, and once more for the images, in however many pieces they are."""
    fetched: list[int] = []

    class Counted(remote.RemoteFile):
        def _from(self, offset: int) -> memoryview:
            known = list(self._windows)
            found = super()._from(offset)
            fetched.extend(len(window) for start, window in self._windows if (start, window) not in known)
            return found

    monkeypatch.setattr(remote, "RemoteFile", Counted)
    monkeypatch.setattr("kdcache.data.check._IMAGES_A_PIECE", 4)
    check_index(url, no_fault, workers=1)
    assert 0 < sum(fetched) <= 2 * sum(shard.stat().st_size for shard in shards.glob("*.tar"))


@pytest.fixture
def behind(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Faults], Faults]]:  # noqa: F811
    """From then on every store that is opened lies behind a proxy with these faults."""
    proxies = []

    def put_before(faults: Faults) -> Faults:
        proxies.append(faulty(s3_server, faults))
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxies[-1].__enter__())
        return faults

    yield put_before
    for proxy in proxies:
        proxy.__exit__(None, None, None)


#: What is found out: an answer is missing, cut or late, or bytes do not fit a checksum or a header.
FOUND_OUT = {"404": 0.1, "500": 0.1, "503": 0.1, "reset-before": 0.1, "reset-after": 0.1, "cut": 0.1, "stale": 0.3}


@pytest.mark.usefixtures("window")
def test_an_index_is_the_same_from_a_store_that_fails(
    shards: Path, url: str, behind: Callable[[Faults], Faults]
) -> None:
    faults = behind(Faults(FOUND_OUT))
    assert_equal(build_index(url, workers=1), open_index(shards))
    assert sum(faults.happened.values()) > 3


def test_altered_bytes_are_fetched_again_before_they_are_called_damaged(
    shards: Path, url: str, behind: Callable[[Faults], Faults]
) -> None:
    index = check_index(url, no_fault, workers=1).index
    faults = behind(Faults({"flip": 0.5, "cut": 0.2}))
    everything = np.arange(len(index))
    with SampleReader(open_index(url)) as elsewhere, SampleReader(open_index(shards)) as local:
        assert elsewhere.read(everything) == local.read(everything)
    assert faults.happened["flip"]
    behind(Faults({"flip": 1.0}, forever=True, only=".tar"))
    with SampleReader(open_index(url)) as elsewhere, pytest.raises(DataError, match="are not those that were checked"):
        elsewhere.read(everything[:1])


def test_names_of_classes_of_which_no_two_readings_agree_are_not_taken_to_be_missing(
    url: str, behind: Callable[[Faults], Faults]
) -> None:
    behind(Faults({"flip": 1.0}, forever=True, only="classes.json"))
    with pytest.raises(UnreachableDataError, match=r"classes\.json: no two readings of it agree"):
        open_index(url)


@pytest.mark.parametrize("name", ["classes.json", INCOMPLETE])
def test_a_file_beside_the_shards_that_is_too_large_is_refused_unread(
    name: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ObjectFiles(url).put(name, b"[" + b" " * 2000 + b"]")
    monkeypatch.setattr(remote, "TEXT_LIMIT", 1024)
    with pytest.raises(
        DataError, match=rf"Cannot read {url}/{name}: it has more than 1 KiB, .*\. Restore it, or remove"
    ):
        open_index(url)


def test_a_check_leaves_out_no_image_for_bytes_that_were_altered_on_the_way(
    shards: Path, url: str, behind: Callable[[Faults], Faults]
) -> None:
    """The first body of each shard's images is; what is decoded in the end has the right checksums."""
    index = open_index(url)
    faults = behind(Faults({"flip": 1.0}, in_a_row=1, only=".tar"))
    checked = check_index(url, only_jpeg_and_png, drop_bad=True, workers=1)
    assert checked.bad == ()
    assert len(checked.index) == len(index)
    assert faults.happened["flip"]


def only_jpeg_and_png(encoded: Iterable[bytes]) -> Iterator[str | None]:
    return (None if whole(data) else "it cannot be decoded" for data in encoded)


def whole(data: bytes) -> bool:
    try:
        Image.open(BytesIO(data)).load()
    except Exception:
        return False
    return True


def test_several_ranges_of_a_shard_that_is_shorter_than_its_index_end_by_name(url: str) -> None:
    """At which obstore's own cutting of ranges panics."""
    index = open_index(url)
    rows = np.flatnonzero(index.shard == 2)
    rows = rows[np.argsort(index.offset[rows])]
    files = ObjectFiles(url)
    data = files.get("shard-000002.tar")
    assert data is not None
    files.put("shard-000002.tar", data[: int(index.offset[rows[2]])])
    with SampleReader(index) as reader:
        with pytest.raises(DataError, match=r"shard-000002.tar at byte \d+ ends after 0 of \d+ bytes: the shard has"):
            reader.read(rows)
        assert len(reader.read(rows[:2])) == 2


def test_a_checked_index_is_not_given_up_for_one_answer_about_the_shards(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ETag of before, say, from a store that is behind."""
    checked = check_index(url, no_fault, workers=1).index
    real, asked = remote.states_of, []

    def behind_once(urls: Sequence[str]) -> list[tuple[int, str]]:
        asked.append(urls)
        states = real(urls)
        return [(size, "former") for size, _ in states] if len(asked) == 1 else states

    monkeypatch.setattr(remote, "states_of", behind_once)
    again = open_index(url)
    assert again.crc is not None
    assert again.fingerprint == checked.fingerprint
    assert len(asked) == 2


def test_a_shard_that_a_listing_still_has_and_one_that_it_has_not_yet(
    url: str, behind: Callable[[Faults], Faults]
) -> None:
    faults = behind(Faults({}))
    assert len(shards_in(url)) == 3
    ObjectFiles(url).delete("shard-000000.tar")
    ObjectFiles(url).put("shard-000009.tar", b"")
    faults.rates = {"stale": 0.5}
    assert shards_in(url) == ["shard-000001.tar", "shard-000002.tar", "shard-000009.tar"]


def shards_in(url: str) -> list[str]:
    return [name for name in remote.names_in(url) if name.endswith(".tar")]


def no_fault(encoded: Iterable[bytes]) -> Iterator[str | None]:
    return (None for _ in encoded)


def always_bad(encoded: Iterable[bytes]) -> Iterator[str | None]:
    return ("it is bad" for _ in encoded)


def test_a_part_refers_to_the_urls(url: str, tmp_path: Path) -> None:
    index = open_index(url)
    part = write_part(index, 0.5, tmp_path / "part")
    assert len(part) == IMAGES // 2
    again = open_index(tmp_path / "part")
    assert (again.shards, again.fingerprint) == (index.shards, part.fingerprint)
    with SampleReader(again) as reader, SampleReader(index) as whole:
        assert reader.read(np.arange(3)) == whole.read(np.arange(3))


def test_what_is_no_set_of_shards_is_refused(s3: str, url: str) -> None:  # noqa: F811
    with pytest.raises(DataError, match=f"no .tar files in {s3}/nowhere"):
        open_index(f"{s3}/nowhere")
    with pytest.raises(DataError, match=r"names the shard .* twice"):
        open_index(f"{url}/shard-{{000000,000000}}.tar")
    with pytest.raises(DataError, match="Bring them together"):
        expand_data(f"{url}/shard-000000.tar::/data/a.tar")
    ObjectFiles(url).put(INCOMPLETE, b"")
    with pytest.raises(DataError, match="did not finish"):
        open_index(url)


@pytest.mark.usefixtures("s3")
def test_a_missing_bucket_is_named_with_a_remedy() -> None:
    for data in ("s3://no-such-bucket/train", "s3://no-such-bucket/a-{0..1}.tar"):
        with pytest.raises(DataError, match=r"There is no s3://no-such-bucket/.*or no such bucket.*endpoint"):
            open_index(data)
    with pytest.raises(DataError, match=r"Cannot read nonsense://somewhere/train.*credentials"):
        open_index("nonsense://somewhere/train")


def test_missing_credentials_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the address that obstore tries last."""

    def ask(url: str, **settings: object) -> object:
        raise OSError(
            "Generic S3 error: Error performing PUT http://169.254.169.254/latest/api/token in 1s, after 10 retries"
        )

    monkeypatch.setattr("kdcache.io.object_store.from_url", ask)
    with pytest.raises(DataError, match="no credentials in the environment") as caught:
        open_index("s3://bucket/train")
    assert "169.254" not in str(caught.value)


def test_a_cut_off_network_is_no_bad_image(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a check would leave out whatever could not be fetched in time."""
    real, left = remote.RemoteFile._from, [20]

    def cut_off(file: remote.RemoteFile, offset: int) -> memoryview:
        left[0] -= 1
        if not left[0]:
            raise UnreachableDataError("cut off")
        return real(file, offset)

    monkeypatch.setattr(remote.RemoteFile, "_from", cut_off)
    for at in range(1, 40):
        left[0] = at
        with pytest.raises(DataError, match=r"^cut off$"):
            check_index(url, no_fault, drop_bad=True, workers=1)


def test_without_the_extra_its_name_is_told() -> None:
    program = """
import sys
sys.modules["obstore"] = None
from kdcache.data.index import open_index
from kdcache.errors import DataError
try:
    open_index("s3://bucket/train")
except DataError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "pip install 'kdcache[objects]'" in done.stdout, done.stderr

"""Caches that go to the hub and come back: whole, in parts, after interruptions, and with everything checked."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

import kdcache
from kdcache.cache.store import Cache
from kdcache.errors import CacheError, IdentityError, UsageError
from kdcache.runtime.progress import silent
from kdcache.sharing import hub_files
from kdcache.sharing.jobs import pull, push
from kdcache_cli.main import app
from support.hub_server import SIGNATURE, TOKEN, Fault, Hub
from support.hub_server import hub as hub
from support.small_cache import FULL, TOPK, fill, open_entry, tree
from support.small_job import SIZE, Heard

PLACE = "hf://datasets/me/cache"
REPOSITORY = "datasets/me/cache"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two teachers of three blocks a view; one has two views, the other one."""
    path = tmp_path_factory.mktemp("source") / "cache"
    fill(open_entry(path), 2)
    fill(open_entry(path, FULL, name="other"), 1)
    return path


@pytest.fixture
def pushed(hub: Hub, source: Path) -> Hub:
    """A hub that has the cache."""
    push(source, PLACE, progress=Heard())
    hub.requests.clear()
    return hub


def cache_files(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files of a repository that are the cache's."""
    return {key: data for key, data in files.items() if key.split("/")[0] in ("zarr.json", "teachers", "windows")}


def on_disk(path: Path) -> dict[str, bytes]:
    return cache_files({key: data for key, data in tree(path).items() if data is not None})


def test_a_push_brings_every_file_and_a_pull_brings_it_back(hub: Hub, source: Path, tmp_path: Path) -> None:
    report = push(source, PLACE, progress=Heard())
    repository = hub.repositories[REPOSITORY]
    assert cache_files(repository.files) == on_disk(source)
    assert (report.copy.copied, report.commits, report.is_new, repository.private) == (9, 1, True, True)
    assert "private" in report.lines()[-1]
    pulled = pull(PLACE, tmp_path / "copy", progress=Heard())
    assert on_disk(tmp_path / "copy") == on_disk(source)
    assert pulled.whole
    assert pulled.card
    assert (tmp_path / "copy" / "README.md").read_bytes() == repository.files["README.md"]


def test_a_loader_reads_the_same_batches_from_the_hub(hub: Hub, job) -> None:
    """Labels, plans and targets are those of the cache that was pushed, at the same batch and row."""
    push(job.cache, PLACE, views="0:2", progress=Heard())
    found = []
    for cache in (PLACE, job.cache):
        dataset = kdcache.open_cache(cache, data=job.data, views=2)
        with dataset.loader(64, 1, device="cpu", renderer="pillow", image_size=SIZE) as loader:
            found.append(list(loader))
    assert len(found[0]) == 2
    for one, other in zip(*found, strict=True):
        assert one.images.equal(other.images)
        assert one.targets.log_probs().equal(other.targets.log_probs())
    assert any(hub.asked("GET", "/lfs/"))


def test_only_the_requested_views_go_and_come(hub: Hub, source: Path, tmp_path: Path) -> None:
    push(source, PLACE, views="0:1", teachers=("teacher",), progress=Heard())
    assert not [key for key in hub.repositories[REPOSITORY].files if "other" in key or "records/1" in key]
    push(source, PLACE, progress=Heard())
    assert pull(PLACE, tmp_path / "copy", views="1", progress=Heard()).copy.copied == 3
    assert pull(PLACE, tmp_path / "copy", progress=Heard()).copy.copied == 6
    assert on_disk(tmp_path / "copy") == on_disk(source)


def test_options_that_are_wrong_make_no_repository(hub: Hub, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for views in ("7:9", "x"):
        with pytest.raises(UsageError, match=r"\bviews\b"):
            push(source, PLACE, views=views, progress=Heard())
    for place in ("hf://me/cache", "hf://datasets/cache", "s3://bucket/cache", "hf://datasets/me/../x"):
        with pytest.raises(UsageError, match="write hf://datasets/OWNER/NAME"):
            push(source, place, progress=Heard())
    with pytest.raises(UsageError, match="repository of its own"):
        push(source, f"{PLACE}@main", progress=Heard())
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UsageError, match="no token"):
        push(source, PLACE, progress=Heard())
    assert not hub.repositories
    with pytest.raises(UsageError, match="no shared cache"):
        pull(source, source.parent / "copy", progress=Heard())


def test_a_push_that_was_interrupted_goes_on(hub: Hub, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was committed is passed over; what was uploaded and not committed is not sent again."""
    monkeypatch.setattr(hub_files, "COMMIT_FILES", 30)
    hub.faults.append(Fault("POST", "/commit/", "500", after=1))
    with pytest.raises(CacheError, match=r"Cannot commit to hf://datasets/me/cache: .*run the same command again"):
        push(source, PLACE, progress=Heard())
    repository = hub.repositories[REPOSITORY]
    recorded = [key for key in repository.files if "/records/" in key and not key.endswith("zarr.json")]
    assert 0 < len(recorded) < 9
    uploads = list(hub.uploads)
    report = push(source, PLACE, progress=Heard())
    assert report.copy.copied == 9 - len(recorded)
    assert cache_files(repository.files) == on_disk(source)
    assert not set(uploads) & set(hub.uploads[len(uploads) :])
    again = push(source, PLACE, progress=Heard())
    assert (again.copy.copied, again.commits) == (0, 0)


def test_what_is_held_is_bounded(hub: Hub, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads come whenever so many bytes wait, and the commit has them all."""
    monkeypatch.setattr(hub_files, "UPLOAD_BYTES", 100)
    push(source, PLACE, progress=Heard())
    assert len(hub.asked("POST", "/preupload/")) > 9
    assert cache_files(hub.repositories[REPOSITORY].files) == on_disk(source)


def test_another_cache_in_the_repository_is_refused(pushed: Hub, tmp_path: Path) -> None:
    fill(open_entry(tmp_path / "small", samples=8), 1)
    with pytest.raises(IdentityError, match="samples"):
        push(tmp_path / "small", PLACE, progress=Heard())
    pushed.repositories["datasets/me/data"] = repository = type(pushed.repositories[REPOSITORY])(private=False)
    repository.commit({"train.parquet": b"data"})
    with pytest.raises(CacheError, match=r"not empty \(it holds train.parquet\)"):
        push(tmp_path / "small", "hf://datasets/me/data", progress=Heard())


class Meddling(Heard):
    """Somebody who commits to the repository as soon as a push has looked at it."""

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self.task = self._commit_first
        self._hub = hub

    @contextmanager
    def _commit_first(self, *arguments: object, **options: object) -> Iterator[object]:
        repository = self._hub.repositories[REPOSITORY]
        repository.commit({**repository.files, "LICENSE": b"mine"})
        with silent.task("", 0) as task:
            yield task


def test_a_commit_of_somebody_else_in_between_is_told_and_stays(hub: Hub, source: Path) -> None:
    with pytest.raises(CacheError, match="Somebody else has committed"):
        push(source, PLACE, progress=Meddling(hub))
    assert push(source, PLACE, progress=Heard()).whole
    assert hub.repositories[REPOSITORY].files["LICENSE"] == b"mine"


@pytest.mark.parametrize("kind", ["cut", "flip", "reset", "503"])
def test_a_chunk_counts_when_it_is_what_its_record_says(pushed: Hub, source: Path, tmp_path: Path, kind: str) -> None:
    """Whatever comes else is asked for again."""
    pushed.faults.append(fault := Fault("GET", "/lfs/", kind, after=3, times=3))
    assert pull(PLACE, tmp_path / "copy", progress=Heard()).whole
    assert fault.happened == 6
    assert on_disk(tmp_path / "copy") == on_disk(source)


def test_a_block_that_stays_wrong_is_left_out_and_brought_by_the_next_pull(
    pushed: Hub, source: Path, tmp_path: Path
) -> None:
    repository = pushed.repositories[REPOSITORY]
    key = next(key for key in repository.files if "teacher/" in key and "/c/1/" in key)
    data = repository.files[key]
    sound = repository.head
    repository.commit({**repository.files, key: data[:-1] + bytes([data[-1] ^ 1])})
    done = CliRunner().invoke(app, ["cache", "pull", PLACE, str(tmp_path / "copy"), "--json"])
    assert done.exit_code == 3
    report = json.loads(done.stdout)
    assert (report["copy"]["copied"], len(report["copy"]["problems"])) == (8, 1)
    assert PLACE in report["copy"]["problems"][0]
    assert not Cache.open(tmp_path / "copy").entry("teacher").is_listed(1, 0)
    assert pull(f"{PLACE}@{sound}", tmp_path / "copy", progress=Heard()).copy.copied == 1
    assert on_disk(tmp_path / "copy") == on_disk(source)


def test_a_damaged_block_is_not_pushed(hub: Hub, source: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(source, tmp_path / "damaged")
    file = next(damaged.glob("teachers/other/**/c/0/0*"))
    file = file if file.is_file() else next(path for path in file.rglob("*") if path.is_file())
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    done = CliRunner().invoke(app, ["cache", "push", str(damaged), PLACE])
    assert done.exit_code == 3, done.output
    assert "NOT copied: 1 block" in done.output
    records = [key for key in hub.repositories[REPOSITORY].files if "other/records/0/" in key]
    assert len(records) == 2


def test_no_token_is_shown_or_sent_to_another_host(
    hub: Hub, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # What libraries log to those who look for faults in them, each header of a request, is not ours.
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, logger="kdcache")
    for library in ("httpx2", "httpcore2"):
        caplog.set_level(logging.INFO, logger=library)
    output = []
    for fault in (
        Fault("POST", "/commit/", "403"),
        Fault("GET", "/lfs/", "403", times=99),
        Fault("POST", "batch", "400"),
    ):
        hub.faults[:] = [fault]
        for command in (["push", str(source), PLACE], ["pull", PLACE, str(tmp_path / "copy")]):
            output.append(CliRunner().invoke(app, ["cache", *command]).output)
    assert any("Cannot commit" in text for text in output)
    assert any("403" in text for text in output)
    assert TOKEN not in "".join(output) + caplog.text
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("kdcache")]
    assert any("failed at try" in line for line in ours)
    assert SIGNATURE not in "".join(output + ours)
    assert all(header is None for _, path, header in hub.requests if path.startswith("/lfs/"))
    assert any(header for _, path, header in hub.requests if "/resolve/" in path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]


def test_what_only_its_owner_may_read_is_not_said_to_be_damaged(pushed: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(CacheError, match=r"no such data set, or it is not yours to read\. Check the name, the token"):
        Cache.open(PLACE)


@pytest.fixture
def edited() -> Callable[[bytes], bytes]:
    return lambda card: card.replace(b"license: unknown", b"license: mit")


def test_an_edited_card_is_never_written_over(
    pushed: Hub, source: Path, tmp_path: Path, edited: Callable[[bytes], bytes]
) -> None:
    repository = pushed.repositories[REPOSITORY]
    card = edited(repository.files["README.md"])
    repository.commit({**repository.files, "README.md": card})
    more = shutil.copytree(source, tmp_path / "more")
    fill(open_entry(more), 3)
    report = push(more, PLACE, progress=Heard())
    assert (report.card, report.copy.copied) == ("kept", 3)
    assert repository.files["README.md"] == card
    assert "left as it is" in "\n".join(report.lines())


def test_the_card_that_lies_beside_the_cache_is_taken(
    pushed: Hub, source: Path, tmp_path: Path, edited: Callable[[bytes], bytes]
) -> None:
    own = shutil.copytree(source, tmp_path / "own")
    card = edited(pushed.repositories[REPOSITORY].files["README.md"])
    (own / "README.md").write_bytes(card)
    assert push(own, PLACE, progress=Heard()).card == "taken"
    assert pushed.repositories[REPOSITORY].files["README.md"] == card


def test_a_card_nobody_edited_tells_of_what_is_pushed_later(hub: Hub, source: Path) -> None:
    push(source, PLACE, views="0", teachers=("teacher",), progress=Heard())
    assert "| views | 1 (0) |" in hub.repositories[REPOSITORY].files["README.md"].decode()
    push(source, PLACE, progress=Heard())
    card = hub.repositories[REPOSITORY].files["README.md"].decode()
    assert "| views | 2 (0-1) |" in card
    assert "Teacher other" in card
    assert TOPK.kind in card

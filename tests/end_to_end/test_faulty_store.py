"""Whole jobs on an object store that fails now and then: they end well, with the bytes of a store that never fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from kdcache.cache.objects import ObjectFiles
from kdcache.data.check import check_index
from kdcache.dumping.dump import dump
from kdcache.errors import CacheError, DataError
from kdcache.inspection.copy import CopyOptions, copy_cache
from kdcache.inspection.verify import VerifyOptions, verify
from kdcache.io.object_retry import LIMIT_VARIABLE
from kdcache.render.trial import faults as broken_images
from kdcache.training.train import train
from kdcache_cli.main import app
from support.faulty_store import KINDS, Faults, faulty
from support.s3 import s3, s3_server, upload  # noqa: F401
from support.small_job import dump_request, train_request, tree_bytes

VIEWS = 2


@contextmanager
def behind(server: str, faults: Faults) -> Iterator[Faults]:
    """Every store that is opened meanwhile lies behind a proxy with these faults."""
    with faulty(server, faults) as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", address)
        yield faults


@pytest.fixture(scope="module")
def trained(job, tmp_path_factory):
    """The weights of a student that learns from the cache on the disk, which is to come out everywhere."""
    out = tmp_path_factory.mktemp("trained") / "run"
    train(train_request(job.data, out, cache=str(job.cache), epochs=1))
    return load_file(out / "export" / "model.safetensors")


def first_views(cache: Path) -> dict[str, bytes]:
    """The files of a cache that a dump of the first views writes."""

    def is_later(key: str) -> bool:
        parts = key.split("/")
        view = parts[parts.index("c") + 1] if "c" in parts and "teachers" in parts else ""
        view = parts[3] if parts[2:3] == ["records"] and len(parts) > 4 else view
        return view.isdecimal() and int(view) >= VIEWS

    return {key: data for key, data in tree_bytes(cache).items() if not is_later(key)}


def test_jobs_end_well_with_the_same_bytes(job, trained, s3, s3_server, tmp_path):  # noqa: F811
    """Among some 10 % of mixed faults, a fiftieth of the bodies cut short among them."""
    faults = Faults(dict.fromkeys(KINDS, 0.0125) | {"cut": 0.02}, slow=0.2)
    data, url = upload(Path(job.data), f"{s3}/train"), f"{s3}/cache"
    check_index(data, broken_images, workers=1)  # so that altered bytes of images are noticed
    with behind(s3_server, faults):
        report = dump(dump_request(data, url, job.weights, job.policy, views=VIEWS))
        assert report.views == VIEWS
        verified = verify(VerifyOptions(url, repair=True))
        assert (verified.findings, verified.missing) == ((), ())
        copied = copy_cache(CopyOptions(url, str(tmp_path / "copy")))
        assert copied.whole
        train(train_request(data, tmp_path / "run", cache=url, epochs=1))
    assert faults.happened["cut"]
    assert len(faults.happened) > 5
    found = tree_bytes(tmp_path / "copy")
    assert found == first_views(job.cache)
    files = ObjectFiles(url)
    assert {key: files.get(key) for key in found} == found
    student = load_file(tmp_path / "run" / "export" / "model.safetensors")
    assert all(torch.equal(student[name], trained[name]) for name in trained)


@pytest.mark.parametrize(
    ("kind", "cause"), [("503", "503 Service Unavailable"), ("reset-after", "no response from http://127.0.0.1")]
)
def test_a_store_that_stays_broken_ends_a_job_by_name(job, s3, s3_server, tmp_path, kind, cause):  # noqa: F811
    """After the stated time, which is short here; what was recorded before stays."""
    url = f"{s3}/cache"
    copy_cache(CopyOptions(str(job.cache), url, views="0"))
    data = upload(Path(job.data), f"{s3}/train")
    writing = Faults({kind: 1.0}, forever=True, only="/cache", methods=("PUT",))
    reading = Faults({kind: 1.0}, forever=True, only="/train/shard")
    with environment({LIMIT_VARIABLE: "0.2"}):
        with (
            behind(s3_server, writing),
            pytest.raises(CacheError, match=rf"Cannot write {url}/\S+: .*{cause}.*run the same"),
        ):
            dump(dump_request(job.data, url, job.weights, job.policy, views=VIEWS))
        with (
            behind(s3_server, reading),
            pytest.raises(DataError, match=rf"Cannot read {data}/shard-\S+: .*{cause}.*run the same"),
        ):
            dump(dump_request(data, url, job.weights, job.policy, views=VIEWS))
    assert verify(VerifyOptions(url)).whole


@contextmanager
def environment(changed: dict[str, str]) -> Iterator[None]:
    """Meanwhile these variables are set, or unset where the value is empty."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in changed.items():
            patch.setenv(name, value) if value else patch.delenv(name)
        yield


def test_a_dump_ends_although_listings_never_show_what_is_recorded(job, s3, s3_server):  # noqa: F811
    """It looks at the records themselves before it makes a block, and makes none twice."""
    url = f"{s3}/cache"
    copy_cache(CopyOptions(str(job.cache), url, views="0"))
    with behind(s3_server, Faults({"stale": 1.0}, forever=True, only="records%2F")):
        report = dump(dump_request(job.data, url, job.weights, job.policy, views=VIEWS))
    assert report.written == report.blocks // VIEWS
    verified = verify(VerifyOptions(url))
    assert (verified.whole, verified.blocks) == (True, report.blocks)


def command(*arguments: object) -> tuple[int, str]:
    ended = CliRunner().invoke(app, [*map(str, arguments)])
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    return ended.exit_code, ended.output


def test_what_cannot_be_read_is_not_called_damaged(job, s3, s3_server, tmp_path):  # noqa: F811
    """A script that takes 3 for damage must not repair for a network that is down, or a typing error."""
    url = f"{s3}/cache"
    copy_cache(CopyOptions(str(job.cache), url, views="0"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(LIMIT_VARIABLE, "0.05")
        patch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
        for changed, says in (
            ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "there are no credentials in the environment"),
            ({"AWS_ACCESS_KEY_ID": ""}, "has one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
            ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "error sending request"),
        ):
            with environment(changed):
                for arguments in (
                    ("verify", url, "--repair"),
                    ("inspect", url),
                    ("cache", "copy", url, tmp_path / "c"),
                ):
                    code, output = command(*arguments)
                    assert (code, says in output) == (1, True), output
        code, output = command("verify", "s3://no-such-bucket/cache")
        assert (code, "no such bucket" in output) == (1, True), output
        with behind(s3_server, Faults({"503": 1.0}, forever=True, only="/log_prob/c/0/")):
            code, output = command("verify", url, "--repair")
            assert (code, "could NOT be verified" in output) == (1, True), output
            code, output = command("cache", "copy", url, tmp_path / "part")
            assert (code, "NOT copied" in output, "can be read" in output) == (1, True, True), output
            ObjectFiles(url).put("teachers/test_resnet/records/0/1.json", b"?")
            code, output = command("verify", url)
            assert (code, "could not be read, and may be undamaged" in output) == (3, True), output
    assert command("verify", url)[0] == 3

"""A real S3 server on this machine, started by the test that needs it."""

import logging
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdcache.cache.objects import ObjectFiles
from kdcache.io.object_retry import PAUSE_VARIABLE


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of the server, http://..."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # it tells of every request
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket, which the environment says how to reach."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
        PAUSE_VARIABLE: "0.001",
    }.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    urllib.request.urlopen(urllib.request.Request(f"{s3_server}/{bucket}", method="PUT")).close()
    return f"s3://{bucket}"


def upload(folder: Path, url: str) -> str:
    """Put the files of a folder under a URL, which it gives."""
    for path in sorted(folder.iterdir()):
        if path.is_file():
            ObjectFiles(url).put(path.name, path.read_bytes())
    return url

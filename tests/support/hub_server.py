"""A server on this machine that speaks as much of the Hugging Face hub's HTTP API as kdcache needs, and has faults.

Repositories are kept in memory, each commit as the files that it has. Files that are no text are LFS objects: they are
put to and got from another host (`localhost`, and not 127.0.0.1) by signed addresses, as the hub's are, which must not
see the token. Beside that it is a plain web server of a folder, which lists nothing.
"""

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from kdcache.io.object_retry import PAUSE_VARIABLE

TOKEN = "hf_aTokenThatNobodyMaySee"
SIGNATURE = "aSignatureThatNobodyMaySee"

#: Names of a listing of a repository's files that come at once.
PAGE = 10


@dataclass
class Fault:
    """What goes wrong with the first requests of a method for a path that holds `part`.

    Attributes:
        kind: "cut" ends a body in its midst, "flip" changes a byte of it, "reset" ends the connection without an
            answer; a number is the status of the answer.
        after: requests that are answered before.
        times: requests that it happens to.
    """

    method: str
    part: str
    kind: str
    after: int = 0
    times: int = 1
    happened: int = 0


@dataclass
class Repository:
    """A repository: what each commit has, the latest last."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.head]

    def commit(self, files: dict[str, bytes]) -> str:
        """Add a commit and return its name."""
        name = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[name] = files
        return name

    def at(self, revision: str) -> dict[str, bytes] | None:
        return self.files if revision == "main" else self.commits.get(revision)


@dataclass
class Hub:
    """The state of the server."""

    web: Path | None = None
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault_of(self, method: str, path: str) -> str | None:
        """The fault of a request, if any."""
        with self.lock:
            for fault in self.faults:
                if fault.method == method and fault.part in path and fault.happened < fault.after + fault.times:
                    fault.happened += 1
                    return fault.kind if fault.happened > fault.after else None
        return None

    def asked(self, method: str, part: str) -> list[str]:
        """The paths of the requests of a method that hold `part`."""
        return [path for how, path, _ in self.requests if how == method and part in path]


def _is_lfs(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return True
    return len(data) > 10 * 2**20


class _RefusedError(Exception):
    def __init__(self, status: int, code: str = "") -> None:
        super().__init__(status)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def log_message(self, *arguments: object) -> None:
        """Nobody reads it."""

    def do_any(self) -> None:
        hub = self.server.hub
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunked()
        hub.requests.append((self.command, self.path, self.headers.get("Authorization")))
        self.kind = hub.fault_of(self.command, self.path)
        if self.kind == "reset":
            return self._reset()
        if self.kind is not None and self.kind.isdecimal():
            return self._send(int(self.kind), {"X-Error-Message": f"Not with {self.headers.get('Authorization')}"}, b"")
        try:
            for pattern, method, act in _ROUTES:
                found = re.fullmatch(pattern, unquote(urlsplit(self.path).path))
                if found and self.command in method.split():
                    return act(self, body, *found.groups())
            raise _RefusedError(404)
        except _RefusedError as refusal:
            self._send(refusal.status, {"X-Error-Code": refusal.code} if refusal.code else {}, b"")

    do_GET = do_HEAD = do_PUT = do_POST = do_any  # noqa: N815

    def create(self, body: bytes) -> None:
        self._require_token()
        asked = json.loads(body)
        name = f"{asked['type']}s/{asked['organization']}/{asked['name']}"
        known = name in self.server.hub.repositories
        if not known:
            repository = Repository(private=asked.get("visibility") == "private")
            repository.commit({".gitattributes": b"* text=auto\n"})
            self.server.hub.repositories[name] = repository
        self._json({"url": f"{self.server.hub.url}/{name}"}, 409 if known else 200)

    def validate(self, body: bytes) -> None:
        content = json.loads(body)["content"]
        errors = [] if content.startswith("---\n") else [{"message": "there is no front matter"}]
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def info(self, body: bytes, kind: str, name: str, revision: str | None) -> None:
        repository = self._repository(kind, name)
        if repository.at(revision or "main") is None:
            raise _RefusedError(404, "RevisionNotFound")
        sha = repository.head if revision in (None, "main") else revision
        self._json({"id": name, "sha": sha, "private": repository.private, "tags": [], "downloads": 0, "likes": 0})

    def tree(self, body: bytes, kind: str, name: str, revision: str) -> None:
        files = self._files(kind, name, revision)
        start = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
        found = [
            {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for path, data in sorted(files.items())
        ]
        more = {}
        if start + PAGE < len(found):
            next_page = f"{self.server.hub.url}{urlsplit(self.path).path}?recursive=True&cursor={start + PAGE}"
            more = {"Link": f'<{next_page}>; rel="next"'}
        self._json(found[start : start + PAGE], headers=more)

    def preupload(self, body: bytes, kind: str, name: str, revision: str) -> None:
        self._require_token()
        files = self._repository(kind, name).files
        found = []
        for asked in json.loads(body)["files"]:
            sample, there = base64.b64decode(asked["sample"]), files.get(asked["path"])
            oid = None
            if there is not None:
                oid = hashlib.sha256(there).hexdigest()
                if not _is_lfs(there):
                    oid = hashlib.sha1(f"blob {len(there)}\0".encode() + there).hexdigest()
            mode = "lfs" if _is_lfs(sample) else "regular"
            found.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": found})

    def batch(self, body: bytes, kind: str, name: str) -> None:
        self._require_token()
        found = []
        for asked in json.loads(body)["objects"]:
            there = asked["oid"] in self.server.hub.objects
            upload = {"upload": {"href": self._signed(asked["oid"]), "header": {}}}
            found.append(asked if there else {**asked, "actions": upload})
        self._json({"transfer": "basic", "objects": found})

    def put_object(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise _RefusedError(400)
        self.server.hub.objects[oid] = body
        self.server.hub.uploads.append(oid)
        self._send(200, {}, b"")

    def get_object(self, body: bytes, oid: str) -> None:
        if self.headers.get("Authorization"):
            raise _RefusedError(400)
        self._range(self.server.hub.objects[oid])

    def commit(self, body: bytes, kind: str, name: str, revision: str) -> None:
        self._require_token()
        repository = self._repository(kind, name)
        files, parent = dict(repository.files), repository.head
        for line in map(json.loads, body.splitlines()):
            key, value = line["key"], line["value"]
            if key == "header" and value.get("parentCommit", parent) != parent:
                raise _RefusedError(412)
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if key == "lfsFile":
                files[value["path"]] = self.server.hub.objects[value["oid"]]
            if key == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(files)
        self._json({"commitUrl": f"{self.server.hub.url}/{kind}/{name}/commit/{sha}", "commitOid": sha})

    def resolve(self, body: bytes, kind: str | None, name: str, revision: str, path: str) -> None:
        data = self._files(kind or "models/", name, revision).get(path)
        if data is None:
            raise _RefusedError(404, "EntryNotFound")
        if _is_lfs(data):
            oid = hashlib.sha256(data).hexdigest()
            self.server.hub.objects.setdefault(oid, data)
            self._send(302, {"Location": self._signed(oid)}, b"")
        else:
            self._range(data)

    def file(self, body: bytes, path: str) -> None:
        if "/c/" in path:
            self.server.hub.ranges.append(self.headers.get("Range", ""))
        root = self.server.hub.web
        if root is None or not (root / path).is_file():
            raise _RefusedError(404)
        self._range((root / path).read_bytes())

    def _signed(self, oid: str) -> str:
        return f"http://localhost:{self.server.server_address[1]}/lfs/{oid}?signature={SIGNATURE}"

    def _repository(self, kind: str, name: str) -> Repository:
        repository = self.server.hub.repositories.get(f"{kind.rstrip('/')}/{name}")
        if repository is None or (repository.private and not self._has_token()):
            raise _RefusedError(401 if not self._has_token() else 404, "RepoNotFound")
        return repository

    def _files(self, kind: str, name: str, revision: str) -> dict[str, bytes]:
        files = self._repository(kind, name).at(revision)
        if files is None:
            raise _RefusedError(404, "RevisionNotFound")
        return files

    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _require_token(self) -> None:
        if not self._has_token():
            raise _RefusedError(401)

    def _chunked(self) -> bytes:
        parts = []
        while length := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(length))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(status, {"Content-Type": "application/json", **(headers or {})}, json.dumps(value).encode())

    def _range(self, data: bytes) -> None:
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if found is None:
            return self._send(200, {"Accept-Ranges": "bytes"}, data)
        start, stop = int(found[1]), min(int(found[2]) + 1 if found[2] else len(data), len(data))
        if start >= len(data):
            return self._send(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
        self._send(206, {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}, data[start:stop])

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.kind == "flip" and body:
            body = body[:-1] + bytes([body[-1] ^ 4])
        if self.kind == "cut":
            self.close_connection = True
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def _reset(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.shutdown(socket.SHUT_RD)
        self.connection.close()


_KIND, _NAME = "(datasets|models)", r"([\w.-]+/[\w.-]+)"
#: The path of each request that is answered, its methods, and what answers.
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("/api/repos/create", "POST", _Handler.create),
    ("/api/validate-yaml", "POST", _Handler.validate),
    (f"/api/{_KIND}/{_NAME}(?:/revision/([^/]+))?", "GET", _Handler.info),
    (f"/api/{_KIND}/{_NAME}/tree/([^/]+)", "GET", _Handler.tree),
    (f"/api/{_KIND}/{_NAME}/preupload/([^/]+)", "POST", _Handler.preupload),
    (f"/api/{_KIND}/{_NAME}/commit/([^/]+)", "POST", _Handler.commit),
    (rf"/(datasets/)?{_NAME}\.git/info/lfs/objects/batch", "POST", _Handler.batch),
    (r"/lfs/([0-9a-f]{64})", "PUT", _Handler.put_object),
    (r"/lfs/([0-9a-f]{64})", "GET", _Handler.get_object),
    ("/web/(.+)", "GET", _Handler.file),
    (f"/(datasets/)?{_NAME}/resolve/([^/]+)/(.+)", "GET HEAD", _Handler.resolve),
]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, hub: Hub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub

    def handle_error(self, *arguments: Any) -> None:
        """A client that went away is what faults are for."""


@contextmanager
def served(hub: Hub) -> Iterator[Hub]:
    """The hub, answering at its `url`."""
    server = _Server(hub)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub, which the environment says how to reach, with a token."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv(PAUSE_VARIABLE, "0.001")
    with served(Hub()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub

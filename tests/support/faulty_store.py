"""A proxy between obstore and an S3 server on this machine that breaks some of the requests, by a seeded schedule.

Whether a request is broken, and how, depends on the seed, on what is asked for, and on how often that was asked for
before: not on threads and not on time. The same object is never broken more than `in_a_row` times in a row, so that a
client that is patient enough always gets through, unless a fault is `forever`.
"""

import http.client
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

#: Answers in place of the server's: without a body, as a gateway gives them.
STATUSES = {"404": 404, "500": 500, "503": 503}
#: Kinds that fit any request.
ANYWHERE = ("500", "503", "reset-before", "reset-after")
#: Kinds that fit requests for bytes.
OF_BODIES = ("cut", "flip", "slow")
#: All kinds: `mid-put` resets in the midst of what is sent, `404` is for what is there, `stale` for listings.
KINDS = (*ANYWHERE, *OF_BODIES, "404", "mid-put", "stale")
_HOP = {"connection", "keep-alive", "transfer-encoding", "host", "content-length", "date", "server"}


@dataclass
class Faults:
    """Which requests are broken.

    Attributes:
        rates: the share of the requests that a kind of fault can happen to, by kind.
        only: a part of a path; requests for others are let through.
        methods: requests of others are let through; empty for all.
        in_a_row: how often the same request is broken at most before it is let through once.
        forever: every request that a kind fits is broken, for always.
        slow: seconds that a slow body stands still in its midst.
        happened: how often each kind happened.
        asked: requests of each method.
    """

    rates: Mapping[str, float]
    seed: int = 0
    only: str = ""
    methods: tuple[str, ...] = ()
    in_a_row: int = 3
    forever: bool = False
    slow: float = 30.0
    happened: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    _times: Counter[str] = field(default_factory=Counter)
    _broken: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def choose(self, method: str, path: str, ranges: str) -> str | None:
        """The kind of fault that happens to a request, if any."""
        with self._lock:
            self.asked[method] += 1
            name = f"{method} {_without_bucket(path)} {ranges}"
            self._times[name] += 1
            if self.only not in path or (self.methods and method not in self.methods):
                return None
            draws = random.Random(f"{self.seed} {name} {self._times[name]}")
            kinds = [kind for kind in self.rates if self._fits(kind, method, path) and self._drawn(kind, draws)]
            if not kinds or (not self.forever and self._broken[name] >= self.in_a_row):
                self._broken[name] = 0
                return None
            kind = draws.choice(kinds)
            self._broken[name] += 1
            self.happened[kind] += 1
            return kind

    def _drawn(self, kind: str, draws: random.Random) -> bool:
        return draws.random() < self.rates[kind] or self.forever

    @staticmethod
    def _fits(kind: str, method: str, path: str) -> bool:
        listing = "list-type" in parse_qs(urlsplit(path).query)
        if kind in OF_BODIES:
            return method == "GET" and not listing
        if kind == "404":
            return method in ("GET", "HEAD") and not listing
        if kind == "stale":
            return method == "GET" and listing
        return method in ("PUT", "POST") if kind == "mid-put" else kind in ANYWHERE


def _without_bucket(path: str) -> str:
    """A path without its first part: a bucket's name is another one in each test, and is not to change a schedule."""
    bucket, separator, rest = path.lstrip("/").partition("/" if "?" not in path.split("/")[1] else "?")
    return f"{separator}{rest}" if bucket else path


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def log_message(self, *arguments: object) -> None:
        """Nobody reads it."""

    def do_any(self) -> None:
        """Pass a request on and its answer back, or break one or the other."""
        kind = self.server.faults.choose(self.command, self.path, self.headers.get("Range", ""))
        length = int(self.headers.get("Content-Length", 0))
        if kind == "reset-before":
            return self._reset()
        if kind == "mid-put":
            self.rfile.read(length // 2)
            return self._reset()
        body = self.rfile.read(length)
        if kind in STATUSES:
            return self._send(STATUSES[kind], {"Retry-After": "1"} if kind == "503" else {}, b"")
        status, headers, answer = self._ask(body)
        if kind == "reset-after":
            return self._reset()
        if kind == "stale":
            answer = self.server.former(self.path)
        self.server.note(self.path, status, answer)
        ok = kind in OF_BODIES and status in (200, 206) and answer
        if ok and kind == "flip":
            place = self.server.faults.happened["flip"] * 7919 % len(answer)  # another byte each time
            answer = answer[:place] + bytes([answer[place] ^ 4]) + answer[place + 1 :]
        self._send(status, headers, answer, kind if ok else None)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any  # noqa: N815

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=30)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP - {"host"}}
            upstream.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
            found = upstream.getresponse()
            answer = found.read()
            kept = {name: value for name, value in found.getheaders() if name.lower() not in _HOP}
            if self.command == "HEAD":
                kept["Content-Length"] = found.getheader("Content-Length", "0")
            return found.status, kept, answer
        finally:
            upstream.close()

    def _send(self, status: int, headers: Mapping[str, str], body: bytes, kind: str | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers and status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if kind in ("cut", "slow"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if kind == "slow":
                self.server.closing.wait(self.server.faults.slow)
            self.close_connection = True
            return
        self.wfile.write(body)

    def _reset(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.shutdown(socket.SHUT_RD)
        self.connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str, faults: Faults) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream, self.faults = upstream, faults
        self.closing = threading.Event()
        self._listings: dict[str, list[bytes]] = {}

    def note(self, path: str, status: int, answer: bytes) -> None:
        """Keep what a listing said first and last, to give it again when it is not true any more."""
        if status == 200 and "list-type" in path:
            self._listings.setdefault(path, [answer])[1:] = [answer]

    def former(self, path: str) -> bytes:
        """A listing of before; one of nothing where there was none."""
        return self._listings.get(path, [EMPTY_LISTING])[0]

    def handle_error(self, *arguments: Any) -> None:
        """A client that went away is what this is for."""


EMPTY_LISTING = (
    b'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    b"<Name>bucket</Name><Prefix></Prefix><MaxKeys>1000</MaxKeys><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated>"
    b"</ListBucketResult>"
)


@contextmanager
def faulty(server: str, faults: Faults) -> Iterator[str]:
    """The address of a proxy before the server at this address, such as http://127.0.0.1:5000."""
    proxy = _Server(urlsplit(server).netloc, faults)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_address[1]}"
    finally:
        proxy.closing.set()
        proxy.shutdown()
        proxy.server_close()
        thread.join()

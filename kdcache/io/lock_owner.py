"""The process that holds a folder: its record there, and whether it still runs as far as another process can see."""

import json
import os
import shlex
import socket
import sys
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from kdcache.errors import printable_excerpt
from kdcache.io.json_format import parse_json

#: How every record begins. A file that begins otherwise was not written by kdcache.
MAGIC = b'{"kdcache": "owner", '

#: Bytes of a record that are read; one that is written is shorter.
MAX_RECORD_BYTES = 4096

#: Characters of a command line that a record keeps.
MAX_COMMAND = 300

#: File systems that one kernel alone mounts, so that its locks hold for everybody and nobody writes from elsewhere.
LOCAL_FILE_SYSTEMS = frozenset(
    ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "reiserfs", "tmpfs", "xfs", "zfs")
)

Life = Literal["alive", "dead", "unknown"]


@dataclass(frozen=True)
class Owner:
    """The process that holds a folder.

    Attributes:
        pid: process number, in its own PID namespace.
        host: name of its machine or container.
        boot: identifier of the running kernel, new at each boot; empty where the system has none.
        pid_namespace: number of the PID namespace; 0 where the system has none.
        started: start of the process in clock ticks since the boot; 0 if it is not known. With `boot`,
            it distinguishes a process from a later one with the same number.
        command: shortened command line of the process.
        since: time at which the folder was taken, in UTC.
        token: a random number in hexadecimal digits, different each time that a folder is taken.
    """

    pid: int
    host: str
    boot: str
    pid_namespace: int
    started: int
    command: str
    since: str
    token: str

    @classmethod
    def this_process(cls) -> "Owner":
        """Return this process as the owner of a folder taken now."""
        pid = os.getpid()
        return cls(
            pid=pid,
            host=_host(),
            boot=_boot_id(),
            pid_namespace=_pid_namespace(),
            started=_started(pid) or 0,
            command=_command(),
            since=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
            token=uuid.uuid4().hex,
        )

    @classmethod
    def from_record(cls, record: bytes) -> "Owner | None":
        """Return the owner of a record; None if the record is empty, incomplete or damaged."""
        try:
            values = parse_json(record)
            owner = cls(**{name: values[name] for name in cls.__dataclass_fields__})
            numbers = (owner.pid, owner.pid_namespace, owner.started)
            texts = (owner.host, owner.boot, owner.command, owner.since, owner.token)
        except (ValueError, KeyError, TypeError):
            return None
        whole = all(type(number) is int for number in numbers) and all(isinstance(text, str) for text in texts)
        return owner if whole and 0 < owner.pid < 2**31 else None

    def record(self, beat: int) -> bytes:
        """Return the bytes of the record, of equal length for every `beat`, so that it can be overwritten in place.

        beat: number of heartbeats of the owner.
        """
        values = json.dumps({**asdict(self), "beat": f"{beat:012d}"}).encode()
        return MAGIC + values[1:] + b"\n"

    def describe(self) -> str:
        """Describe the process: number, machine, command, and since when it holds the folder."""
        host, command, since = (
            printable_excerpt(text, length, "unknown")
            for text, length in ((self.host, 100), (self.command, MAX_COMMAND), (self.since, 40))
        )
        return f"process {self.pid} on {host} ({command}, since {since})"

    def life(self) -> Life:
        """Return whether the process still runs, by its number, which is valid only within its own PID namespace."""
        if not self.shares_kernel() or not self.pid_namespace or self.pid_namespace != _pid_namespace():
            return "unknown"
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return "dead"
        except OSError:  # it runs as another user
            pass
        started = _started(self.pid)
        if started is None:  # a system that hides the processes of other users
            return "alive"
        return "alive" if started == self.started or not self.started else "dead"

    def shares_kernel(self) -> bool:
        """Return whether the process ran on the same kernel as this one, also in another container."""
        return bool(self.boot) and self.boot == _boot_id()

    def shares_host_name(self) -> bool:
        """Return whether the process ran on a machine of this name."""
        return self.host == _host()


def is_local(path: Path) -> bool:
    """Return whether a path lies on a file system, judged by its type, that no other machine can write to.

    False if the type is not known.
    """
    try:
        mounts = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    except OSError:
        return False
    return file_system_of(os.path.realpath(path), mounts) in LOCAL_FILE_SYSTEMS


def file_system_of(place: str, mounts: str) -> str:
    """Return the type of the file system of a path; empty if unknown.

    Args:
        place: an absolute path without links.
        mounts: the text of `/proc/self/mountinfo`.
    """
    kind = ""
    deepest = -1
    for line in mounts.split("\n"):
        mount, separator, source = line.partition(" - ")
        if not separator:
            continue
        point = _unescaped(mount.split(" ")[4])
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= deepest:  # of several on one point the last one is seen
            deepest, kind = len(point), source.split(" ")[0]
    return kind


def _unescaped(text: str) -> str:
    """Decode a path of `mountinfo`, which writes blanks and backslashes as three octal digits."""
    for escaped, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        text = text.replace(escaped, character)
    return text


def _host() -> str:
    return _encodable(socket.gethostname())


def _encodable(text: str) -> str:
    """Return text of the system with invalid UTF-8 replaced, which readers of records would refuse."""
    return text.encode("utf-8", "replace").decode()


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except (OSError, ValueError):
        return ""


def _pid_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _started(pid: int) -> int | None:
    """Return the start of a process, in clock ticks since the boot; 0 for one that has ended (a zombie).

    None if the system does not report it.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = status[status.rfind(b")") + 1 :].split()  # the name before may hold blanks and brackets
    if len(fields) < 20 or not fields[19].isdigit():
        return None
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def _command() -> str:
    program, *arguments = sys.argv or [""]
    name = os.path.basename(program)
    package = os.path.basename(os.path.dirname(program))
    parts = ["kdcache" if name == "__main__.py" and package == "kdcache_cli" else name, *arguments]
    return _encodable(shlex.join(parts))[:MAX_COMMAND]

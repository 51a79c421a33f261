"""What `pack.py` writes: numbered parts of one archive and a list of their sums.

    python benchmarks/gpu/unpack.py PACK FOLDER

unpacks them; `sitting.py` does so by itself. Only the standard library is imported here: it runs before the packages
are there.
"""

import hashlib
import io
import json
import os
import re
import shutil
import sys
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

MANIFEST = "manifest.json"
#: File in an unpacked folder that holds the SHA-256 sum of the archive that it came from.
STAMP = ".archive-sha256"
#: Version of the interpreter that runs this.
THIS_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
_CHUNK = 1 << 20


class PackError(Exception):
    """A pack is not whole. The message says what is wrong, and what to do."""


@dataclass(frozen=True)
class Part:
    """One file of a pack: its name, size in bytes and SHA-256 sum."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a pack holds.

    Attributes:
        python: version of Python that the packages are built for, such as "3.12".
        packages: the packages, each as NAME==VERSION.
        parts: the files, whose bytes one after the other are a tar archive in gzip.
    """

    python: str
    packages: tuple[str, ...]
    parts: tuple[Part, ...]

    @property
    def sha256(self) -> str:
        """One sum for the whole pack, made of those of its parts."""
        return hashlib.sha256("".join(part.sha256 for part in self.parts).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Write it beside the parts."""
        (folder / MANIFEST).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read the manifest of a folder of parts. Raises PackError where it cannot be read."""
        try:
            values = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            return cls(values["python"], tuple(values["packages"]), tuple(Part(**part) for part in values["parts"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PackError(f"{folder / MANIFEST} is not as pack.py wrote it ({error}): bring it again.") from error


def place_of(name: str) -> str:
    """Where a file of a wheel lies once it is unpacked: what the wheel keeps for a library's folder lies there."""
    return re.sub(r"^[^/]+\.data/(purelib|platlib)/", "", name)


def is_pack(folder: Path) -> bool:
    """Whether a folder holds what `pack.py` writes, rather than unpacked packages."""
    return (folder / MANIFEST).exists()


def unpack(parts: Path, folder: Path, python: str = THIS_PYTHON) -> Path:
    """Join the parts of a pack and unpack them into `folder`, unless they lie there already; return `folder`.

    Args:
        python: version of the interpreter that is to import them, such as "3.12".

    Raises:
        PackError: a part is missing or damaged, or the packages are built for another version of Python.
    """
    manifest = Manifest.read(parts)
    if manifest.python != python:
        raise PackError(
            f"{parts} was packed for Python {manifest.python}, and this is {python}, which cannot import its compiled "
            f"modules. Pack again with `pack.py --python` and an interpreter of version {python}."
        )
    if (folder / STAMP).exists() and (folder / STAMP).read_text(encoding="utf-8") == manifest.sha256:
        return folder
    require_whole(parts, manifest)
    unfinished = folder.with_name(folder.name + ".unfinished")
    for old in (unfinished, folder):
        shutil.rmtree(old, ignore_errors=True)
    unfinished.mkdir(parents=True)
    joined = _Joined([parts / part.name for part in manifest.parts])
    try:
        with tarfile.open(fileobj=io.BufferedReader(joined, _CHUNK), mode="r|gz") as archive:
            archive.extractall(unfinished, filter="data")
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise PackError(f"{parts} cannot be unpacked into {folder}: {error}.") from error
    (unfinished / STAMP).write_text(manifest.sha256, encoding="utf-8")
    unfinished.rename(folder)
    return folder


def require_whole(parts: Path, manifest: Manifest) -> None:
    """Raise PackError unless every part is there as it was written; the message names the first that is not."""
    missing = [part.name for part in manifest.parts if not (parts / part.name).is_file()]
    if missing:
        raise PackError(f"{parts} lacks {', '.join(missing)} of {len(manifest.parts)} parts: bring them, too.")
    for part in manifest.parts:
        if sha256_of(parts / part.name) != part.sha256:
            raise PackError(f"{parts / part.name} is not as pack.py wrote it: bring it again.")


def sha256_of(file: Path) -> str:
    """Return the SHA-256 sum of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


class _Joined(io.RawIOBase):
    """Files one after the other, as one that is read from its start to its end."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._pieces = self._read(files)
        self._rest = memoryview(b"")

    @staticmethod
    def _read(files: Sequence[Path]) -> Iterator[bytes]:
        for file in files:
            with file.open("rb") as opened:
                while piece := opened.read(_CHUNK):
                    yield piece

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        self._rest = self._rest or memoryview(next(self._pieces, b""))
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def environment_with(packages: Path | None, *folders: Path) -> dict[str, str]:
    """Return the variables of a process that finds the packages, and before them modules of `folders`.

    What lies in PYTHONPATH already comes behind.
    """
    paths = [str(folder) for folder in (*folders, *([] if packages is None else [packages]))]
    paths += [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        unpack(Path(sys.argv[1]), Path(sys.argv[2]))
    except PackError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

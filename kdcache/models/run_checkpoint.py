"""The folder of one checkpoint: its manifest, and whether its files are whole.

checkpoints/step-00001234/
    model.safetensors     the student's weights, with the header that an export has
    ema.safetensors       their moving average, where there is one
    trainer.safetensors   tensors of the optimiser, scaler and random states
    trainer.json          everything else of the trainer, and where the tensors belong
    manifest.json         step, epoch, and length and BLAKE2b-256 of each of these; written last
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from kdcache.errors import CorruptError, RunError, reason
from kdcache.io.json_format import parse_json
from kdcache.io.reading import open_regular, read_bytes

MANIFEST = "manifest.json"
#: Names of the folders of checkpoints, and of the files in them.
FOLDER_NAME = re.compile(r"step-(\d{8,})")
FILE_NAME = re.compile(r"((model|ema|trainer)\.safetensors|(trainer|manifest)\.json)")
_FORMAT = 1
#: Bytes of a file of a checkpoint: what has more is not looked through, whatever a manifest says.
_MAX_FILE_BYTES = 2**37


@dataclass(frozen=True)
class Manifest:
    """The contents of a checkpoint's manifest.

    Attributes:
        step: number of optimiser steps done.
        epoch: number of epochs done, where the step is the last of one; None for a checkpoint within an epoch.
        files: length and hash of each file by its name.
    """

    step: int
    epoch: int | None
    files: Mapping[str, Mapping[str, Any]]


class ManifestWriter:
    """Flushes and hashes the files of a new checkpoint in threads, while the next ones are written.

    Use it as a context manager, which ends the threads.
    """

    def __init__(self, folder: Path) -> None:
        """folder: the checkpoint's, in which the manifest is written."""
        self._folder = folder
        self._fingerprints: dict[str, Future[dict[str, Any]]] = {}
        self._threads = ThreadPoolExecutor(3, thread_name_prefix="checkpoint")

    def add(self, name: str) -> None:
        """Take up a file that has been written whole."""
        self._fingerprints[name] = self._threads.submit(_flush_and_fingerprint, self._folder / name)

    def write(self, step: int, epoch: int | None) -> None:
        """Write the manifest of the files that were added. Raises OSError where the disk refused one of them."""
        files = {name: fingerprint.result() for name, fingerprint in sorted(self._fingerprints.items())}
        manifest = {"format": _FORMAT, "step": step, "epoch": epoch, "files": files}
        (self._folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")

    def __enter__(self) -> "ManifestWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown()


def read_manifest(folder: Path) -> Manifest:
    """Read a checkpoint's manifest; its files are not looked at.

    Raises:
        CorruptError: there is none, or it cannot be read.
        RunError: a later version of kdcache wrote it.
    """
    try:
        manifest = parse_json(read_bytes(folder / MANIFEST))
        version, files, step, epoch = (manifest.get(name) for name in ("format", "files", "step", "epoch"))
        found = Manifest(int(step), None if epoch is None else int(epoch), dict(files))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(f"The checkpoint {folder} is broken: no readable {MANIFEST} ({reason(error)}).") from error
    if version != _FORMAT:
        raise RunError(f"The checkpoint {folder} has format {version}, and this kdcache reads {_FORMAT}: update it.")
    return found


def require_whole(folder: Path, name: str, manifest: Manifest) -> Path:
    """Return the path of a checkpoint's file, which is the very file that the manifest tells of.

    Raises:
        CorruptError: the file is missing, short or altered.
    """
    file, wanted = folder / name, manifest.files.get(name)
    size = wanted.get("bytes") if isinstance(wanted, dict) else None
    try:
        whole = type(size) is int and file.stat().st_size == size <= _MAX_FILE_BYTES and _fingerprint(file) == wanted
    except OSError:
        whole = False
    if not whole:
        raise CorruptError(f"The checkpoint {folder} is broken: {name} is missing or altered.")
    return file


def require_whole_weights(folder: Path, manifest: Manifest) -> Path:
    """Return the path of a checkpoint's weights, of their moving average where there is one.

    Raises:
        CorruptError: as `require_whole` does.
    """
    name = "ema.safetensors" if "ema.safetensors" in manifest.files else "model.safetensors"
    return require_whole(folder, name, manifest)


def checkpoint_steps(checkpoints: Path) -> list[int]:
    """Return the steps of the checkpoints in `checkpoints`, in ascending order; their files are not looked at."""
    if not checkpoints.is_dir():
        return []
    found = ((FOLDER_NAME.fullmatch(path.name), path) for path in checkpoints.iterdir())
    # A folder in which somebody keeps a file of his own outlives its checkpoint.
    return sorted(int(match[1]) for match, path in found if match and _holds_any(path))


def checkpoint_folder(checkpoints: Path, step: int) -> Path:
    """Return the folder of the checkpoint of a step."""
    return checkpoints / f"step-{step:08d}"


def _holds_any(folder: Path) -> bool:
    """Return whether a folder holds any file of a checkpoint's; True where it cannot be looked at."""
    try:
        return not folder.is_dir() or any(map(FILE_NAME.fullmatch, os.listdir(folder)))
    except OSError:
        return True


def _flush_and_fingerprint(file: Path) -> dict[str, Any]:
    """Flush a file and return its fingerprint; neither holds the interpreter's lock."""
    with open(file, "rb") as stream:
        os.fsync(stream.fileno())
    return _fingerprint(file)


def _fingerprint(file: Path) -> dict[str, Any]:
    with open_regular(file) as stream:
        digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=32))
        return {"bytes": os.fstat(stream.fileno()).st_size, "blake2b": digest.hexdigest()}

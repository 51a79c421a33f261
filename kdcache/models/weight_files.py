"""The kinds of files that are given as weights and hold none: a web page, a Git LFS pointer, an archive, a whole model.

A file is told by its first bytes, or by the names in its archive. Nothing in it is run.
"""

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch

from kdcache.errors import reason
from kdcache.io.reading import opened, read_part

#: Bytes of the beginning that tell what a file is; the mark of a tar archive ends at byte 262.
_HEAD_BYTES = 512
#: Bytes of a safetensors file before its header, and the most that its header has (safetensors' own limit).
_LENGTH_BYTES, _MAX_HEADER_BYTES = 8, 100_000_000

#: Objects that timm lets torch load, as its own training checkpoints have them.
_HARMLESS = frozenset({"argparse.Namespace"})
#: As many names of pickled objects are told.
_SHOWN = 3

_AGAIN = "Download it again."
_UNPACK = "Unpack it, and give the file of weights that is in it."
_SAVE = "torch.save(model.state_dict(), 'weights.pth')"

_KNOWN = (
    (rb"\Z", "an empty file", _AGAIN),
    (
        rb"version https://git-lfs",
        "a Git LFS pointer, which names the weights and does not hold them",
        "Fetch them with `git lfs pull` in their repository.",
    ),
    (
        rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head)",
        "an HTML page, such as a login or an error page",
        "Download it again, by the link of the file itself, and signed in where the site asks for it.",
    ),
    (rb"[^\x00-\x08\x0e-\x1f]+\Z", "a text", "Give the file of weights that belongs to it, or download it again."),
    (rb"\x1f\x8b|\x28\xb5\x2f\xfd|\xfd7zXZ|BZh|7z\xbc\xaf|(?s:.{257})ustar", "a packed archive", _UNPACK),
    (rb"\x93NUMPY", "a NumPy array", f"Load it into a timm model, and save that model's weights: {_SAVE}."),
    (rb"\x89HDF", "an HDF5 file, as Keras saves models", "Get the weights as PyTorch or safetensors files."),
)


@dataclass(frozen=True)
class ForeignFile:
    """A file that holds no weights which kdcache reads.

    Attributes:
        kind: description as a clause without a full stop: "an empty file".
        remedy: advice as a sentence.
    """

    kind: str
    remedy: str


def is_safetensors(file: Path) -> bool:
    """Return whether a file is read as safetensors: by its name, or else by how it begins.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    head = _head(file)
    length = int.from_bytes(head[:_LENGTH_BYTES], "little")
    begins = head[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{" and length <= _MAX_HEADER_BYTES
    return begins or file.suffix == ".safetensors"


def recognise(file: Path) -> ForeignFile | None:
    """Tell what a file is that cannot be weights, by how it begins; None where it may be weights.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    head = _head(file)
    for start, kind, remedy in _KNOWN:
        if re.match(start, head, re.IGNORECASE):
            return ForeignFile(kind, remedy)
    is_zip = head.startswith(b"PK\x03\x04")
    if is_zip and (archive := _recognise_zip(file)) is not None:
        return archive
    # torch writes a zip archive, or in its older format a pickle of protocol 2.
    if file.suffix == ".safetensors" and (is_zip or head.startswith(b"\x80\x02")):
        return ForeignFile("a file of torch.save with another name", "Rename it, so that it ends in .pth.")
    return None


def explain_refusal(file: Path, error: Exception) -> ForeignFile:
    """Say what is in a file that `torch.load(weights_only=True)` refused with `error`.

    What torch says of pickled objects is not quoted: it advises to switch the protection off, which kdcache never does.
    """
    try:
        found = set(torch.serialization.get_unsafe_globals_in_checkpoint(str(file))) - _HARMLESS
    except Exception:  # torch's older format, or damaged: there is nothing to name
        found = set()
    if found:
        shown = ", ".join(f"{name:.60}" for name in sorted(found)[:_SHOWN])
        is_model = any(name.startswith("torch.nn.modules.") for name in found)
        return ForeignFile(
            f"{'a whole pickled model' if is_model else 'a pickle with Python objects in it'} ({shown}), and kdcache "
            "runs no code of a file",
            f"Load it with the program that made it, if you trust its source, and save the weights alone: {_SAVE}.",
        )
    if isinstance(error, OSError | RuntimeError) and "weights_only" not in str(error):
        return ForeignFile(f"cut short or damaged ({reason(error)})", _AGAIN)
    return ForeignFile(
        "no state dict of tensors, but damaged, or a pickle of other Python objects, such as a whole model, and "
        "kdcache runs no code of a file",
        f"Download it again; or save the weights alone with the program that made it: {_SAVE}.",
    )


def _head(file: Path) -> bytes:
    with opened(file) as descriptor:
        return read_part(descriptor, 0, _HEAD_BYTES)


def _recognise_zip(file: Path) -> ForeignFile | None:
    """Describe a zip archive; None for one that torch.save may have written."""
    try:
        with zipfile.ZipFile(file) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # zipfile raises the last for a damaged directory
        return ForeignFile("cut short: it begins as a file of torch.save does, and its end is missing", _AGAIN)
    if any(name.endswith("/constants.pkl") for name in sizes):
        return ForeignFile(
            "a TorchScript program",
            f"Load it with torch.jit.load, if you trust its source, and save its weights: {_SAVE}.",
        )
    if not any(name.endswith("/data.pkl") for name in sizes):
        return ForeignFile("a zip archive without tensors", _UNPACK)
    if sum(sizes.values()) > file.stat().st_size:  # torch compresses nothing
        return ForeignFile("an archive that unpacks to more bytes than it has, unlike those of torch.save", _AGAIN)
    return None

"""Files and folders of a run that are whole or not there, whenever the process is killed."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdcache.errors import RunError
from kdcache.flushing import flush


def replace_file(path: Path, data: bytes) -> None:
    """Put a file with these bytes in the place of what is there; flushed before it is.

    Raises:
        RunError: the disk refuses.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with _refusals(path):
        try:
            partial.write_bytes(data)
            flush(partial)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        flush(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which stands at `path` once the block has ended well; what stood there gives way to it.

    Raises:
        RunError: the disk refuses.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with _refusals(path):
        partial.mkdir(parents=True)
        try:
            yield partial
            # safetensors makes files for one user alone: they are for whom the umask allows, as the folder shows.
            allowed = partial.stat().st_mode & 0o666
            for file in partial.iterdir():
                if file.stat().st_mode & allowed != allowed:
                    file.chmod(allowed)
                flush(file)
            flush(partial)
            if path.exists():
                # No system call swaps folders everywhere. Killed between these two lines, the older one is gone:
                # who writes over a folder has the newer one's content at hand, and writes it again.
                shutil.rmtree(path)
            partial.rename(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        flush(path.parent)


def tidy(folder: Path) -> None:
    """Remove what a killed process left half written in `folder`. Not while another one writes there."""
    for left in folder.glob(".*.*"):
        suffix = left.name.rpartition(".")[2]
        if len(suffix) == 32 and not suffix.strip("0123456789abcdef"):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path} cannot be written ({error.strerror or error}): make room or choose another folder with --out, "
            "then run the same command again."
        ) from error

"""The folder of one run: what it belongs to, and the refusal to mix two runs in one folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from kdcache.errors import RunError, reason
from kdcache.io.folder_lock import FolderLock, Tell, hold_folder, is_lock_file
from kdcache.io.json_format import parse_json
from kdcache.run.config import RunConfig, read_config, write_config
from kdcache.run.settings import differences, to_plain

_CONFIG = "config.yaml"
_BELONGS = "belongs.json"
_WINDOWS = "windows.npy"
_GIVEN = "given.json"
_STARTED = {_BELONGS, _WINDOWS, _GIVEN}
_WRITTEN = {_CONFIG, *_STARTED, "metrics.csv", "events", "checkpoints", "past", "export"}
# What a run writes on its way may be changed when it goes on; what it learns may not. The same cache may be copied into
# a newer format meanwhile, and views without a cache have the format that this version makes.
_FREE = (
    *("eval_epochs", "checkpoint_epochs", "keep_checkpoints", "keep_epochs", "export_dtype"),
    "view_set.format",
)


class RunFolder:
    """A run's place on disk.

    config.yaml     every setting, resolved; written last when a run begins
    belongs.json    what its results depend on beside them: view set, teacher, classes
    windows.npy     of the view set
    given.json      where data and teacher were found by the last start; free to change
    metrics.csv, events, checkpoints, export    what training adds
    past            the student's predictions of the last round, where its objective learns from them
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def hold(self, tell: Tell) -> FolderLock:
        """Hold the folder for this process, or for all ranks of its job, until the lock is released.

        tell: told what is waited for, see `kdcache.io.folder_lock`.

        Raises:
            FolderHeldError: another process holds it.
            RunError: the folder cannot be written.
        """
        remedy = "Two trainings would mix their results: wait until it has ended, or give another --out."
        try:
            return hold_folder(self.path, f"The run folder {self.path}", remedy, tell)
        except OSError as error:
            raise self._unwritable(error) from error

    def enter(
        self,
        config: RunConfig,
        belongs: dict[str, Any],
        given: dict[str, Any],
        windows: Int32[np.ndarray, "n"],
        *,
        fresh: bool,
    ) -> bool:
        """Begin a run here, or go on with the one that is here; returns whether there was one.

        Args:
            config: resolved.
            belongs: what results depend on beside it, as plain JSON values.
            given: paths and devices of this start, as plain JSON values.
            windows: of the view set, read again by `stored_windows`.
            fresh: begin anew.

        Raises:
            RunError: another run is here, or something that is no run, or the folder cannot be written.
        """
        try:
            resumes = self.require(config, belongs, fresh=fresh)
            if not resumes:
                if self.is_run():
                    self._clear()
                self.path.mkdir(parents=True, exist_ok=True)
                np.save(self.path / _WINDOWS, windows)
                _write_json(self.path / _BELONGS, belongs)
            _write_json(self.path / _GIVEN, given)
            write_config(config, self.path / _CONFIG)  # last: it makes the folder a run
            return resumes
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> RunError:
        return RunError(
            f"The run folder {self.path} cannot be written ({error.strerror or error}): give another --out."
        )

    def require(self, config: RunConfig, belongs: dict[str, Any], *, fresh: bool) -> bool:
        """Refuse what `enter` refuses, and change nothing; returns whether there is a run to go on with.

        Args:
            belongs: as much of it as is known.

        Raises:
            RunError: another run is here, or something that is no run.
        """
        if not self.is_run():
            self._require_free()
            return False
        if not fresh:
            self._require_same(config, belongs)
        return not fresh

    def is_run(self) -> bool:
        """Whether a run was begun here; a folder with a `config.yaml` of somebody else's is none."""
        return all((self.path / name).is_file() for name in (_CONFIG, _BELONGS, _WINDOWS))

    def stored_config(self) -> RunConfig | None:
        """The configuration of the run that is here; None where there is none."""
        return read_config(self.path / _CONFIG) if self.is_run() else None

    def _clear(self) -> None:
        """Remove what a run writes, and nothing else that may lie here."""
        # The three that make it a run go last, so that a clearing that was killed can be taken up again.
        for name in sorted(_WRITTEN, key=lambda name: name in (_CONFIG, _BELONGS, _WINDOWS)):
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _require_free(self) -> None:
        """Raise unless nothing is here, or only what a start left that was killed."""
        try:
            there = {path.name for path in self.path.iterdir()} if self.path.exists() else set()
        except OSError as error:
            raise RunError(
                f"The run folder {self.path} cannot be read ({reason(error)}): give another --out."
            ) from error
        foreign = sorted(name for name in there - _STARTED if not is_lock_file(name))
        if foreign:
            raise RunError(
                f"{self.path} holds {foreign[0]}, which is of no run that can go on: give an empty or new folder with "
                "--out."
            )

    def _require_same(self, config: RunConfig, belongs: dict[str, Any]) -> None:
        known = {name: value for name, value in _read_json(self.path / _BELONGS).items() if name in belongs}
        stored = {"config": to_plain(read_config(self.path / _CONFIG)), **known}
        wanted = {"config": to_plain(config), **to_plain(belongs)}
        for name, (before, now) in differences(stored, wanted).items():
            if name.removeprefix("config.") in _FREE:
                continue
            raise RunError(
                f"{self.path} holds a run with another {name.removeprefix('config.')} ({before!r}, now {now!r}): use "
                "the same settings to resume it, --fresh to replace it, or another --out."
            )


def stored_windows(folder: Path, fresh: bool) -> Int32[np.ndarray, "n"] | None:
    """The windows of the run in `folder`, if it is there to be resumed: its views must not follow today's shards."""
    file = folder / _WINDOWS
    if fresh or not RunFolder(folder).is_run() or not file.is_file():
        return None
    try:
        return np.load(file, allow_pickle=False).astype(np.int32)
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read ({error}): restore it, or begin anew with --fresh.") from error


def _write_json(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = parse_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read ({error}): restore it, or begin anew with --fresh.") from error
    if not isinstance(values, dict):
        raise RunError(f"{file} holds no object: restore it, or begin anew with --fresh.")
    return values

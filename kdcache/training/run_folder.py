"""The folder of one run: its identity, and the refusal to mix two runs in one folder."""

import io
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from kdcache.errors import RunError, reason
from kdcache.io.atomic import PARTIAL_NAME, require_ours
from kdcache.io.disk import make_root
from kdcache.io.failures import LinkError, cannot_write
from kdcache.io.folder_lock import FolderLock, Tell, hold_folder, is_lock_file, require_not_held
from kdcache.io.folders import Folder
from kdcache.io.json_format import parse_json
from kdcache.io.plain_values import shown
from kdcache.io.reading import require_regular
from kdcache.models.run_weights import INVOCATION
from kdcache.training.config import RunConfig, read_config, write_config
from kdcache.training.export import FILES as EXPORTED
from kdcache.training.files import CONFIG, IDENTITY, REPORT, read_values, refusals, remove_known, replace_file, tidy
from kdcache.training.settings import differences, to_plain

_WINDOWS = "windows.npy"
#: Names that the files of a run had in earlier versions.
_FORMER = {"belongs.json", "given.json"}
_STARTED = {IDENTITY, _WINDOWS, INVOCATION}
_WRITTEN = {CONFIG, *_STARTED, "metrics.csv", "steps.csv", "events", "checkpoints", "past", "export", REPORT, *_FORMER}
#: What may be in the folders among them, as paths below the run's folder: all that --fresh removes.
_KNOWN = re.compile(
    r"(config\.yaml|run_identity\.json|windows\.npy|invocation\.json|(metrics|steps)\.csv|report\.html|belongs\.json|given\.json"
    r"|events(/events\.out\.tfevents\..*)?"
    r"|checkpoints(/best\.json|/step-\d{8,}(/(model|ema|trainer)\.safetensors|/(trainer|manifest)\.json)?)?"
    r"|past(/round-\d+\.f16)?"
    r"|export(/model\.safetensors|/config\.json)?)"
)
# What a run writes on its way may be changed when it goes on; what it learns may not. The weights that it began from
# may lie elsewhere meanwhile, as their hash is compared (`student_weights`). The same cache may be copied into
# a newer format meanwhile, and views without a cache have the format that this version makes.
_FREE = (
    *("eval_epochs", "checkpoint_epochs", "keep_checkpoints", "keep_epochs", "export_dtype", "log_steps"),
    *("student.weights", "view_set.format"),
)
#: Settings that others decide where nobody gives them: the batch size, the views. They are told last.
_DERIVED = frozenset({"optimizer.lr", "student.size", "schedule.warmup_epochs"})
_HELD_REMEDY = "Two trainings would mix their results: wait until it has ended, or give another --out."
#: As many differing settings are told.
_SHOWN = 3


class RunFolder:
    """A run's place on disk.

    config.yaml           every setting, resolved; written last when a run begins
    run_identity.json     what its results depend on beside them: view set, teacher, classes
    windows.npy           of the view set
    invocation.json       where data and teacher were found by the last start; free to change
    metrics.csv, steps.csv, events, checkpoints, export    what training adds
    past                  the student's predictions of the last round, where its objective learns from them
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
        try:
            return hold_folder(self.path, f"The run folder {self.path}", _HELD_REMEDY, tell)
        except OSError as error:
            raise self._unwritable(error) from error

    def require_not_held(self, tell: Tell) -> None:
        """Raise FolderHeldError where another process is known to hold the folder; nothing is written."""
        require_not_held(self.path, f"The run folder {self.path}", _HELD_REMEDY, tell)

    def enter(
        self,
        config: RunConfig,
        identity: dict[str, Any],
        invocation: dict[str, Any],
        windows: Int32[np.ndarray, "n"],
        *,
        fresh: bool,
    ) -> bool:
        """Begin a run here, or go on with the one that is here; returns whether there was one.

        Args:
            config: resolved.
            identity: what results depend on beside it, as plain JSON values.
            invocation: paths and devices of this start, as plain JSON values.
            windows: windows of the view set, read again by `stored_windows`.
            fresh: begin anew.

        Raises:
            RunError: another run is here, or something that is no run, or the folder cannot be written.
        """
        try:
            resumes = self.require(config, identity, fresh=fresh)
            if not resumes:
                if self.is_run() or self._is_former_run():
                    self._clear()
                make_root(self.path)
                content = io.BytesIO()
                np.save(content, windows)
                replace_file(self.path / _WINDOWS, content.getvalue())
                _write_json(self.path / IDENTITY, identity)
            tidy(self.path)
            _write_json(self.path / INVOCATION, invocation)
            write_config(config, self.path / CONFIG)  # last: it makes the folder a run
            return resumes
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> RunError:
        return RunError(f"{cannot_write(self.path, error, 'What was saved before is whole')} Or give another --out.")

    def require(self, config: RunConfig, identity: dict[str, Any], *, fresh: bool) -> bool:
        """Refuse what `enter` refuses, and change nothing; returns whether there is a run to go on with.

        Args:
            identity: as much of it as is known.

        Raises:
            RunError: another run is here, or something that is no run, or a link that training would write through.
        """
        with refusals(self.path), suppress(FileNotFoundError), Folder.trusted(self.path) as folder:
            for name in filter(folder.holds_link, sorted(_WRITTEN)):
                raise LinkError(folder.path / name)
            require_ours(self.path, "export", EXPORTED)  # before days of training, and not after them
        if self._is_former_run():
            if not fresh:
                raise RunError(
                    f"{self.path} holds a run of an earlier version of kdcache (it has a belongs.json), which "
                    "this version cannot go on with: finish it with the version that began it, replace it by --fresh, "
                    "or give another --out."
                )
            return False
        if not self.is_run():
            self._require_free()
            return False
        if not fresh:
            self._require_same(config, identity)
        return not fresh

    def is_run(self) -> bool:
        """Return whether a run was begun here; a folder with a `config.yaml` of somebody else's is none."""
        return all((self.path / name).is_file() for name in (CONFIG, IDENTITY, _WINDOWS))

    def _is_former_run(self) -> bool:
        """Return whether a run of an earlier version is here, whose files had other names."""
        return not self.is_run() and all((self.path / name).is_file() for name in (CONFIG, "belongs.json", _WINDOWS))

    def stored_config(self) -> RunConfig | None:
        """Return the configuration of the run that is here; None where there is none."""
        return read_config(self.path / CONFIG) if self.is_run() else None

    def _clear(self) -> None:
        """Remove what a run writes, and nothing else that may lie here."""
        # The three that make it a run go last, so that a clearing that was killed can be taken up again.
        for name in sorted(_WRITTEN, key=lambda name: name in (CONFIG, IDENTITY, _WINDOWS)):
            remove_known(self.path / name, _KNOWN, root=self.path)

    def _require_free(self) -> None:
        """Raise unless nothing is here, or only what a start left that was killed."""
        try:
            there = {path.name for path in self.path.iterdir()} if self.path.exists() else set()
        except OSError as error:
            raise RunError(
                f"The run folder {self.path} cannot be read ({reason(error)}): give another --out."
            ) from error
        ours = (name for name in there if is_lock_file(name) or PARTIAL_NAME.fullmatch(name))
        foreign = sorted(there - _STARTED - set(ours))
        if foreign:
            raise RunError(
                f"{self.path} holds {foreign[0]}, which is of no run that can go on: give an empty or new folder with "
                "--out."
            )

    def _require_same(self, config: RunConfig, identity: dict[str, Any]) -> None:
        there = read_values(self.path / IDENTITY, parse_json, "begin anew with --fresh")
        known = {name: value for name, value in there.items() if name in identity}
        stored = {"config": to_plain(read_config(self.path / CONFIG)), **known}
        wanted = {"config": to_plain(config), **to_plain(identity)}
        changes = {
            name.removeprefix("config."): f"({shown(before)}, now {shown(now)})"
            for name, (before, now) in differences(stored, wanted).items()
            if name.removeprefix("config.") not in _FREE
        }
        if not changes:
            return
        names = sorted(changes, key=_DERIVED.__contains__)
        listed = [f"{name} {changes[name]}" for name in names[:_SHOWN]]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise RunError(
            f"{self.path} holds a run with another {', another '.join(listed)}{more}: use the same settings to resume "
            "it, --fresh to replace it, or another --out."
        )


def stored_windows(folder: Path, fresh: bool) -> Int32[np.ndarray, "n"] | None:
    """Return the windows of a run in `folder` that can be resumed: its views must not follow today's shards."""
    file = folder / _WINDOWS
    if fresh or not RunFolder(folder).is_run() or not file.is_file():
        return None
    try:
        require_regular(file)
        # As a map, of which numpy checks the length before it takes any memory.
        return np.load(file, mmap_mode="r", allow_pickle=False).astype(np.int32)
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read ({error}): restore it, or begin anew with --fresh.") from error


def _write_json(file: Path, values: dict[str, Any]) -> None:
    replace_file(file, (json.dumps(values, indent=1, sort_keys=True) + "\n").encode())

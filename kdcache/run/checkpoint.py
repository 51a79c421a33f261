"""Checkpoints of a run: safetensors and JSON, whole or not there, checked when they are read.

checkpoints/step-00001234/
    model.safetensors     the student's weights, with the header that an export has
    ema.safetensors       their moving average, where there is one
    trainer.safetensors   tensors of the optimiser, scaler and random states
    trainer.json          everything else of the trainer, and where the tensors belong
    manifest.json         length and BLAKE2b-256 of each of these, written last
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from kdcache.errors import CorruptError, RunError, reason
from kdcache.io.json_format import parse_json
from kdcache.io.reading import open_regular, read_bytes
from kdcache.run.files import new_folder, remove_known, replace_file, tidy
from kdcache.run.team import Team
from kdcache.run.tree import flatten, stored, unflatten

_FORMAT = 1
_NAME = re.compile(r"step-(\d{8,})")
_FILE = re.compile(r"((model|ema|trainer)\.safetensors|(trainer|manifest)\.json)")
#: Bytes of a file of a checkpoint: what has more is not looked through, whatever a manifest says.
_MOST_BYTES = 2**37
_MANIFEST = "manifest.json"
_BEST = "best.json"
#: Bytes: ten thousand parameters of an optimiser have some megabytes of plain values.
_MAX_TRAINER_JSON = 64 * 2**20


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        step: optimiser steps done.
        model: the student's state dict, on the CPU.
        ema: that of its moving average; None where there is none.
        trainer: the tree of plain values and tensors that was saved, types and all.
    """

    step: int
    model: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    trainer: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run: the latest few, the best, and every n-th if asked for. One process writes them."""

    def __init__(self, folder: Path, *, keep: int = 2, keep_every: int | None = None) -> None:
        """
        Args:
            folder: `checkpoints` in the run's folder; made with the first save.
            keep: how many of the latest stay.
            keep_every: those of steps that are multiples of it stay too.
        """
        self.folder = folder
        self._keep = keep
        self._keep_every = keep_every

    def save(
        self,
        step: int,
        *,
        model: Mapping[str, Tensor],
        trainer: Mapping[str, Any],
        ema: Mapping[str, Tensor] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Path:
        """Write a checkpoint, then remove those that have no reason to stay. Returns its folder.

        It is the latest, and stays until the next one is saved: there is time to note its score.

        Args:
            step: optimiser steps done.
            model, ema: state dicts.
            trainer: tensors and plain values, nested; `torch_random_state` among them where randomness goes on.
            metadata: for the headers of the weights (`ModelCard.to_metadata`), so that each file describes itself.

        Raises:
            RunError: the disk refuses, or the trainer's state has what a checkpoint cannot keep.
        """
        plain, tensors = flatten(dict(trainer))
        with new_folder(self._path(step), _FILE, root=self._root) as folder:
            header = {"format": "pt", **(metadata or {})}
            save_file({name: stored(tensor) for name, tensor in model.items()}, folder / "model.safetensors", header)
            if ema is not None:
                average = {name: stored(tensor) for name, tensor in ema.items()}
                save_file(average, folder / "ema.safetensors", header)
            save_file(tensors, folder / "trainer.safetensors", {"format": "pt"})
            (folder / "trainer.json").write_text(json.dumps(plain, allow_nan=False), encoding="utf-8")
            files = {file.name: _fingerprint(file) for file in sorted(folder.iterdir())}
            manifest = {"format": _FORMAT, "step": step, "files": files}
            (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        self._prune(step)
        return self._path(step)

    def note_score(self, step: int, score: float) -> None:
        """Note the score of a checkpoint: higher is better, and the highest so far makes it the best.

        What was the best until then loses that reason to stay. Noting a score twice changes nothing.

        Raises:
            RunError: the disk refuses.
        """
        best = self._best()
        if self._path(step).is_dir() and (best is None or score > best[1]):
            content = json.dumps({"step": step, "score": score}).encode()
            replace_file(self.folder / _BEST, content, root=self._root)
            self._prune(step)

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, in order, unread."""
        if not self.folder.is_dir():
            return []
        found = ((_NAME.fullmatch(path.name), path) for path in self.folder.iterdir())
        # A folder in which somebody keeps a file of his own outlives its checkpoint.
        return sorted(int(match[1]) for match, path in found if match and _holds_any(path))

    def latest(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """The latest checkpoint that is whole; None where there is none. Each broken one is told to `warn`."""
        for step in reversed(self.steps()):
            try:
                return self.load(step)
            except CorruptError as error:
                warn(f"{error} Going on from the one before.")
        return None

    def best_step(self) -> int | None:
        """The step of the checkpoint with the highest score; None where none has been scored."""
        best = self._best()
        return None if best is None else best[0]

    def load(self, step: int) -> Checkpoint:
        """The checkpoint of a step.

        Raises:
            CorruptError: a file of it is missing, short or altered.
            RunError: a later version of kdcache wrote it.
        """
        folder, files = self._path(step), self._files(step)
        for name, wanted in files.items():
            _require_whole(folder / name, wanted)
        try:
            plain = parse_json(read_bytes(folder / "trainer.json"), max_bytes=_MAX_TRAINER_JSON)
            return Checkpoint(
                step=step,
                model=load_file(folder / "model.safetensors"),
                ema=load_file(folder / "ema.safetensors") if "ema.safetensors" in files else None,
                trainer=unflatten(plain, load_file(folder / "trainer.safetensors")),
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CorruptError(f"The checkpoint {folder} is broken ({reason(error)}).") from error

    def weights(self, step: int) -> Path:
        """The file of a checkpoint's weights, of their moving average where there is one.

        Raises:
            CorruptError, RunError: as `load` does.
        """
        files = self._files(step)
        name = "ema.safetensors" if "ema.safetensors" in files else "model.safetensors"
        file = self._path(step) / name
        _require_whole(file, files.get(name))
        return file

    def _files(self, step: int) -> dict[str, Any]:
        """Length and hash of each file of a checkpoint, from its manifest."""
        folder = self._path(step)
        try:
            manifest = parse_json(read_bytes(folder / _MANIFEST))
            version, files = manifest["format"], dict(manifest["files"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptError(
                f"The checkpoint {folder} is broken: no readable {_MANIFEST} ({reason(error)})."
            ) from error
        if version != _FORMAT:
            raise RunError(
                f"The checkpoint {folder} has format {version}, and this kdcache reads {_FORMAT}: update it."
            )
        return files

    @property
    def _known(self) -> re.Pattern[str]:
        """All that a checkpoint is, as paths below the run's folder."""
        return re.compile(f"{re.escape(self.folder.name)}/{_NAME.pattern}(/{_FILE.pattern})?")

    @property
    def _root(self) -> Path:
        """The run's folder, which the user named."""
        return self.folder.parent

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _best(self) -> tuple[int, float] | None:
        try:
            best = parse_json(read_bytes(self.folder / _BEST))
            step, score = int(best["step"]), float(best["score"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return (step, score) if self._path(step).is_dir() else None

    def _prune(self, latest: int) -> None:
        # Later steps than the one just saved are what a resume passed over: broken, or of a future that is taken back.
        before = [step for step in self.steps() if step <= latest]
        stay = {*before[-self._keep :], self.best_step()}
        if self._keep_every is not None:
            stay |= {step for step in before if step % self._keep_every == 0}
        for step in self.steps():
            if step not in stay:
                with suppress(RunError):  # what stays takes room, and is tried again after the next save
                    remove_known(self._path(step), self._known, root=self._root)
        tidy(self.folder, root=self._root)


def torch_random_state(team: Team) -> list[dict[str, Tensor]]:
    """torch's random state in each process of the team, on the CPU and on its GPU, for a trainer's tree."""
    states = {"cpu": torch.get_rng_state()}
    if team.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(team.device)
    gathered = {name: team.gather(state) for name, state in states.items()}
    return [{name: parts[rank] for name, parts in gathered.items()} for rank in range(team.ranks.world)]


def restore_torch_random_state(states: Sequence[Mapping[str, Tensor]], team: Team) -> None:
    """Put torch's random state back to what `torch_random_state` gave; a process that was not there keeps its own."""
    if team.ranks.rank >= len(states):
        return
    state = states[team.ranks.rank]
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and team.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], team.device)


def _holds_any(folder: Path) -> bool:
    """Whether a folder holds any file of a checkpoint's; where it cannot be looked at, it is said to."""
    try:
        return not folder.is_dir() or any(map(_FILE.fullmatch, os.listdir(folder)))
    except OSError:
        return True


def _require_whole(file: Path, wanted: Any) -> None:
    size = wanted.get("bytes") if isinstance(wanted, dict) else None
    try:
        whole = type(size) is int and file.stat().st_size == size <= _MOST_BYTES and _fingerprint(file) == wanted
    except OSError:
        whole = False
    if not whole:
        raise CorruptError(f"The checkpoint {file.parent} is broken: {file.name} is missing or altered.")


def _fingerprint(file: Path) -> dict[str, Any]:
    with open_regular(file) as stream:
        digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=32))
        return {"bytes": os.fstat(stream.fileno()).st_size, "blake2b": digest.hexdigest()}

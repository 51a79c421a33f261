"""The checkpoints of a run: saved whole or not at all, checked when they are read (`models/run_checkpoint.py`)."""

import json
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
from kdcache.io.reading import read_bytes
from kdcache.models.run_checkpoint import (
    FILE_NAME,
    FOLDER_NAME,
    ManifestWriter,
    checkpoint_folder,
    checkpoint_steps,
    read_manifest,
    require_whole,
    require_whole_weights,
)
from kdcache.runtime.distributed import Distributed
from kdcache.training.files import new_folder, remove_known, replace_file, tidy
from kdcache.training.tree import flatten, stored, unflatten

_BEST = "best.json"
#: Bytes: ten thousand parameters of an optimiser have some megabytes of plain values.
_MAX_TRAINER_JSON = 64 * 2**20


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint.

    Attributes:
        step: optimiser steps done.
        model: the student's state dict, on the CPU.
        ema: state dict of its moving average; None where there is none.
        trainer: tree of plain values and tensors as it was saved, types included.
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
            keep: number of the latest checkpoints that stay.
            keep_every: number of steps; checkpoints of its multiples stay too.
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
        epoch: int | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Path:
        """Write a checkpoint, then remove those that have no reason to stay. Returns its folder.

        It is the latest, and stays until the next one is saved: there is time to note its score.

        Args:
            step: optimiser steps done.
            model, ema: state dicts.
            epoch: epochs done, where the step is the last of one.
            trainer: tensors and plain values, nested; `torch_random_state` among them where randomness goes on.
            metadata: for the headers of the weights (`ModelCard.to_metadata`), so that each file describes itself.

        Raises:
            RunError: the disk refuses, or the trainer's state has what a checkpoint cannot keep.
        """
        plain, tensors = flatten(dict(trainer))
        header = {"format": "pt", **(metadata or {})}
        files = {"trainer": (tensors, {"format": "pt"}), "model": (model, header), "ema": (ema, header)}
        with new_folder(self._path(step), FILE_NAME, root=self._root) as folder, ManifestWriter(folder) as manifest:
            # The largest first: it is flushed and hashed while the others are written.
            for name, (tensors_of_file, header_of_file) in files.items():
                if tensors_of_file is not None:
                    save_file(stored(tensors_of_file), folder / f"{name}.safetensors", header_of_file)
                    manifest.add(f"{name}.safetensors")
            (folder / "trainer.json").write_text(json.dumps(plain, allow_nan=False), encoding="utf-8")
            manifest.add("trainer.json")
            manifest.write(step, epoch)
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
        """Return the steps of the checkpoints that are there, in order; their files are not read."""
        return checkpoint_steps(self.folder)

    def latest(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """Return the latest checkpoint that is whole; None where there is none. `warn` is told of each broken one."""
        for step in reversed(self.steps()):
            try:
                return self.load(step)
            except CorruptError as error:
                warn(f"{error} Going on from the one before.")
        return None

    def best_step(self) -> int | None:
        """Return the step of the checkpoint with the highest score; None where none has been scored."""
        best = self._best()
        return None if best is None else best[0]

    def load(self, step: int) -> Checkpoint:
        """Read the checkpoint of a step.

        Raises:
            CorruptError: a file of it is missing, short or altered.
            RunError: a later version of kdcache wrote it.
        """
        folder = self._path(step)
        manifest = read_manifest(folder)
        for name in manifest.files:
            require_whole(folder, name, manifest)
        try:
            plain = parse_json(read_bytes(folder / "trainer.json"), max_bytes=_MAX_TRAINER_JSON)
            return Checkpoint(
                step=step,
                model=load_file(folder / "model.safetensors"),
                ema=load_file(folder / "ema.safetensors") if "ema.safetensors" in manifest.files else None,
                trainer=unflatten(plain, load_file(folder / "trainer.safetensors")),
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CorruptError(f"The checkpoint {folder} is broken ({reason(error)}).") from error

    def weights(self, step: int) -> Path:
        """Return the file of a checkpoint's weights, of their moving average where there is one.

        Raises:
            CorruptError, RunError: as `load` does.
        """
        folder = self._path(step)
        return require_whole_weights(folder, read_manifest(folder))

    @property
    def _known(self) -> re.Pattern[str]:
        """Return a pattern of all paths of a checkpoint below the run's folder."""
        return re.compile(f"{re.escape(self.folder.name)}/{FOLDER_NAME.pattern}(/{FILE_NAME.pattern})?")

    @property
    def _root(self) -> Path:
        """The run's folder, which the user named."""
        return self.folder.parent

    def _path(self, step: int) -> Path:
        return checkpoint_folder(self.folder, step)

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


def torch_random_state(processes: Distributed) -> list[dict[str, Tensor]]:
    """Return torch's random state of each process, on the CPU and on its GPU, for a trainer's tree."""
    states = {"cpu": torch.get_rng_state()}
    if processes.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(processes.device)
    gathered = {name: processes.all_gather(state) for name, state in states.items()}
    return [{name: parts[rank] for name, parts in gathered.items()} for rank in range(processes.world_size)]


def restore_torch_random_state(states: Sequence[Mapping[str, Tensor]], processes: Distributed) -> None:
    """Put torch's random state back to what `torch_random_state` gave; a process that was not there keeps its own."""
    if processes.rank >= len(states):
        return
    state = states[processes.rank]
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and processes.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], processes.device)

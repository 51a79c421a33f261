"""Weights from files, read without running anything in them."""

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kdcache.errors import ModelError, reason
from kdcache.io.failures import cannot_read
from kdcache.io.json_format import parse_json
from kdcache.io.plain_values import FormatError
from kdcache.io.reading import read_bytes
from kdcache.models.card import ModelCard
from kdcache.models.weight_files import ForeignFile, explain_refusal, is_safetensors, recognise

#: What timm saves where it is not told to use safetensors.
_TIMMS_STATE_DICT = "pytorch_model.bin"
#: How many times as large as its file tensors may be: those that are tied are stored once.
_MAX_REPEATS = 16
_IN_FOLDERS = ("export/model.safetensors", "ema.safetensors", "model.safetensors", _TIMMS_STATE_DICT)


@dataclass(frozen=True)
class Weights:
    """Tensors by name as a file has them, and the file's own description of its model, where it has one."""

    path: Path
    tensors: dict[str, Tensor]
    card: ModelCard | None


def read_weights(path: Path) -> Weights:
    """Read the weights in a safetensors file, in a state dict or timm checkpoint of `torch.save`, or in a folder.

    A folder is a run of kdcache's (its export is taken), an export, a checkpoint, or a model that timm saved with its
    config.json: safetensors, or pytorch_model.bin where there are none. Of a checkpoint, kdcache's or timm's, the
    moving average is taken where there is one; prefixes of wrappers ("module.") are removed. Pickled objects other than
    tensors and plain containers are refused, never run.

    Raises:
        ModelError: nothing there, not readable, or no state dict.
    """
    file = _find(Path(path))
    return _read_safetensors(file) if _has_safetensors(file) else _read_state_dict(file)


def holds_weights(path: Path) -> bool:
    """Return whether a folder has weights where `read_weights` looks for them."""
    return any((path / name).is_file() for name in _IN_FOLDERS)


def read_card(path: Path) -> ModelCard | None:
    """Read the card of the weights at `path`, the weights themselves unread; None where there is none.

    Raises:
        ModelError: as `read_weights` does.
    """
    file = _find(Path(path))
    if not _has_safetensors(file):
        return _card_beside(file) if file.name == _TIMMS_STATE_DICT else None
    with _refusals(file), safe_open(file, framework="pt") as stored:
        return _card(file, stored.metadata())


def weight_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return the hex BLAKE2b-256 over (name, dtype, shape, bytes) of every tensor of a state dict, sorted by name.

    It is taken of the state dict of the loaded model, so that one set of weights has one hash whatever file
    it came in: half-precision files are hashed as the float32 values that they load as.
    """
    digest = hashlib.blake2b(digest_size=32)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        head = f"{name}\0{str(tensor.dtype).removeprefix('torch.')}\0{'x'.join(map(str, tensor.shape))}\0"
        digest.update(head.encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def misfits(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Describe why `given` does not fit a model whose state dict is `wanted`: missing, misshapen, unexpected names."""
    missing = [f"{name} is missing" for name in wanted if name not in given]
    misshapen = [
        f"{name} is {list(given[name].shape)} and should be {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    unexpected = [f"{name} has no place" for name in given if name not in wanted]
    return missing + misshapen + unexpected


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise ModelError(f"There are no weights at {path}: give a checkpoint file, or a run's folder.")
    for name in _IN_FOLDERS:
        if (path / name).is_file():
            return path / name
    if (path / "checkpoints").is_dir():
        raise ModelError(
            f"The run {path} has not come to its end, so it has no export: run the same `kdcache train` again to "
            f"finish it, or take one of its checkpoints with {path}@epoch=N."
        )
    raise ModelError(
        f"The folder {path} holds no weights ({', '.join(_IN_FOLDERS)}): give a folder that does, such as a run's; or "
        "name the model, and give a checkpoint file as its weights."
    )


def _read_safetensors(file: Path) -> Weights:
    with _refusals(file), safe_open(file, framework="pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
        return Weights(file, tensors, _card(file, stored.metadata()))


def _card(file: Path, metadata: Mapping[str, str] | None) -> ModelCard | None:
    """Read the card in the header, or in the config.json that timm saves beside the weights."""
    card = ModelCard.from_metadata(metadata)
    return _card_beside(file) if card is None else card


def _card_beside(file: Path) -> ModelCard | None:
    """Read the card in timm's config.json in the folder of `file`; None where there is none."""
    config = file.with_name("config.json")
    if not config.is_file():
        return None
    try:
        return ModelCard.from_timm(parse_json(read_bytes(config)))
    except (OSError, FormatError) as error:
        raise ModelError(f"{config} cannot be read as JSON ({reason(error)}): restore it, or remove it.") from error


def _has_safetensors(file: Path) -> bool:
    """Return whether a file holds safetensors, not a state dict. Raises ModelError for neither, or no access."""
    try:
        foreign = recognise(file)
        if foreign is None:
            return is_safetensors(file)
    except OSError as error:
        raise ModelError(cannot_read(file, error, "Check its permissions, or give another file.")) from error
    raise _not_weights(file, foreign)


def _not_weights(file: Path, foreign: ForeignFile) -> ModelError:
    return ModelError(f"{file} cannot be read as weights: it is {foreign.kind}. {foreign.remedy}")


@contextmanager
def _refusals(file: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        kind = f"cut short, damaged, or no safetensors file ({reason(error)})"
        raise _not_weights(file, ForeignFile(kind, "Download it again.")) from error


def _read_state_dict(file: Path) -> Weights:
    from timm.models import load_state_dict

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, of pickles that it then refuses
            tensors = load_state_dict(str(file), weights_only=True)
    except Exception as error:  # torch.load has no family of errors: zip, pickle, I/O and its own all come up
        raise _not_weights(file, explain_refusal(file, error)) from error
    if not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ModelError(
            f"{file} holds no state dict, neither at its top nor under 'state_dict_ema', 'state_dict' or "
            "'model': save the weights alone with torch.save(model.state_dict(), 'weights.pth')."
        )
    # A tensor may be a view that repeats one stored number without end.
    if sum(value.nbytes for value in tensors.values()) > _MAX_REPEATS * file.stat().st_size:
        kind = "far smaller than its tensors, which repeat few numbers"
        raise _not_weights(file, ForeignFile(kind, "Download it again."))
    return Weights(file, dict(tensors), read_card(file))

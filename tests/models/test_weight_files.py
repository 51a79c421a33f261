"""What people give as weights, and what they are told of it: in each file what really lies on their disks."""

import argparse
import io
import pickle
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save, save_file

from kdcache.errors import ModelError
from kdcache.evaluation.evaluate import EvaluateOptions, evaluate
from kdcache.models.weights import read_card, read_weights

SAVE = r"torch\.save\(model\.state_dict\(\), 'weights\.pth'\)"
MODEL = timm.create_model("test_resnet", num_classes=4).eval()


def saved(content: object, **options: bool) -> bytes:
    """What `torch.save` writes."""
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def program() -> bytes:
    """A TorchScript archive."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and its files are still about
        torch.jit.save(torch.jit.trace(MODEL, torch.zeros(1, 3, 32, 32)), file)
    return file.getvalue()


def archive(name: str, data: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive of one file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as out:
        out.writestr(name, data)
    return file.getvalue()


def tarred(data: bytes, mode: str) -> bytes:
    """A tar archive of one file."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as out:  # type: ignore[call-overload]
        member = tarfile.TarInfo("weights.pth")
        member.size = len(data)
        out.addfile(member, io.BytesIO(data))
    return file.getvalue()


def array() -> bytes:
    """A NumPy array."""
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


WEIGHTS = saved(MODEL.state_dict())
SAFETENSORS = save(MODEL.state_dict())
OLDER = {"_use_new_zipfile_serialization": False}
FOREIGN = {
    "empty": ("w.pth", b"", "an empty file. Download it again"),
    "empty safetensors": ("w.safetensors", b"", "an empty file"),
    "page": ("w.pth", b"\n<!DOCTYPE html>\n<html><body>Sign in", r"an HTML page.* by the link of the file itself"),
    "page as safetensors": ("w.safetensors", b"<html>" + b"x" * 9999, "an HTML page"),
    "page with a mark": ("w.bin", b"\xef\xbb\xbf<HTML lang='en'>", "an HTML page"),
    "pointer": (
        "w.pth",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        r"Git LFS pointer.*git lfs pull",
    ),
    "error of a store": ("w.pth", b'<?xml version="1.0"?><Error><Code>AccessDenied', "a text.*download it again"),
    "configuration": ("w.pth", "student:\n  name: Käfer\n".encode(), "a text. Give the file of weights"),
    "model": ("w.pth", saved(MODEL), rf"a whole pickled model \(.*timm\.models\.resnet.*\).*{SAVE}"),
    "model in a checkpoint": ("w.pth", saved({"model": MODEL}), rf"a whole pickled model.*{SAVE}"),
    "model, older format": ("w.pth", saved(MODEL, **OLDER), rf"a pickle of other Python objects.*{SAVE}"),
    "model, pickled": ("w.pkl", pickle.dumps(MODEL), rf"a pickle of other Python objects.*{SAVE}"),
    "objects beside": (
        "w.pth",
        saved({"state_dict": MODEL.state_dict(), "best": np.float64(0.5), "args": argparse.Namespace()}),
        rf"a pickle with Python objects in it \(numpy\.[^)]*scalar, numpy\.dtype\).*{SAVE}",
    ),
    "program": ("w.pt", program(), rf"a TorchScript program.*torch\.jit\.load.*{SAVE}"),
    "zip": ("w.zip", archive("weights.pth", WEIGHTS), "a zip archive without tensors. Unpack it"),
    "bomb": (
        "w.pth",
        archive("archive/data.pkl", bytes(10**7), zipfile.ZIP_DEFLATED),
        "unpacks to more bytes than it has",
    ),
    "tar": ("w.pth.tar", tarred(WEIGHTS, "w"), "a packed archive. Unpack it"),
    "tar.gz": ("w.pth", tarred(WEIGHTS, "w:gz"), "a packed archive. Unpack it"),
    "array": ("w.npy", array(), "a NumPy array"),
    "cut": ("w.pth", WEIGHTS[:-100], "cut short.* Download it again"),
    "cut, older format": (
        "w.pth",
        saved(MODEL.state_dict(), **OLDER)[:-1000],
        "cut short or damaged.* Download it again",
    ),
    "cut safetensors": ("w.safetensors", SAFETENSORS[:-100], "cut short.* Download it again"),
    "safetensors cut in the header": ("w.safetensors", SAFETENSORS[:100], "cut short.* Download it again"),
    "another name": ("w.safetensors", WEIGHTS, r"a file of torch\.save .* Rename it, so that it ends in \.pth"),
    "noise": ("w.pth", bytes(range(256)) * 9, "damaged"),
    "one number without end": ("w.pth", saved({"a": torch.zeros(1).expand(10**12)}), "which repeat few numbers"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_weights_is_told_by_what_it_is_and_what_helps(kind: str, tmp_path: Path) -> None:
    name, content, message = FOREIGN[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=rf"{name} cannot be read as weights: it is .*{message}") as refused:
        read_weights(tmp_path / name)
    assert "weights_only" not in str(refused.value)


@pytest.mark.parametrize("kind", ["page", "model", "one number without end"])
def test_a_job_tells_the_same(kind: str, tmp_path: Path) -> None:
    name, content, message = FOREIGN[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        evaluate(EvaluateOptions("test_resnet", "nowhere", weights=tmp_path / name, device="cpu"))


def test_safetensors_are_read_whatever_they_are_called(tmp_path: Path) -> None:
    save_file(MODEL.state_dict(), tmp_path / "w.bin")
    assert read_weights(tmp_path / "w.bin").tensors.keys() == load_file(tmp_path / "w.bin").keys()
    assert read_card(tmp_path / "w.bin") is None


@pytest.mark.parametrize("options", [{}, OLDER])
def test_what_timm_lets_torch_load_is_read(options: dict[str, bool], tmp_path: Path) -> None:
    content = {"state_dict": MODEL.state_dict(), "args": argparse.Namespace(lr=1), "epoch": 3}
    (tmp_path / "w.pth.tar").write_bytes(saved(content, **options))
    assert read_weights(tmp_path / "w.pth.tar").tensors.keys() == MODEL.state_dict().keys()


def test_tied_tensors_are_no_repetition(tmp_path: Path) -> None:
    weight = torch.rand(64, 64)
    torch.save({f"block{number}.weight": weight for number in range(8)}, tmp_path / "w.pth")
    assert len(read_weights(tmp_path / "w.pth").tensors) == 8

"""The formats of an export: each one writes the files of a folder, and compares what it wrote with the model.

A comparison runs the written files on three images of noise, fewer and more than the two images by which a model is
traced, so that a graph which is fixed to one batch size is found.
"""

import copy
import dataclasses
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import torchvision
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from kdcache.errors import ModelError, UsageError, reason
from kdcache.models.network import Network
from kdcache.models.weights import misfits
from kdcache.training.export import CARD, CONFIG, WEIGHTS, stored_weights

#: Largest difference of logits, as a share of the largest logit, between a model and its export.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2}
#: Logits that are all smaller than this are compared as if one had this size.
_LEAST_LOGIT = 1e-3
#: Bytes of weights from which an ONNX model has them in a file of their own: protobuf ends at 2 GiB.
_MAX_ONNX_BYTES = 1_500_000_000
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

#: Models of timm's whose tensors have the names and shapes of torchvision's model of the same name.
TORCHVISION_MODELS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
    *("densenet121", "densenet161", "densenet169", "densenet201"),
)

#: Runs written files on normalised images, as float32, and returns logits.
Runner = Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b k"]]


@dataclass(frozen=True)
class Format(ABC):
    """A format of exports.

    Attributes:
        files: names of the files that a folder of this format may hold.
        library: library that loads it, by its name on the hub.
    """

    files: tuple[str, ...]
    library: str

    def require(self, network: Network) -> None:  # noqa: B027 - most formats take every model
        """Raise UsageError or ModelError where a model cannot be exported, before anything is written."""

    @abstractmethod
    def write(self, folder: Path, network: Network, dtype: torch.dtype) -> Runner:
        """Write the files into an empty folder; returns what runs them."""

    @abstractmethod
    def usage(self, network: Network) -> str:
        """Return Python that loads the export, with FOLDER in the place of its folder."""


class _Timm(Format):
    def write(self, folder: Path, network: Network, dtype: torch.dtype) -> Runner:
        weights = stored_weights(network.module.state_dict(), dtype)
        save_file(weights, folder / WEIGHTS, network.card.to_metadata())
        return _loaded(copy.deepcopy(network.module), weights)

    def usage(self, network: Network) -> str:
        return (
            "import timm\n\n"
            'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()\n'
            "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))"
        )


class _Torchvision(Format):
    def require(self, network: Network) -> None:
        name = network.card.architecture
        if name not in TORCHVISION_MODELS:
            raise ModelError(
                f"torchvision has no model with the layers of {name}: choose another format, such as onnx, or train "
                f"one of {', '.join(TORCHVISION_MODELS)}."
            )
        with torch.device("meta"):
            theirs = torchvision.models.get_model(name, num_classes=network.card.num_classes)
        problems = misfits(theirs.state_dict(), network.module.state_dict())
        if problems:
            raise ModelError(
                f"This {name} has other layers than torchvision's ({problems[0]}), because it was built with arguments "
                "of its own: choose another format, such as timm."
            )

    def write(self, folder: Path, network: Network, dtype: torch.dtype) -> Runner:
        weights = stored_weights(network.module.state_dict(), dtype)
        _put(folder / "model.pth", partial(torch.save, weights))
        with torch.random.fork_rng(devices=[]):
            theirs = torchvision.models.get_model(network.card.architecture, num_classes=network.card.num_classes)
        return _loaded(theirs, weights)

    def usage(self, network: Network) -> str:
        return (
            "import torch\nimport torchvision\n\n"
            f"model = torchvision.models.{network.card.architecture}(num_classes={network.card.num_classes})\n"
            'model.load_state_dict(torch.load("FOLDER/model.pth", weights_only=True))\n'
            "model.eval()"
        )


class _Onnx(Format):
    def require(self, network: Network) -> None:
        missing = [name for name in _ONNX_PACKAGES if find_spec(name) is None]
        if missing:
            raise UsageError(
                f"The format onnx needs {', '.join(missing)}, and {'it is' if len(missing) == 1 else 'they are'} not "
                "installed: run pip install 'kdcache[onnx]', or choose another format."
            )

    def write(self, folder: Path, network: Network, dtype: torch.dtype) -> Runner:
        file = folder / "model.onnx"
        module = _Float32Interface(network.module, dtype)
        with _of_library(network, "an ONNX graph"):
            program = torch.onnx.export(
                module,
                (_noise(network, 2),),
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            colours = "grey" if network.card.input_size[0] == 1 else "RGB"
            prepared = f"images / 255, less mean, over std; {colours}"
            facts = network.card.to_metadata() | {"format": "onnx", "input": prepared}
            program.model.metadata_props.update(facts)
            size = sum(weight.nbytes for weight in module.state_dict().values())
            program.save(str(file), external_data=size > _MAX_ONNX_BYTES)
            return _onnx_runner(file)

    def usage(self, network: Network) -> str:
        return (
            "import onnxruntime\n\n"
            'session = onnxruntime.InferenceSession("FOLDER/model.onnx")\n'
            "facts = session.get_modelmeta().custom_metadata_map  # mean, std, input_size, crop_pct, ...\n"
            '(logits,) = session.run(None, {"images": images})    # float32, any number of images'
        )


class _TorchScript(Format):
    def write(self, folder: Path, network: Network, dtype: torch.dtype) -> Runner:
        file = folder / "model.pt"
        facts = json.dumps(network.card.to_metadata(), indent=1)
        with _of_library(network, "a TorchScript program"):
            program = torch.jit.trace(_Float32Interface(network.module, dtype), _noise(network, 2), check_trace=False)
        _put(file, partial(torch.jit.save, program, _extra_files={"card.json": facts}))
        with _of_library(network, "a TorchScript program"):
            loaded = torch.jit.load(str(file), map_location="cpu")
        return _inference(loaded)

    def usage(self, network: Network) -> str:
        return (
            "import torch\n\n"
            'facts = {"card.json": ""}  # mean, std, input_size, interpolation, crop_pct, ...\n'
            'model = torch.jit.load("FOLDER/model.pt", _extra_files=facts)'
        )


FORMATS: dict[str, Format] = {
    "timm": _Timm((WEIGHTS, CONFIG, CARD), "timm"),
    "torchvision": _Torchvision(("model.pth", CONFIG, CARD), "torchvision"),
    "onnx": _Onnx(("model.onnx", "model.onnx.data", CONFIG, CARD), "onnx"),
    "torchscript": _TorchScript(("model.pt", CONFIG, CARD), "pytorch"),
}


def require_agreement(network: Network, run: Runner, dtype: torch.dtype) -> float:
    """Return the largest difference of logits between a model and its written export, on three images of noise.

    Raises:
        ModelError: it is larger than rounding explains, so that the export is not the model.
    """
    images = _noise(network, 3)
    with torch.inference_mode():
        wanted = network.module(images)
    found = run(images)
    largest = float((found - wanted).abs().max())
    allowed = _TOLERANCE[dtype] * max(_LEAST_LOGIT, float(wanted.abs().max()))
    if not largest <= allowed:
        raise ModelError(
            f"The export does not compute what {network.card.architecture} computes: logits differ by {largest:.3g}, "
            f"and rounding explains {allowed:.3g}. Nothing was written: choose another format"
            f"{', or --dtype float32.' if dtype == torch.float16 else '.'}"
        )
    return largest


class _Float32Interface(nn.Module):
    """A model that takes and returns float32, whatever it computes in."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module if dtype == torch.float32 else copy.deepcopy(module).to(dtype)
        self.dtype = dtype
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.module(images.to(self.dtype)).to(torch.float32)
        return logits


def _noise(network: Network, images: int) -> Float[Tensor, "b c h w"]:
    """Return normalised images of noise, the same at each call."""
    return torch.randn(images, *network.card.input_size, generator=torch.Generator().manual_seed(images))


def _put(file: Path, save: Callable[[BytesIO], object]) -> None:
    """Write a file that torch's serialiser makes, and raise OSError where the disk refuses.

    The serialiser does not write to the disk itself: on one that is full it raises a RuntimeError without the cause, or
    aborts the process in its destructor (PyTorch 2.12).
    """
    buffer = BytesIO()
    save(buffer)
    file.write_bytes(buffer.getbuffer())


def _loaded(module: nn.Module, weights: dict[str, Tensor]) -> Runner:
    module.load_state_dict(weights)
    return _inference(module.eval())


def _inference(module: Callable[[Tensor], Tensor]) -> Runner:
    def run(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return module(images)

    return run


def _onnx_runner(file: Path) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def run(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        (logits,) = session.run(None, {"images": images.numpy()})
        return torch.from_numpy(logits)

    return run


@contextmanager
def _of_library(network: Network, kind: str) -> Iterator[None]:
    """Silence the warnings of torch's exporters, and explain what they cannot express."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except OSError:
        raise
    except Exception as error:  # the exporters have no family of errors
        raise ModelError(
            f"{network.card.architecture} cannot be written as {kind} ({type(error).__name__}: {reason(error)}): "
            "choose another format, such as timm."
        ) from error


def require_finite(network: Network, dtype: torch.dtype) -> None:
    """Raise ModelError where a weight is beyond the range of the number format."""
    for name, tensor in network.module.state_dict().items():
        if tensor.is_floating_point() and tensor.isfinite().all() and not tensor.to(dtype).isfinite().all():
            raise ModelError(
                f"{name} of {network.card.architecture} has values beyond the range of {str(dtype)[6:]}: export "
                "it with --dtype float32."
            )


def with_class_names(network: Network, names: Sequence[str] | None) -> Network:
    """Return the model with names of its classes in its card."""
    kept = None if names is None else tuple(names)
    return dataclasses.replace(network, card=dataclasses.replace(network.card, class_names=kept))


def other_formats_file(folder: Path, own: Format) -> str | None:
    """Return the name of a file in a folder that an export of another format wrote; None where there is none."""
    of_others: set[Any] = {name for each in FORMATS.values() for name in each.files} - set(own.files)
    return next((name for name in sorted(of_others) if (folder / name).is_file()), None)

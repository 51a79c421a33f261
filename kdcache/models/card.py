"""The facts that are needed beside its weights to use a model, small enough for a file's header."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from kdcache.errors import ModelError, reason
from kdcache.io.json_format import parse_json
from kdcache.io.limits import MAX_CLASSES, MAX_SIZE

#: Channels of an image; crop_pct over 1 shows a border.
MAX_CHANNELS, MAX_CROP_PCT = 64, 4.0


@dataclass(frozen=True)
class ModelCard:
    """The facts to build a model and to prepare its images.

    Attributes:
        architecture: timm's name without a tag.
        num_classes: number of outputs of its classifier.
        input_size: channels, height and width of the images that it was trained for.
        mean, std: mean and standard deviation of each channel, for pixels in 0..1.
        interpolation, crop_pct, crop_mode: settings of timm's evaluation transform.
        class_names: names in the order of the outputs, where they are known.
        model_args: further arguments of `timm.create_model`, as plain JSON values.
    """

    architecture: str
    num_classes: int
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    crop_mode: str = "center"
    class_names: tuple[str, ...] | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The pixels a side."""
        return self.input_size[1]

    def to_metadata(self) -> dict[str, str]:
        """Return the card for the header of a safetensors file: strings, each a JSON value or plain text."""
        out = {"format": "pt"}
        for item in fields(self):
            value = getattr(self, item.name)
            out[item.name] = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        return out

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str] | None) -> "ModelCard | None":
        """Read the card in a file's header; None where there is none. Raises ModelError where it is not readable."""
        if not metadata or "architecture" not in metadata:
            return None
        try:
            channels, height, width = (int(side) for side in parse_json(metadata["input_size"]))
            model_args = parse_json(metadata.get("model_args", "{}"))
            if not isinstance(model_args, dict):
                raise TypeError("model_args is no object")
            mean = tuple(float(part) for part in parse_json(metadata["mean"]))
            std = tuple(float(part) for part in parse_json(metadata["std"]))
            card = cls(
                architecture=metadata["architecture"],
                num_classes=int(metadata["num_classes"]),
                input_size=(channels, height, width),
                mean=mean,
                std=std,
                interpolation=metadata["interpolation"],
                crop_pct=float(metadata["crop_pct"]),
                crop_mode=metadata.get("crop_mode", "center"),
                class_names=_names(parse_json(metadata.get("class_names", "null"))),
                model_args=model_args,
            )
            card.require_sane()
            return card
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(
                f"The header of the weights cannot be read as a description of their model ({_cause(error)}): "
                "export them again with kdcache, or remove the header."
            ) from error

    @classmethod
    def from_timm(cls, config: Any) -> "ModelCard | None":
        """Read the card in the `config.json` that timm saves beside weights; None where it is of something else.

        Raises:
            ModelError: the file is one of timm's, and not readable.
        """
        if not isinstance(config, Mapping) or "architecture" not in config:
            return None
        data = config.get("pretrained_cfg", config)  # timm's older files have everything on one level
        try:
            card = cls(
                architecture=str(config["architecture"]).partition(".")[0],
                num_classes=int(config.get("num_classes", data.get("num_classes"))),
                input_size=tuple(map(int, data["input_size"])),  # type: ignore[arg-type] # checked where it is built
                mean=tuple(map(float, data["mean"])),
                std=tuple(map(float, data["std"])),
                interpolation=str(data["interpolation"]),
                crop_pct=float(data["crop_pct"]),
                crop_mode=str(data.get("crop_mode", "center")),
                class_names=_names(config.get("label_names", data.get("label_names"))),
                model_args={key: value for key, value in config.get("model_args", {}).items() if key != "num_classes"},
            )
            card.require_sane()
            return card
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(
                f"The config.json beside the weights cannot be read as timm's ({_cause(error)}): save the model again "
                "with timm, or remove the file and name the model."
            ) from error

    def require_sane(self) -> None:
        """Raise ValueError for numbers that no model has: they decide how much memory it takes."""
        channels, *sides = self.input_size
        if len(sides) != 2 or not 1 <= channels <= MAX_CHANNELS or not all(1 <= side <= MAX_SIZE for side in sides):
            raise ValueError(f"input_size is {list(self.input_size)}")
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(f"{channels} channels, {len(self.mean)} means and {len(self.std)} deviations")
        if not all(abs(part) < math.inf for part in self.mean) or not all(0 < part < math.inf for part in self.std):
            raise ValueError(f"mean is {list(self.mean)} and std {list(self.std)}")
        if not 0 <= self.num_classes <= MAX_CLASSES:
            raise ValueError(f"num_classes is {self.num_classes}")
        if not 0 < self.crop_pct <= MAX_CROP_PCT:
            raise ValueError(f"crop_pct is {self.crop_pct}")
        require_model_args(self.model_args)


#: Arguments of `timm.create_model` that are no property of a model: what kdcache gives itself, and what names files,
#: which timm would read.
_NO_MODEL_ARGS = {"model_name", "num_classes", "checkpoint_path", "cache_dir", "scriptable", "exportable", "no_jit"}


def require_model_args(args: Mapping[str, Any]) -> None:
    """Raise ValueError for arguments of `timm.create_model` that would name files or weights, not a model."""
    for name in args:
        if name in _NO_MODEL_ARGS or name.startswith("pretrained"):
            raise ValueError(f"{name!r} is no argument of a model")


def _cause(error: Exception) -> str:
    """Describe what is wrong, as a clause."""
    return f"{error} is missing" if isinstance(error, KeyError) else reason(error)


def _names(value: Any) -> tuple[str, ...] | None:
    return None if value is None else tuple(str(name) for name in value)

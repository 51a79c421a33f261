"""Teachers that are no models of timm's: any module, with its preprocessing, a name and a version."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from kdcache.cache.identity import TEACHER_NAME
from kdcache.errors import ModelError, reason
from kdcache.io.plain_values import is_whole, shown
from kdcache.models.card import ModelCard
from kdcache.models.names import module_architecture
from kdcache.models.network import Network
from kdcache.models.teachers import Teacher
from kdcache.runtime.device import autocast


@dataclass(frozen=True, eq=False)
class TeacherModule:
    """Any module as a teacher: a model of Hugging Face, a zero-shot head of CLIP, an ensemble.

    In a cache it is known by the hash of its state dict, with its name and version. What the state dict does not hold
    (code, plain attributes, buffers that are not persistent) is told apart by the version alone: change it with them.

    A job runs the module in eval mode, on the job's device; afterwards its device, its mode and what requires a
    gradient are as they were.

    Attributes:
        module: takes normalised float32 images [b, 3, s, s] and returns logits [b, c], or an object with `logits`.
        name: its name, and that of its entry in a cache unless another is given; letters, digits, '.', '_' and '-'.
        version: its version, of the same characters.
        mean, std: mean and standard deviation of each channel, for pixels in 0..1.
        image_size: s, the pixels a side of its images.
        num_classes: c, the number of its classes.
        head: the linear layer, or 1x1 convolution, within `module` that computes the logits; `embedding` targets need
            it. None for the classifier of a timm model, or for none.
        class_names: names in the order of the logits, which are compared with those of the data; None if unknown.
        interpolation, crop_pct: settings of its evaluation as timm has them; only policy `centre` asks for them.

    Raises:
        ModelError: a value that no teacher has, or a head that is not within the module.

    Example:
        >>> teacher = kdcache.TeacherModule(
        ...     model, name="vit-flowers", version="1", mean=[0.5] * 3, std=[0.5] * 3, image_size=224, num_classes=102
        ... )
        >>> kdcache.dump_logits(teacher, "data", "cache", policy="a2", views=300)
    """

    module: nn.Module
    _: KW_ONLY
    name: str
    version: str
    mean: Sequence[float]
    std: Sequence[float]
    image_size: int
    num_classes: int
    head: nn.Module | None = None
    class_names: Sequence[str] | None = None
    interpolation: str = "bicubic"
    crop_pct: float = 0.875

    def __post_init__(self) -> None:
        for what, text in (("name", self.name), ("version", self.version)):
            if not TEACHER_NAME.fullmatch(str(text)):
                raise ModelError(
                    f"{text!r} cannot be the {what} of a teacher: use letters, digits, '.', '_' and '-' (100 at most), "
                    "beginning with a letter or digit."
                )
        if not isinstance(self.module, nn.Module):
            raise ModelError(
                f"The teacher {self.name} is of type {type(self.module).__name__}, and a torch.nn.Module is needed, "
                "whose state dict tells it from others: put it into one."
            )
        for what, value in (("image_size", self.image_size), ("num_classes", self.num_classes)):
            if not is_whole(value):
                raise ModelError(f"{what} of the teacher {self.name} is {shown(value)}: give a whole number.")
        if self.head is not None and all(part is not self.head for part in self.module.modules()):
            raise ModelError(
                f"The head of the teacher {self.name} is not a part of its module, so that its inputs are never seen: "
                "give the layer of the module itself that computes the logits."
            )
        names = self.class_names
        if names is not None and len(names) != self.num_classes:
            raise ModelError(
                f"The teacher {self.name} has {self.num_classes:,} classes and {len(names):,} class_names: give a name "
                "for each class, or none."
            )
        _ = self.card

    @property
    def architecture(self) -> str:
        """Name and version, as the identity in a cache has them."""
        return module_architecture(self.name, self.version)

    @property
    def card(self) -> ModelCard:
        """The preprocessing and classes.

        Raises:
            ModelError: values that no model has.
        """
        try:
            card = ModelCard(
                architecture=self.architecture,
                num_classes=self.num_classes,
                input_size=(3, self.image_size, self.image_size),
                mean=tuple(map(float, self.mean)),
                std=tuple(map(float, self.std)),
                interpolation=self.interpolation,
                crop_pct=float(self.crop_pct),
                class_names=None if self.class_names is None else tuple(self.class_names),
            )
            card.require_sane()
            if card.num_classes < 1:
                raise ValueError(f"num_classes is {card.num_classes}")
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"No teacher has such preprocessing as was given for {self.name} ({reason(error)}): give the values "
                "that it was trained with."
            ) from error
        return card


def run_as_teacher(own: TeacherModule, *, device: torch.device, precision: str, batch_size: int) -> Teacher:
    """Return the teacher that runs a module; its arguments are those of `load_teacher`.

    Raises:
        ModelError: a state dict that cannot be hashed, or a module that does not compute logits of its images.
        DeviceError: fp16 on the CPU.
    """
    _require_hashable(own)
    network = Network(own.module, own.card, own.head)
    teacher = Teacher(network, name=own.name, device=device, precision=precision, batch_size=batch_size)
    _try_out(network, teacher)
    return teacher


@contextmanager
def restored_afterwards(own: TeacherModule) -> Iterator[None]:
    """Give a module back its device, mode, hooks and what requires a gradient, whatever a job has changed of them."""
    module = own.module
    modes = [(part, part.training) for part in module.modules()]
    gradients = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    hooks = [(part, {*part._forward_pre_hooks}) for part in module.modules()]
    devices = _devices(module)
    try:
        yield
    finally:
        for part, before in hooks:
            for number in {*part._forward_pre_hooks} - before:  # of a compiled module, which has them to the end
                del part._forward_pre_hooks[number]
        if len(devices) == 1:
            module.to(next(iter(devices)))
        for part, training in modes:
            part.training = training
        for parameter, requires_grad in gradients:
            parameter.requires_grad_(requires_grad)


def _devices(module: nn.Module) -> set[torch.device]:
    return {tensor.device for tensor in chain(module.parameters(), module.buffers())}


def _require_hashable(own: TeacherModule) -> None:
    """Raise ModelError unless the state dict tells this module from others."""
    state = own.module.state_dict()
    if not state:
        raise ModelError(
            f"The module of the teacher {own.name} has no parameters and no persistent buffers, so that nothing tells "
            "its targets from those of another one: register the tensors that it computes with (register_buffer)."
        )
    for key, value in state.items():
        if not _is_plain(value):
            raise ModelError(
                f"{key} in the state of the teacher {own.name} is no plain tensor with values ({_kind(value)}), so "
                "that the teacher's identity cannot be computed: make it a parameter or a buffer, or leave it out of "
                "the state dict and tell it by the version."
            )
    devices = _devices(own.module)
    if len(devices) > 1:
        places = ", ".join(sorted(map(str, devices)))
        raise ModelError(
            f"The module of the teacher {own.name} lies on several devices ({places}), and a teacher runs on one: move "
            "it to one of them first."
        )


def _is_plain(value: object) -> bool:
    # Subclasses may hold their values elsewhere: other processes, codes of a quantisation, nothing yet.
    if not isinstance(value, Tensor) or type(value) not in (Tensor, nn.Parameter):
        return False
    return value.layout == torch.strided and not (value.is_meta or value.is_quantized or value.is_complex())


def _kind(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"of type {type(value).__name__}"
    return f"{type(value).__name__}, {value.dtype}, {value.layout}, on {value.device.type}"


def _try_out(network: Network, teacher: Teacher) -> None:
    """Raise ModelError unless the module gives an image of its size one score for each class."""
    shape = (1, 3, teacher.size, teacher.size)
    try:
        with torch.no_grad(), autocast(teacher.precision, teacher.device):
            output = network.module(torch.zeros(shape, device=teacher.device))
    except Exception as error:  # whatever a module of the user's raises
        raise ModelError(
            f"The module of the teacher {teacher.name} fails on float32 images {list(shape)} ({reason(error)}): check "
            "its image_size, the type of its parameters, and that its first argument is the images."
        ) from error
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.shape != (1, teacher.num_classes):
        found = list(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
        raise ModelError(
            f"The module of the teacher {teacher.name} gives an image {found}, and not one logit for each of "
            f"{teacher.num_classes:,} classes [1, {teacher.num_classes}]: wrap it in a module that returns these, or "
            "correct num_classes."
        )

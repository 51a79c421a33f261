"""Students: timm models from scratch, or from weights that somebody trained."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from kdcache.errors import ModelError, reason
from kdcache.models.card import ModelCard, require_model_args
from kdcache.models.load import card_of, load_model, size_args, try_out
from kdcache.models.names import architecture
from kdcache.models.network import LUMINANCE, Network
from kdcache.models.source import is_model_folder, model_source, weights_file
from kdcache.models.weights import misfits, weight_hash

#: What a card says about the preparation of images.
_PREPARATION = ("mean", "std", "interpolation", "crop_pct", "crop_mode")


@dataclass(frozen=True)
class InitialWeights:
    """The weights that the training of a student begins from.

    Attributes:
        source: as the user named them.
        tensors: state dict of the model that was trained with them.
        card: description of that model.
    """

    source: str
    tensors: Mapping[str, Tensor]
    card: ModelCard

    @cached_property
    def hash(self) -> str:
        """The hash of the weights (`weight_hash`)."""
        return weight_hash(self.tensors)


def load_initial_weights(name: str, source: str, *, size: int) -> InitialWeights:
    """Read the weights that a student begins from.

    Args:
        name: name of the student, as `create_student` takes it.
        source: path of a file, of a run, an export or a checkpoint, RUN@epoch=N, or the name of a pretrained model of
            timm's or of the hub ("hf-hub:...").
        size: pixels a side of the student; position embeddings are resampled by timm.

    Raises:
        ModelError: there are no such weights, or they belong to another model than the student.
        CorruptError: the checkpoint of an epoch is damaged.
    """
    arch = architecture(name)
    path = Path(source.removeprefix("local-dir:"))
    if path.is_file() or is_model_folder(source, path):
        network = load_model(arch, weights_file(path), size=size)
    else:
        model_source(source)  # which refuses what nobody knows, by its name
        network = load_model(source, size=size)
    if network.card.architecture != arch:
        raise ModelError(
            f"student.weights is {source}, whose weights are those of {network.card.architecture}, and the student is "
            f"{arch}: give weights of {arch}, or that student."
        )
    return InitialWeights(source, network.module.state_dict(), network.card)


@dataclass(frozen=True)
class StudentOptions:
    """How a student differs from the model as timm makes it.

    Attributes:
        drop_path: rate of stochastic depth (Huang et al. 2016).
        drop: rate of the dropout before the classifier.
        crop_pct: share of the image that the evaluation transform keeps; None: timm's own for the model.
        interpolation: filter of the evaluation transform; None: timm's own for the model.
        kwargs: further arguments of `timm.create_model`.
        in_chans: channels of its images, 3 for RGB or 1 for their luminance.
    """

    drop_path: float = 0.0
    drop: float = 0.0
    crop_pct: float | None = None
    interpolation: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    in_chans: int = 3


def create_student(
    name: str,
    *,
    num_classes: int,
    size: int,
    seed: int,
    options: StudentOptions = StudentOptions(),
    initial: InitialWeights | None = None,
) -> Network:
    """Create a model, in training mode, on the CPU, with fresh weights or with those that are given.

    The weights depend on the arguments alone: they are drawn under `seed`, and torch's random state stays
    as it was.

    Args:
        name: a short name or a timm name; a tag is ignored.
        num_classes: number of outputs of its classifier.
        size: pixels a side that it is trained at; models built for one size are built for this one.
        seed: seed of the weights.
        options: how it differs from the model as timm makes it.
        initial: weights to begin from, with the normalisation of their images, and their evaluation transform but for
            what `options` has of it; the classifier is drawn where its number of classes is another.

    Raises:
        ModelError: an unknown name, a size or arguments that the model does not take, or weights that do not fit.
    """
    arch = architecture(name)
    args = {**size_args(arch, size), **options.kwargs}
    try:
        require_model_args(args)  # timm would unpickle whatever file `checkpoint_path` names
    except ValueError as error:
        instead = " Give student.weights, which is read without running anything." if "checkpoint_path" in args else ""
        raise ModelError(f"student.kwargs cannot be used: {error}. Leave it out.{instead}") from error
    if args.get("in_chans", options.in_chans) != options.in_chans:
        raise ModelError(
            f"student.kwargs has in_chans {args['in_chans']}, which is a setting of its own: give student.in_chans."
        )
    args |= {"in_chans": options.in_chans} if options.in_chans != 3 else {}
    rates: dict[str, Any] = {"drop_path_rate": options.drop_path} if options.drop_path else {}
    rates |= {"drop_rate": options.drop} if options.drop else {}
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed every GPU as well.
        torch.default_generator.manual_seed(seed)
        try:
            module = timm.create_model(arch, pretrained=False, num_classes=num_classes, **rates, **args)
        except Exception as error:
            if isinstance(error, MemoryError) or "allocate memory" in str(error):
                raise ModelError(
                    f"{arch} with {num_classes:,} classes does not fit into this machine's memory: use a smaller "
                    "student or, if the data has fewer classes, correct its highest label, from which they are counted."
                ) from error
            raise ModelError(
                f"{arch} cannot be built for {size}x{size} pixels, {num_classes} classes and {rates | args} "
                f"({reason(error)}): change student.size, student.drop_path, student.drop or "
                "student.kwargs."
            ) from error
    if initial is not None:
        _begin_from(module, arch, num_classes, initial)
    card = card_of(module, arch, size, args)
    card = _grey(card) if options.in_chans == 1 else card
    if initial is not None:  # what was learnt holds for images that are prepared as they were
        prepared = {name: getattr(initial.card, name) for name in _PREPARATION}
        card = dataclasses.replace(card, **prepared)
    card = dataclasses.replace(
        card,
        crop_pct=card.crop_pct if options.crop_pct is None else options.crop_pct,
        interpolation=card.interpolation if options.interpolation is None else options.interpolation,
    )
    network = Network(module.eval(), card)
    try_out(network)
    network.module.train()
    return network


def _grey(card: ModelCard) -> ModelCard:
    """Return the card of a model that takes the luminance of its images, with mean and deviation weighted alike."""
    mean, std = (
        (sum(share * part for share, part in zip(LUMINANCE, parts, strict=True)),) for parts in (card.mean, card.std)
    )
    return dataclasses.replace(card, input_size=(1, *card.input_size[1:]), mean=mean, std=std)


def _begin_from(module: nn.Module, arch: str, num_classes: int, initial: InitialWeights) -> None:
    """Give a module the weights, but for a classifier of another number of classes."""
    own = module.state_dict()
    tensors = dict(initial.tensors)
    if initial.card.num_classes != num_classes:
        cfg = get_pretrained_cfg(arch)
        names: Any = (cfg.classifier if cfg is not None else None) or ()
        heads = tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))
        tensors = {name: own[name] if name.startswith(heads) else tensor for name, tensor in tensors.items()}
    if problems := misfits(own, tensors):
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ModelError(
            f"student.weights is {initial.source}, which does not fit {arch} as the student is built "
            f"({'; '.join(problems[:3])}{more}): give the student.kwargs, student.in_chans and student.size that it "
            "was trained with, or other weights."
        )
    module.load_state_dict(tensors)

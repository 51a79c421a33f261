"""Teachers that are no models of timm's: an ensemble of two backbones, and a zero-shot head over vectors of classes.

Command: python examples/own_teacher.py --data data --cache cache --class-vectors classes.safetensors
Both are dumped into one cache, as the entries `ensemble` and `zero-shot`. The vectors of the classes are those of a
text encoder, such as CLIP's for "a photo of a NAME": a tensor `classes` [c, d], d being the width of the image encoder.
"""

import argparse
import math
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from timm.data import resolve_model_data_config
from torch import Tensor, nn

import kdcache


class Normalised(nn.Module):
    """A timm model that takes pixels in 0..1 and normalises them as it was trained."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        eats = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
        self.model = model
        # Buffers are in the state dict, so they are a part of the teacher's identity.
        self.register_buffer("mean", torch.tensor(eats["mean"])[:, None, None])
        self.register_buffer("std", torch.tensor(eats["std"])[:, None, None])

    mean: Tensor
    std: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Return the model's output for pixels [b, 3, s, s] in 0..1."""
        output: Tensor = self.model((images - self.mean) / self.std)
        return output


class Ensemble(nn.Module):
    """The mean of the probabilities of several models."""

    def __init__(self, models: list[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logarithm of the mean probabilities [b, c], which are logits of them."""
        log_probs = torch.stack([model(images).float().log_softmax(1) for model in self.models])
        return log_probs.logsumexp(0) - math.log(len(self.models))


class ZeroShot(nn.Module):
    """An image encoder whose logits are the scaled cosines between an image's features and a vector of each class."""

    def __init__(self, encoder: nn.Module, class_vectors: Tensor, scale: float) -> None:
        super().__init__()
        self.encoder = encoder
        classes, width = class_vectors.shape
        self.head = nn.Linear(width, classes, bias=False)
        self.head.weight = nn.Parameter(scale * nn.functional.normalize(class_vectors, dim=1))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [b, c]. The head is a linear layer, so that `embedding` targets can be kept as well."""
        logits: Tensor = self.head(nn.functional.normalize(self.encoder(images), dim=1))
        return logits


def create_ensemble(options: argparse.Namespace) -> kdcache.TeacherModule:
    """Return the ensemble as a teacher. Each of its models has its own preprocessing, so it takes plain pixels."""
    models = [timm.create_model(name, pretrained=True) for name in options.models]
    return kdcache.TeacherModule(
        Ensemble([Normalised(model) for model in models]),
        name="ensemble",
        version="1",
        mean=[0.0] * 3,
        std=[1.0] * 3,
        image_size=options.image_size,
        num_classes=options.num_classes,
    )


def create_zero_shot(options: argparse.Namespace) -> kdcache.TeacherModule:
    """Return the zero-shot classifier as a teacher."""
    encoder = timm.create_model(options.encoder, pretrained=True, num_classes=0)
    eats = resolve_model_data_config(encoder)  # type: ignore[no-untyped-call]
    module = ZeroShot(encoder, load_file(options.class_vectors)["classes"], options.scale)
    return kdcache.TeacherModule(
        module,
        name="zero-shot",
        version="1",
        mean=eats["mean"],
        std=eats["std"],
        image_size=options.image_size,
        num_classes=module.head.out_features,
        head=module.head,
    )


def main(arguments: list[str] | None = None) -> None:
    """Dump the targets of both teachers and print what the cache holds."""
    options = parse(arguments)
    teachers = [create_ensemble(options)] + ([create_zero_shot(options)] if options.class_vectors else [])
    for teacher in teachers:
        kdcache.dump_logits(
            teacher,
            options.data,
            options.cache,
            views=options.views,
            policy=options.policy,
            targets="topk" if teacher.head is None else options.targets,
            batch_size=options.batch_size,
            device=options.device,
            renderer=options.renderer,
        )
    print("\n".join(kdcache.inspect(options.cache, data=options.data).lines()))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data")
    parser.add_argument("--cache", default="cache")
    parser.add_argument("--models", nargs="+", default=["resnet152.a1h_in1k", "convnext_base.fb_in22k_ft_in1k"])
    parser.add_argument("--num-classes", type=int, default=1000, help="classes of the models of the ensemble")
    parser.add_argument("--encoder", default="vit_base_patch16_clip_224.openai", help="image encoder of the vectors")
    parser.add_argument("--class-vectors", type=Path, help="safetensors with `classes` [c, d]; without, no zero-shot")
    parser.add_argument("--scale", type=float, default=100.0, help="inverse temperature of the cosines")
    parser.add_argument("--targets", default="topk", help="kind of targets of the zero-shot teacher, which has a head")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--policy", help="policy of the views; by default that of the cache, or a2")
    parser.add_argument("--views", type=int, default=300)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--renderer", default="dali")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()

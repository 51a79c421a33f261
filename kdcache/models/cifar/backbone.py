"""The frame of every network for CIFAR: a stem, stages, final layers and a linear classifier, with timm's methods."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from timm.layers import create_classifier
from timm.models import checkpoint_seq
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.nn import functional as F


class Stage(NamedTuple):
    """Layers of one resolution.

    layers: its blocks, one after another. channels: of what the last one returns. reduction: factor by which these
    maps are smaller than the image.
    """

    layers: nn.Sequential
    channels: int
    reduction: int


class Head(NamedTuple):
    """Settings of the classifier, as timm's models have them.

    num_classes: number of outputs; 0 for none. global_pool: how maps are pooled; "" for not at all. drop_rate: rate of
    dropout before the classifier.
    """

    num_classes: int = 100
    global_pool: str = "avg"
    drop_rate: float = 0.0


class CifarNetwork(nn.Module):
    """A convolutional network for small images that behaves as a model of timm's.

    Attributes:
        num_classes: number of outputs of the classifier.
        num_features: number of inputs of the classifier, which are the channels behind the final layers.
        feature_info: for each stage its channels (num_chs), its reduction and the name of its module; the stem has no
            entry, so that the stages of teacher and student pair up as in the papers.
    """

    def __init__(self, stem: nn.Module, stages: Sequence[Stage], final: nn.Module, num_features: int, head: Head):
        """
        Args:
            stem: what an image enters.
            stages: from fine to coarse, one or more.
            final: what follows the last stage, before pooling; an identity where nothing does.
            num_features: channels that `final` returns.
            head: settings of the classifier.
        """
        super().__init__()
        self.num_classes = head.num_classes
        self.num_features = self.head_hidden_size = num_features
        self.drop_rate = head.drop_rate
        self.grad_checkpointing = False
        self.stem = stem
        self.feature_info: list[dict[str, Any]] = []
        for number, stage in enumerate(stages, start=1):
            name = f"layer{number}"
            self.add_module(name, stage.layers)
            self.feature_info.append({"num_chs": stage.channels, "reduction": stage.reduction, "module": name})
        self.final = final
        self.global_pool, self.fc = create_classifier(num_features, head.num_classes, pool_type=head.global_pool)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Tensor:
        """Return logits [b, classes]."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f _h _w"]:
        """Return the maps that are pooled for the classifier."""
        x = self.stem(x)
        for info in self.feature_info:
            x = self._run(info["module"], x)
        return self.final(x)

    def forward_head(self, x: Float[Tensor, "b f h w"], pre_logits: bool = False) -> Tensor:
        """Return logits [b, classes] of `forward_features`' maps; with `pre_logits` what enters the classifier."""
        x = self.global_pool(x)
        if self.drop_rate:
            x = F.dropout(x, p=self.drop_rate, training=self.training)
        return x if pre_logits else self.fc(x)

    def forward_intermediates(
        self,
        x: Float[Tensor, "b c h w"],
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the maps that are pooled, and those of stages, as timm's method of this name does.

        Args:
            x: images.
            indices: numbers of stages, or how many of the last ones; None for all.
            norm: without effect; timm's callers give it.
            stop_early: whether to leave out what follows the last of these stages.
            output_fmt: "NCHW" only.
            intermediates_only: whether to return the list of the stages' maps alone.

        Raises:
            ValueError: another format.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"Feature maps of {type(self).__name__} are NCHW, and {output_fmt} is asked for.")
        taken, last = self._taken(indices)
        maps = []
        x = self.stem(x)
        for number, info in enumerate(self.feature_info):
            if stop_early and number > last:
                break
            x = self._run(info["module"], x)
            if number in taken:
                maps.append(x)
        return maps if intermediates_only else (self.final(x), maps)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Take off what the maps of these stages do not need, and return the stages' numbers, as timm's method does."""
        taken, last = self._taken(indices)
        ends = last + 1 < len(self.feature_info)
        for info in self.feature_info[last + 1 :]:
            setattr(self, info["module"], nn.Sequential())
        if prune_norm or ends:
            self.final = nn.Identity()
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_head or ends:
            self.reset_classifier(0, "")
        return taken

    def get_classifier(self) -> nn.Module:
        """Return the layer that computes the logits."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh classifier in; 0 classes for none. The kind of pooling stays where None is given."""
        weight = next(self.parameters())
        self.num_classes = num_classes
        pool, classifier = create_classifier(
            self.num_features,
            num_classes,
            pool_type=self.global_pool.pool_type if global_pool is None else global_pool,
        )
        self.global_pool = pool.train(self.training)
        self.fc = classifier.to(weight.device, weight.dtype).train(self.training)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute each block's inner values again in the backward pass, which takes less memory and more time."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns that order parameters from the image to the classifier, for timm's decay by layers."""
        blocks = r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"
        return {"stem": r"^stem", "blocks": [(blocks, None), (r"^final", (99_999,))]}

    def _taken(self, indices: int | Sequence[int] | None) -> tuple[list[int], int]:
        """Return the numbers of the stages that are meant, from 0, and the largest of them."""
        wanted = list(indices) if isinstance(indices, Sequence) else indices
        taken, last = feature_take_indices(len(self.feature_info), wanted)
        return list(taken), last

    def _run(self, name: str, x: Tensor) -> Tensor:
        stage: Any = getattr(self, name)
        if self.grad_checkpointing and self.training:
            return checkpoint_seq(stage, x)
        return stage(x)


def initialise(network: nn.Module, linear_std: float | None = None) -> None:
    """Draw convolutions from a normal distribution of variance 2 / (k k out) (He et al. 2015), in place.

    Args:
        network: whose weights are drawn; biases of convolutions become 0.
        linear_std: standard deviation of the classifier's weights, and its biases are 0; None leaves it as torch made
            it.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, std=linear_std)
            nn.init.zeros_(module.bias)


def conv_bn(
    inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """Return a convolution that keeps the size of maps (up to its stride), without biases, and its normalisation."""
    convolution = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, groups=groups, bias=False)
    return convolution, nn.BatchNorm2d(outputs)

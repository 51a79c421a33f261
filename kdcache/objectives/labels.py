"""Losses on labels, and the soft labels of mixed images."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from kdcache.objectives.precision import at_least_float32


def soft_labels(
    labels: Int64[Tensor, "b 2"], weight: Float[Tensor, "b"], num_classes: int, smoothing: float = 0.0
) -> Float[Tensor, "b c"]:
    """w y + (1 - w) y', each of the two one-hot and smoothed once: timm's `mixup_target`.

    Smoothing (Szegedy et al. 2016) spreads a share s over all classes: s / c + (1 - s) for the label, s / c for the
    others.

    Args:
        labels: labels of the image and of its partner in the mix, 0 <= label < num_classes; a partner of -1 means that
            the image is not mixed, and its weight does not count.
        weight: the image's own share w of the mix, in 0..1.
        num_classes: number of classes c.
        smoothing: share s, in 0..1.
    """
    own, partner = labels.unbind(dim=1)
    mixed = partner >= 0
    partner = torch.where(mixed, partner, own)
    rest = smoothing / num_classes
    peak = 1.0 - smoothing + rest

    # A row has three different values. Two whole [b, c] tensors, multiplied and added, would give the same bits with
    # six passes over all classes in place of one.
    share = torch.where(mixed, weight, 1.0)[:, None]
    others = 1.0 - share
    own, partner = own[:, None], partner[:, None]
    own_part, others_part, least = peak * share, peak * others, rest * share
    soft = (least + rest * others).repeat(1, num_classes)
    soft.scatter_(1, own, own_part + rest * others)
    return soft.scatter_(1, partner, torch.where(partner == own, own_part, least) + others_part)


def hard_labels(labels: Int64[Tensor, "b 2"], weight: Float[Tensor, "b"]) -> Int64[Tensor, "b"]:
    """Return the label that has the larger share: the own one where equal. Arguments as `soft_labels` has them."""
    own, partner = labels.unbind(dim=1)
    return torch.where((partner >= 0) & (weight < 0.5), partner, own)


def cross_entropy(logits: Float[Tensor, "b c"], soft: Float[Tensor, "b c"]) -> Float[Tensor, ""]:
    """Mean over b of - sum over c of y log softmax(z): timm's `SoftTargetCrossEntropy`."""
    return -(soft * F.log_softmax(at_least_float32(logits), dim=-1)).sum(dim=-1).mean()


def binary_cross_entropy(
    logits: Float[Tensor, "b c"],
    soft: Float[Tensor, "b c"],
    *,
    sum_classes: bool = False,
    target_thresh: float | None = None,
) -> Float[Tensor, ""]:
    """Mean of - y log sigmoid(z) - (1 - y) log sigmoid(-z): timm's `BinaryCrossEntropy`.

    Wightman et al. 2021, "ResNet strikes back". The mean runs over the batch *and* the classes, so at 1000 classes its
    gradient is about a thousandth of the cross-entropy's; `sum_classes` sums over the classes instead. With a
    `target_thresh`, soft labels above it count as 1 and all others as 0.
    """
    logits = at_least_float32(logits)
    if target_thresh is not None:
        soft = soft > target_thresh
    terms = F.binary_cross_entropy_with_logits(logits, soft.to(logits.dtype), reduction="none")
    return terms.sum(dim=-1).mean() if sum_classes else terms.mean()

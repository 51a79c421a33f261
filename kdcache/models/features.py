"""The inputs of a model's classifier: its pooled features."""

from collections.abc import Iterator
from contextlib import contextmanager

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kdcache.errors import ModelError


def feature_size(module: nn.Module, head: nn.Module | None = None) -> int:
    """Return the number of features that enter the classifier of a model. Arguments as `watched_features` has them.

    Raises:
        ModelError: the model's classifier is not one linear layer.
    """
    return _classifier(module, head).weight.shape[1]


@contextmanager
def watched_features(module: nn.Module, head: nn.Module | None = None) -> Iterator[list[Float[Tensor, "b f"]]]:
    """Yield a list to which each forward pass of a model adds the inputs of its classifier, [b, f].

    They are part of the graph: a loss on them teaches the model.

    Args:
        module: the model, of timm's unless `head` is given.
        head: the layer that computes the logits; None for the classifier of a timm model.

    Raises:
        ModelError: as `feature_size` does.
    """
    seen: list[Tensor] = []
    handle = watch_features(module, head, seen)
    try:
        yield seen
    finally:
        handle.remove()


def watch_features(module: nn.Module, head: nn.Module | None, seen: list[Tensor]) -> RemovableHandle:
    """Add to `seen` from now on, as `watched_features` does, until the handle is removed."""
    return _classifier(module, head).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(1)))


def _classifier(module: nn.Module, head: nn.Module | None = None) -> nn.Linear | nn.Conv2d:
    classifier = getattr(module, "get_classifier", lambda: None)() if head is None else head
    if isinstance(classifier, nn.Conv2d) and classifier.kernel_size == (1, 1) and classifier.groups == 1:
        return classifier
    if not isinstance(classifier, nn.Linear):
        raise ModelError(
            f"{type(module).__name__} has no single linear classifier, and the objective needs the features that enter "
            "it: choose another model or another objective.name."
        )
    return classifier

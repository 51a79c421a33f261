"""A student's logits together with the features and feature maps that an objective compares, in one forward pass."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from kdcache.models.features import feature_size, watched_features
from kdcache.models.maps import WithMaps


class StudentOutputs(NamedTuple):
    """What an objective sees of a student's forward pass over b rows.

    Attributes:
        logits: logits [b, c].
        features: what enters the classifier, [b, f]; None where it was not asked for.
        maps: feature maps from fine to coarse, each [b, channels, height, width]; empty where they were not asked for.

    Example:
        >>> losses = objective(kdcache.StudentOutputs(logits, features), batch, epoch=0, epochs=10)
    """

    logits: Float[Tensor, "b c"]
    features: Float[Tensor, "b f"] | None = None
    maps: tuple[Float[Tensor, "b _ _ _"], ...] = ()


class WithStudentOutputs(nn.Module):
    """A timm model whose forward pass returns `StudentOutputs`; the same logits from the same parameters.

    Attributes:
        module: the timm model itself, whose state dict is to be saved.
    """

    @property
    def module(self) -> nn.Module:
        """The timm model itself."""
        return self._inner.module if isinstance(self._inner, WithMaps) else self._inner

    def __init__(self, module: nn.Module, *, features: bool, layers: tuple[int, ...] | str | None) -> None:
        """
        Args:
            module: the timm model.
            features: whether to return what enters its classifier.
            layers: whose feature maps to return, as `kdcache.models.maps.choose_layers` has them; None for none.

        Raises:
            ModelError: the model does not have them.
        """
        super().__init__()
        # Held once, so that the state dict names each parameter once.
        self._inner = module if layers is None else WithMaps(module, layers)
        self._gives_features = features
        if features:
            feature_size(module)  # refuses a model that has none

    def map_shapes(self, size: int, channels: int = 3) -> tuple[tuple[int, int, int], ...]:
        """Return the shapes of the feature maps, as `WithMaps.shapes` has them; empty where none were asked for."""
        return self._inner.shapes(size, channels) if isinstance(self._inner, WithMaps) else ()

    def forward(self, images: Float[Tensor, "b _ s s"]) -> StudentOutputs:
        """Return the outputs for normalised images."""
        if not self._gives_features:
            return self._without_features(images)
        with watched_features(self.module) as seen:
            outputs = self._without_features(images)
        return outputs._replace(features=seen[0])

    def _without_features(self, images: Float[Tensor, "b _ s s"]) -> StudentOutputs:
        outputs = self._inner(images)
        if not isinstance(self._inner, WithMaps):
            return StudentOutputs(outputs)
        logits, maps = outputs
        return StudentOutputs(logits, maps=maps)

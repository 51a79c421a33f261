"""torch.compile for models: the choice of a backend, and forward passes of frozen models that can be compiled."""

import torch
from torch import Tensor, nn

from kdcache.errors import ConfigError, ModelError, reason
from kdcache.models.features import watch_features
from kdcache.models.maps import choose_layers, logits_and_maps
from kdcache.models.network import Network


def require_backend(backend: str, setting: str) -> None:
    """Refuse a name that is no backend of torch.compile here.

    Args:
        backend: name of the backend, such as "inductor".
        setting: name of the setting or option in the message.

    Raises:
        ConfigError: there is none of that name; lists those that there are.
    """
    backends = torch.compiler.list_backends(exclude_tags=())
    if backend not in backends:
        raise ConfigError(
            f"{setting} is {backend!r}, which is no backend of torch.compile here: give one of {', '.join(backends)}, "
            "or leave it out."
        )


class FrozenForward(nn.Module):
    """The forward pass of a model that does not train: logits, features and feature maps, the model's own bit for bit.

    It is a module with everything that is asked for in it, because a compiled module does not show what happens within:
    hooks that are added later are not called.
    """

    def __init__(self, network: Network, *, features: bool, maps: tuple[int, ...] | str | None) -> None:
        """Arguments and errors as `Teacher.compute_output` has them."""
        super().__init__()
        self.module = network.module
        # Asked in `forward`: what is compiled for one of these is used for the other unless something tells them apart.
        self._gives_features = features
        self._layers = None if maps is None else choose_layers(network.module, maps)
        self._seen: list[Tensor] = []
        if features:
            watch_features(network.module, network.head, self._seen)

    # Shapes are not annotated: a tensor that is traced has none of the types that a check at run time knows.
    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        """Return logits, inputs of the classifier, and maps from fine to coarse.

        The inputs are None where they are not asked for, or the module does not run its classifier.
        """
        self._seen.clear()
        maps: tuple[Tensor, ...] = ()
        if self._layers is None:
            output = self.module(inputs)
            logits = output if isinstance(output, Tensor) else output.logits
        else:
            logits, maps = logits_and_maps(self.module, inputs, self._layers)
        return logits, self._seen[0] if self._gives_features and self._seen else None, maps


def explained(error: Exception, name: str, backend: str) -> ModelError:
    """Return the error of a model that a backend cannot compile."""
    cause = getattr(error, "inner_exception", error)
    return ModelError(
        f"The backend {backend} of torch.compile fails on {name} ({reason(cause)}): inductor needs a C++ compiler, and "
        "on a GPU Triton. Choose another backend, or do not compile."
    )

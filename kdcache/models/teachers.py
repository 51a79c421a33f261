"""Teachers: frozen models that compute log-probabilities, features and feature maps of images."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from kdcache.errors import ModelError, UsageError
from kdcache.models.compiled import FrozenForward, explained, require_backend
from kdcache.models.features import feature_size, watched_features
from kdcache.models.load import load_model
from kdcache.models.maps import WithMaps
from kdcache.models.names import module_of
from kdcache.models.network import Network
from kdcache.models.weights import weight_hash
from kdcache.runtime.device import autocast, resolve_precision
from kdcache.runtime.transfer import to_device

#: How far logits may be from those that the classifier makes of float32 features, as a share of their spread.
HEAD_TOLERANCE = {"fp32": 0.005, "bf16": 0.05, "fp16": 0.05}


@dataclass(frozen=True)
class TeacherOutput:
    """The output of a teacher for b images, on the teacher's device.

    Attributes:
        log_probs: log softmax of the logits, float32.
        features: inputs of the teacher's classifier, float32; None unless asked for.
        maps: feature maps from fine to coarse, in the precision they were computed in; empty unless asked for.
    """

    log_probs: Float[Tensor, "b c"]
    features: Float[Tensor, "b d"] | None = None
    maps: tuple[Float[Tensor, "b _c _h _w"], ...] = ()


class Teacher:
    """A model in eval mode with its own preprocessing, run at one batch shape only.

    Every forward pass has `batch_size` rows: the last one is padded and the padding's outputs are dropped.
    Kernels choose the order of their sums by the shape of their input, so the last bits of an output depend on that
    shape and on the number of threads. On one machine's CPU, with one set of versions and one number of threads,
    the same row at the same position of that shape has the same output bit for bit, whatever the other rows are.
    """

    def __init__(self, network: Network, *, name: str, device: torch.device, precision: str, batch_size: int) -> None:
        if batch_size < 1:
            raise UsageError(f"The teacher's batch size is {batch_size}: give at least 1.")
        card = network.card
        self.card = card
        self.name = name
        self.architecture = card.architecture
        self.num_classes = card.num_classes
        self.class_names = card.class_names
        self.size = card.size
        self.mean = card.mean
        self.std = card.std
        self.precision = resolve_precision(precision, device)
        self.batch_size = batch_size
        self.device = device
        self.compiler: str | None = None
        self._compiled: dict[tuple[bool, tuple[int, ...] | str | None], Any] = {}
        self.weight_hash = weight_hash(network.module.state_dict())
        self._network = network
        # The layout that tensor cores want; on CPUs, too, small convolutional networks ran faster in it.
        module = network.module.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        module.eval().requires_grad_(False)

    def compile(self, backend: str | None) -> None:
        """Let a backend of torch.compile run the forward passes from now on; outputs can differ in the last bits.

        Args:
            backend: name of the backend, such as "inductor"; None for no compilation.

        Raises:
            ConfigError: there is no such backend.
        """
        if backend is not None:
            require_backend(backend, "The compiler of the teacher")
        self.compiler = backend
        self._compiled.clear()

    @property
    def class_vectors(self) -> Float[Tensor, "c d"] | None:
        """The classifier's weights on the host, a row for each class; None where it is not one linear layer."""
        head = self._network.classifier
        if not isinstance(head, nn.Linear | nn.Conv2d) or head.weight.flatten(1).shape[0] != self.num_classes:
            return None
        return head.weight.detach().to("cpu", torch.float32).flatten(1)

    def linear_head(self) -> tuple[Float[Tensor, "c d"], Float[Tensor, "c"]]:
        """Return the classifier's weights and biases on the host, such that logits = features W^T + bias.

        The output of a batch of noise shows that this is so, up to a shift of all logits of a row.

        Raises:
            ModelError: the logits are something else.
        """
        weight = self.class_vectors
        if weight is None:
            raise self._without_head()
        head: Any = self._network.classifier  # it is there, see class_vectors
        bias = weight.new_zeros(len(weight)) if head.bias is None else head.bias.detach().to("cpu", torch.float32)
        generator = torch.Generator().manual_seed(0)
        output = self.compute_output(
            torch.rand(self.batch_size, 3, self.size, self.size, generator=generator) * 255, features=True
        )
        log_probs, features = output.log_probs.cpu(), output.features
        assert features is not None
        if features.shape[1] != weight.shape[1]:
            raise self._without_head()
        error = _spread(features.cpu() @ weight.T + bias - log_probs) / (_spread(log_probs) + 1e-6)
        if not error < HEAD_TOLERANCE[self.precision]:
            raise ModelError(
                f"The logits of {self.name} are not what its classifier makes of its features: they differ by "
                f"{error:.2g} of their spread. So they cannot be rebuilt from features: use --targets topk or full."
            )
        return weight, bias

    # Not inference_mode, whose tensors autograd refuses: a loss may keep the output for its gradient.
    @torch.no_grad()
    def compute_output(
        self, pixels: Float[Tensor, "b 3 s s"], *, features: bool = False, maps: tuple[int, ...] | str | None = None
    ) -> TeacherOutput:
        """Compute the teacher's output for images in 0..255, mixed but not yet normalised.

        There may be any number of rows: `batch_size` of them are taken at a time, and the last batch is padded.
        On a GPU the host does not wait for the output.
        Asking for features or maps changes no bit of the log-probabilities.

        Args:
            pixels: images in 0..255, of the teacher's own size.
            features: whether to return the inputs of the classifier.
            maps: layers whose feature maps are returned, as `choose_layers` has them; None for none.

        Raises:
            ModelError: features or maps are asked for, and the model has none that timm could give.
            ConfigError: the model does not have these layers.
        """
        pixels = to_device(pixels, self.device)
        parts = [self._compute_batch(part, features, maps) for part in pixels.split(self.batch_size)]
        return TeacherOutput(
            torch.cat([part.log_probs for part in parts]),
            torch.cat([part.features for part in parts if part.features is not None]) if features else None,
            tuple(torch.cat(same) for same in zip(*(part.maps for part in parts), strict=True)),
        )

    def map_shapes(self, layers: tuple[int, ...] | str) -> tuple[tuple[int, int, int], ...]:
        """Return channels, height and width of each feature map. Arguments and errors as `compute_output` has them."""
        return WithMaps(self._network.module, layers).shapes(self.size, self.card.input_size[0])

    @property
    def num_features(self) -> int:
        """The number of features that enter the classifier. Raises ModelError where that is not one linear layer."""
        if self.class_vectors is None:
            raise self._without_head()
        return feature_size(self._network.module, self._network.head)

    def _without_head(self) -> ModelError:
        if module_of(self.architecture) is not None:
            return ModelError(
                f"The teacher {self.name} ({self.architecture}) has no single linear layer that computes its logits, "
                "so that there are no features that enter it: give that layer as the head of its TeacherModule, or use "
                "targets topk or full."
            )
        return ModelError(
            f"The classifier of {self.name} ({self.architecture}) is not one linear layer, so that there are no "
            "features that enter it: use --targets topk or full, an objective that needs no features of the teacher, "
            "or another teacher."
        )

    def _compute_batch(
        self, pixels: Float[Tensor, "b 3 s s"], features: bool, maps: tuple[int, ...] | str | None
    ) -> TeacherOutput:
        rows = len(pixels)
        inputs = self._network.normalise(pixels.float())
        if rows < self.batch_size:
            inputs = torch.cat([inputs, inputs.new_zeros(self.batch_size - rows, *inputs.shape[1:])])
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        with autocast(self.precision, self.device):
            logits, seen, found = self._forward(inputs, features, maps)
        if features and seen is None:
            raise self._without_head()  # the module does not run the layer that was given as its head
        return TeacherOutput(
            F.log_softmax(logits.float(), dim=-1)[:rows],
            None if seen is None else seen.float()[:rows],
            tuple(part[:rows] for part in found),
        )

    def _forward(
        self, inputs: Float[Tensor, "b _ s s"], features: bool, maps: tuple[int, ...] | str | None
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b d"] | None, tuple[Tensor, ...]]:
        """Return logits, features and maps, by the compiled module where there is one."""
        if self.compiler is not None:
            return self._run_compiled(inputs, features, maps)
        watched: AbstractContextManager[list[Tensor]] = nullcontext([])
        if features:
            watched = watched_features(self._network.module, self._network.head)
        found: tuple[Tensor, ...] = ()
        with watched as seen:
            if maps is None:
                logits = self._network.compute_logits(inputs)
            else:
                logits, found = WithMaps(self._network.module, maps)(inputs)
        return logits, seen[0] if seen else None, found

    def _run_compiled(
        self, inputs: Float[Tensor, "b _ s s"], features: bool, maps: tuple[int, ...] | str | None
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b d"] | None, tuple[Tensor, ...]]:
        from torch._dynamo.exc import TorchDynamoException  # takes a second, and torch.compile imports it anyway

        assert self.compiler is not None
        asked = features, maps
        if asked not in self._compiled:
            forward = FrozenForward(self._network, features=features, maps=maps).eval()
            self._compiled[asked] = torch.compile(forward, backend=self.compiler)
        try:
            logits, seen, found = self._compiled[asked](inputs)
        except TorchDynamoException as error:
            raise explained(error, self.name, self.compiler) from error
        return logits, seen, found


def _spread(logits: Float[Tensor, "b c"]) -> float:
    """Return the root mean square of logits from each row's mean."""
    return float((logits - logits.mean(1, keepdim=True)).square().mean().sqrt())


def describe_compiled(teacher: Teacher) -> str:
    """Return the end of a sentence about a teacher that tells how it is compiled; empty where it is not."""
    return "" if teacher.compiler is None else f", compiled by {teacher.compiler}"


def load_teacher(
    name: str | None,
    weights: Path | None,
    *,
    label: str | None = None,
    device: torch.device,
    precision: str,
    batch_size: int,
    size: int | None = None,
) -> Teacher:
    """Load the teacher called `name`; torch's random state stays as it was.

    Args:
        name: a short name (`kdcache.models.names`) or any timm name; None where the weights tell it.
        weights: a timm or kdcache checkpoint or run folder; None for timm's pretrained weights.
        label: the name that is reported; by default `name`.
        device: the device that the teacher runs on.
        precision: "fp32", "bf16" or "fp16" (mixed precision; the log softmax is float32 always), or "auto".
        batch_size: rows of every forward pass; part of a teacher's identity.
        size: pixels a side; None for the model's own size.

    Raises:
        ModelError: as `load_model` does.
        DeviceError: fp16 on the CPU.
    """
    precision = resolve_precision(precision, device)
    network = load_model(name, weights, size=size)
    return Teacher(
        network,
        name=label or name or network.card.architecture,
        device=device,
        precision=precision,
        batch_size=batch_size,
    )

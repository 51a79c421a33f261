"""Embedding targets: the features that enter a teacher's classifier, which give every logit at any temperature.

The classifier itself, one linear layer, is stored once for all views, so that a row takes as many numbers as there
are features, however many classes there are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float16, Float32, Int64, UInt8
from torch import Tensor

from kdcache.errors import CorruptError, ModelError, UsageError
from kdcache.targets.base import (
    MAX_TABLE_BYTES,
    ArraySpec,
    Capabilities,
    ReadClassifier,
    TargetCodec,
    Targets,
    check_classes,
    check_temperature,
)
from kdcache.targets.head import LARGEST, Head
from kdcache.targets.rows import RowTargets

DTYPES = ("uint8", "float16")


@dataclass(frozen=True)
class EmbeddingTargets(RowTargets):
    """Features, the classifier that makes logits of them, and labels (own, partner's; -1 = none) once they are known.

    code: the features themselves; where there is a scale (lowest value and step of each row) their codes, which stay
        8 bits wide until they are asked for, wherever they lie.
    """

    code: Float32[Tensor, "b d"] | Float16[Tensor, "b d"] | UInt8[Tensor, "b d"]
    scale: Float32[Tensor, "b 2"] | None
    head: Head
    label: Int64[Tensor, "b 2"] | None

    values_field: ClassVar[str] = "code"

    @property
    def num_classes(self) -> int:
        """The number of classes that they give."""
        return len(self.head.table)

    def features(self) -> Float32[Tensor, "b d"]:
        """Return what entered the classifier, as it was kept."""
        if self.scale is None:
            return self.code.float()
        return self.scale[:, :1] + self.code * self.scale[:, 1:]

    def log_probs(self, *, num_classes: int | None = None, temperature: float = 1.0) -> Float[Tensor, "b c"]:
        """Return log_softmax(logits / temperature), the logits computed anew from the features."""
        check_classes(len(self.head.table), num_classes)
        check_temperature(temperature)
        return self.head.log_probs(self.features(), temperature)


@dataclass(frozen=True)
class EmbeddingCodec(TargetCodec):
    """The features in 8 bits (`uint8`) or in half precision (`float16`), and the classifier, table `head`.

    `uint8`: array `feature`, u8 [rows, features], and `range`, float32 [2, rows], a row's lowest value and the step
    between two codes. Read are lowest + code * step. The mean KL divergence from the teacher is about 0.00002 for a
    usual ImageNet teacher, next to nothing with `float16`.
    """

    num_classes: int
    num_features: int = 0
    dtype: str = "uint8"
    head: Head | None = None
    kind = "embedding"
    capabilities: ClassVar[Capabilities] = Capabilities("embedding targets", every_class=True, features=True)
    table_names: ClassVar[frozenset[str]] = frozenset({"head"})
    needs_features: ClassVar[bool] = True
    fixed_tables: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.num_classes < 1 or self.num_features < 1:
            raise UsageError(
                f"A teacher of {self.num_classes} classes and {self.num_features} features cannot be stored."
            )
        if self.dtype not in DTYPES:
            raise UsageError(
                f"Embedding targets of dtype '{self.dtype}' are not known; use {' or '.join(DTYPES)} (--dtype)."
            )
        size = self.table_specs()["head"].nbytes
        if size > MAX_TABLE_BYTES:
            raise UsageError(
                f"A classifier of {self.num_classes:,} classes and {self.num_features:,} features takes "
                f"{size >> 20:,} MiB, and a cache takes {MAX_TABLE_BYTES >> 20:,}: use --targets topk or "
                "full."
            )

    @property
    def kept_features(self) -> int:
        """Number of features of an image."""
        return self.num_features

    @classmethod
    def for_teacher(cls, num_classes: int, classifier: ReadClassifier, **options: Any) -> "EmbeddingCodec":
        """Return the codec with the teacher's classifier as its table."""
        weight, bias = classifier()
        codec = cls(num_classes, weight.shape[1], **options)  # refuses one that is too large before it is copied
        return replace(codec, head=Head.of(weight, bias))

    def parameters(self) -> dict[str, Any]:
        """Return the number of features, the stored data type, and the checksum of the classifier where it is known."""
        found: dict[str, Any] = {"num_features": self.num_features, "dtype": self.dtype}
        return found if self.head is None else found | {"head": self.head.checksum}

    def table_specs(self) -> dict[str, ArraySpec]:
        """Return the one table, `head`, that of a `Head`."""
        return {"head": ArraySpec("float32", (self.num_classes, self.num_features + 1), shuffle="shuffle", effort=3)}

    def tables(self) -> dict[str, np.ndarray]:
        """Return the classifier, where it is known."""
        return {} if self.head is None else {"head": self.head.table}

    def with_tables(self, tables: Mapping[str, np.ndarray]) -> "EmbeddingCodec":
        """Return the same codec with this classifier."""
        return replace(self, head=Head(tables["head"]) if "head" in tables else None)

    def keep(
        self,
        log_probs: Float[Tensor, "b c"],
        labels: Int64[Tensor, "b 2"],
        features: Float[Tensor, "b d"] | None = None,
    ) -> EmbeddingTargets:
        """Return the features, on the host. Raises ModelError also where they are not as many as there shall be."""
        found = 0 if features is None else features.shape[1]
        if features is None or found != self.num_features:
            raise ModelError(f"The teacher's output has {found} features where {self.num_features} were expected.")
        if not bool((features.abs() <= LARGEST).all()):
            raise ModelError(
                f"The teacher's features hold NaN, infinity or numbers beyond {LARGEST:,.0f}, and cannot be stored. "
                "Use --precision fp32 or bf16, check the weights, or use --targets topk or full."
            )
        return EmbeddingTargets(features.detach().to("cpu", torch.float32), None, self._known_head, labels.to("cpu"))

    def arrays(self, rows: int) -> dict[str, ArraySpec]:
        """Return the arrays of the class's docstring; labels are not stored, as the index has them."""
        shape = (rows, self.num_features)
        if self.dtype == "float16":
            return {"feature": ArraySpec("float16", shape, shuffle="shuffle", effort=1)}
        return {
            "feature": ArraySpec("uint8", shape, effort=1),  # 3 to 7 take more time and more bytes
            "range": ArraySpec("float32", (2, rows), axis=1, shuffle="shuffle"),
        }

    def encode(self, targets: Targets, rows: int) -> dict[str, np.ndarray]:
        """Return the features or their codes, padded with zeros."""
        assert isinstance(targets, EmbeddingTargets)
        count, feature = len(targets), targets.features().numpy()
        encoded = {name: np.zeros(spec.shape, spec.dtype) for name, spec in self.arrays(rows).items()}
        if self.dtype == "float16":
            encoded["feature"][:count] = feature
            return encoded
        lowest = feature.min(1)
        step = (feature.max(1) - lowest) / np.float32(255)
        code = np.rint((feature - lowest[:, None]) / np.where(step > 0, step, 1)[:, None])
        encoded["feature"][:count] = np.clip(code, 0, 255)
        encoded["range"][:, :count] = lowest, step
        return encoded

    def decode(self, arrays: Mapping[str, np.ndarray], count: int) -> EmbeddingTargets:
        """Return the features in half precision, or the codes and the scale that tells what they stand for."""
        code, scale = torch.from_numpy(arrays["feature"][:count]), None
        if self.dtype == "float16":
            sound = code.abs() <= LARGEST
        else:
            scale = torch.from_numpy(np.ascontiguousarray(arrays["range"][:, :count].T))
            sound = (scale[:, 0].abs() <= LARGEST) & (scale[:, 1] >= 0) & (255 * scale[:, 1] <= 2.001 * LARGEST)
        if not bool(sound.all()):
            raise CorruptError("The features hold numbers that are never written.")
        return EmbeddingTargets(code, scale, self._known_head, None)

    @property
    def _known_head(self) -> Head:
        if self.head is None:
            raise CorruptError("The teacher's classifier is not named, and without it features give no probabilities.")
        return self.head

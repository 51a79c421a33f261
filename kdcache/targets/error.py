"""What a codec loses: log-probabilities after a full round trip, and their divergence from the teacher's."""

from jaxtyping import Float, Int64
from torch import Tensor

from kdcache.targets.base import TargetCodec


def coded(
    codec: TargetCodec,
    log_probs: Float[Tensor, "b c"],
    labels: Int64[Tensor, "b 2"],
    features: Float[Tensor, "b d"] | None = None,
) -> Float[Tensor, "b c"]:
    """Return the log-probabilities after selection, encoding, decoding and rebuilding; on the host."""
    encoded = codec.encode(codec.select(log_probs, labels, features), len(log_probs))
    return codec.decode(encoded, len(log_probs)).with_labels(labels.cpu()).log_probs(num_classes=log_probs.shape[1])


def divergence(log_probs: Float[Tensor, "b c"], stored: Float[Tensor, "b c"]) -> Float[Tensor, "b"]:
    """Return KL(log_probs || stored) of each row, in nats, from log-probabilities; in float64."""
    return (log_probs.double().exp() * (log_probs.double() - stored.double())).sum(1).clamp(min=0)

"""What a codec loses: an answer after a full round trip, and how far it is from the answer itself."""

from jaxtyping import Float, Int64
from torch import Tensor

from kdcache.targets.base import TargetCodec


def coded(
    codec: TargetCodec,
    said: Float[Tensor, "b c"],
    labels: Int64[Tensor, "b 2"],
    features: Float[Tensor, "b d"] | None = None,
) -> Float[Tensor, "b c"]:
    """The log-probabilities that come back when `said` is kept, packed, unpacked and rebuilt; on the host."""
    packed = codec.encode(codec.select(said, labels, features), len(said))
    return codec.decode(packed, len(said)).with_labels(labels.cpu()).log_probs(said.shape[1])


def divergence(said: Float[Tensor, "b c"], stored: Float[Tensor, "b c"]) -> Float[Tensor, "b"]:
    """KL(said || stored) of each row, in nats, from log-probabilities; in float64."""
    return (said.double().exp() * (said.double() - stored.double())).sum(1).clamp(min=0)

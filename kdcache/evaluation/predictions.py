"""What a model predicts for every sample of a data set, kept once for all scores.

A few numbers a sample are kept, 80 bytes, whatever the number of classes: every score follows from them but the KL
divergence, which needs the log-probabilities of all classes. Those are kept of the reference model alone, in float32
and by each process for its own share of the samples, up to `MEMORY_LIMIT`.
"""

import math
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from kdcache.data.classes import check_labels
from kdcache.data.index import Index
from kdcache.data.lost import is_lost
from kdcache.evaluation.scores import kl_divergence
from kdcache.evaluation.scoring import Computing, eval_mode, logits_in_batches, require_images
from kdcache.models.network import Network
from kdcache.runtime.distributed import Distributed
from kdcache.runtime.ranks import Ranks

#: Bytes of log-probabilities that a process keeps. 50,000 samples of 1,000 classes have 0.2 GB; 1.28 million have 5 GB.
MEMORY_LIMIT = 4 * 2**30
#: As many of the likeliest classes of a sample are kept.
TOP = 5


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model predicts for the samples of a data set that are not lost, in the order of their numbers.

    A sample whose logits hold NaN, or an infinity that leaves no probabilities, has the classes -1, and NaN elsewhere.

    Attributes:
        samples: numbers of the samples in the index, ascending.
        labels: their labels.
        top: up to five likeliest classes of each, the likeliest first.
        log_confidence: log-probability of the likeliest class.
        label_log_prob: log-probability of the label.
        kl: KL(reference || model) in nats; None where it was not asked for.
    """

    samples: Int64[np.ndarray, "n"]
    labels: Int64[np.ndarray, "n"]
    top: Int64[np.ndarray, "n k"]
    log_confidence: Float[np.ndarray, "n"]
    label_log_prob: Float[np.ndarray, "n"]
    kl: Float[np.ndarray, "n"] | None = None

    @property
    def predicted(self) -> Int64[np.ndarray, "n"]:
        """The likeliest class of each sample; -1 for none."""
        predicted: np.ndarray = self.top[:, 0]
        return predicted

    @property
    def correct(self) -> Bool[np.ndarray, "n"]:
        """Whether the likeliest class is the label."""
        return self.predicted == self.labels

    @property
    def confidence(self) -> Float[np.ndarray, "n"]:
        """The probability of the likeliest class."""
        return np.exp(self.log_confidence.astype(np.float64))

    @property
    def invalid(self) -> int:
        """The number of samples without probabilities."""
        return int((self.predicted < 0).sum())


def share_in_batches(index: Index, ranks: Ranks, batch_size: int) -> Int64[np.ndarray, "n"]:
    """Return the samples that a process predicts, in the order of the shards; lost ones are left out.

    Each process has whole batches of those that a single process makes: so the number of processes changes no bit of
    the result on a CPU.
    """
    order = np.lexsort((index.offset, index.shard))
    order = order[~is_lost(index)[order]]
    batches = np.array_split(np.arange(-(-len(order) // batch_size)), ranks.world_size)[ranks.rank]
    if not len(batches):
        return order[:0]
    own: np.ndarray = order[batches[0] * batch_size : (batches[-1] + 1) * batch_size]
    return own


def bytes_of_log_probs(index: Index, num_classes: int, computing: Computing) -> int:
    """Return the bytes of the log-probabilities of a process's share of the samples."""
    return 4 * num_classes * len(share_in_batches(index, computing.ranks, computing.batch_size))


def predict(
    network: Network,
    index: Index,
    computing: Computing,
    *,
    name: str,
    keep: bool = False,
    reference: Float[Tensor, "m c"] | None = None,
) -> tuple[Predictions, Float[Tensor, "m c"] | None]:
    """Run a model on every sample that is not lost; several processes share the batches, and all get all predictions.

    Args:
        name: of the model, for the progress.
        keep: whether to return log-probabilities.
        reference: those that a call with the same index and `computing` has returned, to which the KL is computed.

    Returns:
        The predictions, and this process's own log-probabilities if they are kept, float32 on the CPU.

    Raises:
        UsageError, IdentityError: the data have no labels, or other classes.
        DataError: all samples are lost, or an image cannot be decoded.
    """
    require_images(index)
    check_labels(index, network.card.num_classes, network.card.class_names)
    own = share_in_batches(index, computing.ranks, computing.batch_size)
    classes = network.card.num_classes
    columns = _Columns(len(index), min(TOP, classes), has_kl=reference is not None)
    kept = torch.empty(len(own), classes) if keep else None
    done = 0
    with (
        eval_mode(network.module),
        closing(logits_in_batches(network, index, own, computing)) as batches,
        computing.progress.task(f"Evaluate {name}", total=len(own)) as task,
    ):
        for samples, logits in batches:
            rows = slice(done, done + len(samples))
            log_probs = columns.fill(samples, logits, index, None if reference is None else reference[rows])
            if kept is not None:
                kept[rows] = log_probs
            done += len(samples)
            task.advance(len(samples))
    return columns.gathered(index, computing.processes), kept


class _Columns:
    """The columns of `Predictions` for all samples of an index; of other processes' samples they hold zeros."""

    def __init__(self, samples: int, top: int, *, has_kl: bool) -> None:
        self._top = np.zeros((samples, top), np.int64)
        self._floats = np.zeros((samples, 3 if has_kl else 2), np.float64)

    def fill(
        self,
        samples: Int64[np.ndarray, "b"],
        logits: Float[Tensor, "b c"],
        index: Index,
        reference: Float[Tensor, "b c"] | None,
    ) -> Float[Tensor, "b c"]:
        """Fill in a batch; return its log-probabilities."""
        with torch.inference_mode():
            log_probs = logits.log_softmax(dim=1)
            is_invalid = log_probs.isnan().any(dim=1)
            labels = torch.from_numpy(index.label[samples].astype(np.int64)).to(logits.device)
            top = logits.topk(self._top.shape[1]).indices
            floats = [log_probs.gather(1, top[:, :1])[:, 0], log_probs.gather(1, labels[:, None])[:, 0]]
            if reference is not None:
                floats.append(kl_divergence(log_probs, reference.to(logits.device)))
            values = torch.stack([part.double() for part in floats], dim=1)
            self._top[samples] = top.masked_fill(is_invalid[:, None], -1).cpu().numpy()
            self._floats[samples] = values.masked_fill(is_invalid[:, None], math.nan).cpu().numpy()
        return log_probs

    def gathered(self, index: Index, processes: Distributed | None) -> Predictions:
        """Return the predictions of all processes."""
        top, floats = self._top, self._floats
        if processes is not None:
            top, floats = (processes.all_reduce_sum(torch.from_numpy(part)).numpy() for part in (top, floats))
        samples = np.flatnonzero(~is_lost(index))
        columns = floats[samples].T
        return Predictions(
            samples,
            index.label[samples].astype(np.int64),
            top[samples],
            columns[0],
            columns[1],
            columns[2] if len(columns) > 2 else None,
        )

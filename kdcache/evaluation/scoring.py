"""A model's score on labelled images, seen through timm's own evaluation transform."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn
from torch.nn import functional as F

from kdcache.data.classes import check_labels, data_of
from kdcache.data.index import Index
from kdcache.data.lost import is_lost
from kdcache.data.reader import SampleReader
from kdcache.errors import DataError
from kdcache.evaluation.options import DEFAULT_BATCH
from kdcache.models.network import Network
from kdcache.render.encoded import UndecodableError, broken_image, decode_rgb
from kdcache.runtime.device import autocast, share_of_cores
from kdcache.runtime.distributed import Distributed
from kdcache.runtime.prefetch import prefetch
from kdcache.runtime.progress import Progress, logged
from kdcache.runtime.ranks import Ranks


@dataclass(frozen=True, eq=False)
class Computing:
    """How a model is run: device, number format, images at a time, processes that share the work."""

    device: torch.device
    precision: str = "fp32"
    batch_size: int = DEFAULT_BATCH
    processes: Distributed | None = None
    progress: Progress = logged

    @property
    def ranks(self) -> Ranks:
        """The rank of this process; that of a single one without `processes`."""
        return self.processes.ranks if self.processes is not None else Ranks()


@dataclass(frozen=True)
class Evaluation:
    """A model's score on labelled images.

    Attributes:
        top1, top5: share of the images whose label is the likeliest class, or among the five likeliest.
        loss: mean cross entropy in nats.
        correct: whether the likeliest class is the label, for each sample of the index; False for a lost one.
        num_classes: number of the model's classes.
    """

    model: str
    samples: int
    top1: float
    top5: float
    loss: float
    correct: Bool[np.ndarray, "n"] = field(repr=False)  # of a million samples, which nobody wants to see printed
    num_classes: int

    @property
    def tells_top5(self) -> bool:
        """Whether the five likeliest classes are not simply all of them, so that top-5 says something."""
        return self.num_classes > 5

    @property
    def accuracies(self) -> str:
        """Top-1, and top-5 where it says something, as text."""
        return f"top-1 {self.top1:.2%}" + (f", top-5 {self.top5:.2%}" if self.tells_top5 else "")

    def to_json(self) -> dict[str, Any]:
        """Return the score as plain values, without those of single samples."""
        return {name: getattr(self, name) for name in ("model", "samples", "top1", "top5", "loss")}

    def lines(self) -> list[str]:
        """Return the score as a plain line."""
        return [f"{self.model}: {self.accuracies}, loss {self.loss:.4f} on {self.samples:,} images"]


def score(network: Network, index: Index, computing: Computing, *, name: str) -> Evaluation:
    """Score a model on every sample of `index` that is not lost, in the order of the shards; its mode is restored.

    The last batch is smaller; scores depend on the batch in rounding only. Several processes score a
    share each, and all of them get the score of the whole. An image whose logits are not finite counts as wrong, and
    makes the loss NaN.

    Raises:
        UsageError, IdentityError: the data have no labels, or other classes.
        DataError: all samples are lost, or an image cannot be decoded.
    """
    require_images(index)
    check_labels(index, network.card.num_classes, network.card.class_names)
    device, processes = computing.device, computing.processes
    shared = _share(index, computing.ranks)
    correct, top5 = np.zeros(len(index), bool), np.zeros(len(index), bool)
    loss = 0.0
    with (
        eval_mode(network.module),
        closing(logits_in_batches(network, index, shared, computing)) as batches,
        computing.progress.task(f"Evaluate {name}", total=len(shared)) as task,
    ):
        for samples, logits in batches:
            with torch.inference_mode():
                labels = torch.from_numpy(index.label[samples].astype(np.int64)).to(device)
                loss += F.cross_entropy(logits, labels, reduction="sum").item()
                # A maximum among NaN or several infinities is no prediction.
                is_sound = ~logits.log_softmax(dim=1).isnan().any(dim=1)
                ranked = (logits.topk(min(5, logits.shape[1])).indices == labels[:, None]) & is_sound[:, None]
                correct[samples] = ranked[:, 0].cpu().numpy()
                top5[samples] = ranked.any(dim=1).cpu().numpy()
                task.advance(len(samples))
    if processes is not None:
        loss = processes.all_reduce_sum(torch.tensor(loss, dtype=torch.float64)).item()
        correct, top5 = (
            processes.all_reduce_sum(torch.from_numpy(part.view(np.uint8))).numpy() > 0 for part in (correct, top5)
        )
    count = len(index) - len(index.lost)
    top1, in_top5 = float(correct.sum()) / count, float(top5.sum()) / count
    return Evaluation(name, count, top1, in_top5, loss / count, correct, network.card.num_classes)


def try_scoring(network: Network, index: Index, computing: Computing) -> None:
    """Score the first of this process's images, so that a failure shows before hours of training.

    Raises:
        KdcacheError: as `score` does, of this image.
    """
    require_images(index)
    first = _share(index, computing.ranks)[:1]
    with (
        eval_mode(network.module),
        closing(logits_in_batches(network, index, first, replace(computing, batch_size=1))) as batches,
    ):
        for _ in batches:
            pass


def require_images(index: Index) -> None:
    """Raise DataError if there is no sample in the data, or every one of them is lost."""
    if len(index) == len(index.lost):
        what = f"all {len(index):,} samples of {data_of(index)} are marked as lost" if len(index) else "there is none"
        raise DataError(
            f"There is no image to score: {what}. Restore the shards and check them again with `kdcache index "
            f"{index.data} --mark-bad`, or give other data."
        )


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Put a module into eval mode within the block, and back into the mode that it had."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def logits_in_batches(
    network: Network, index: Index, samples_in_order: Int64[np.ndarray, "n"], computing: Computing
) -> Generator[tuple[Int64[np.ndarray, "b"], Float[Tensor, "b c"]], None, None]:
    """Yield samples and their logits in float32 on the device, batch by batch, in the order that is given.

    The images are prepared by timm's evaluation transform with the settings of the model's card, ahead of the model.

    Raises:
        BrokenImageError: an image that cannot be decoded.
    """
    with (
        closing(SampleReader(index)) as reader,
        closing(prefetch(_images(network, index, reader, samples_in_order, computing.batch_size))) as batches,
    ):
        for samples, pixels in batches:
            with torch.inference_mode():
                with autocast(computing.precision, computing.device):
                    logits = network.compute_logits(network.normalise(pixels.to(computing.device).float()))
                logits = logits.float()
            yield samples, logits


def _share(index: Index, ranks: Ranks) -> Int64[np.ndarray, "n"]:
    """Return the samples that a process scores, in the order of the shards."""
    order = np.lexsort((index.offset, index.shard))
    return np.array_split(order[~is_lost(index)[order]], ranks.world_size)[ranks.rank]


def _images(
    network: Network, index: Index, reader: SampleReader, samples_in_order: Int64[np.ndarray, "n"], batch_size: int
) -> Generator[tuple[Int64[np.ndarray, "b"], UInt8[Tensor, "b 3 s s"]], None, None]:
    card = network.card
    # use_prefetcher leaves out the normalisation, which follows on the device as in timm's own loader.
    transform = create_transform(
        card.input_size,
        is_training=False,
        interpolation=card.interpolation,
        crop_pct=card.crop_pct,
        crop_mode=card.crop_mode,
        mean=card.mean,
        std=card.std,
        use_prefetcher=True,
    )

    def decoded(sample: int, encoded: bytes) -> UInt8[np.ndarray, "3 s s"]:
        try:
            return np.asarray(transform(decode_rgb(encoded)))
        except UndecodableError as error:
            raise broken_image(index.describe(sample), error, index.data) from error

    with ThreadPoolExecutor(share_of_cores()) as threads:
        for start in range(0, len(samples_in_order), batch_size):
            samples = samples_in_order[start : start + batch_size]
            pixels = np.stack(list(threads.map(decoded, samples.tolist(), reader.read(samples))))
            yield samples, torch.from_numpy(pixels)

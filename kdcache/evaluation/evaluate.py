"""`kdcache evaluate`: top-1, top-5 and loss on labelled images."""

from dataclasses import dataclass
from pathlib import Path

from kdcache.data.index import open_index
from kdcache.evaluation.scoring import DEFAULT_BATCH, Evaluation, score
from kdcache.models.load import load_model
from kdcache.models.source import model_source
from kdcache.runtime.device import resolve_device, resolve_precision, use_all_cores
from kdcache.runtime.progress import Progress, logged


@dataclass(frozen=True)
class EvaluateOptions:
    """The options of `evaluate`: model and weights as `model_source` takes them, and labelled shards."""

    model: str
    data: str
    weights: Path | None = None
    device: str = "auto"
    precision: str = "fp32"
    batch_size: int = DEFAULT_BATCH


def evaluate(options: EvaluateOptions, progress: Progress = logged) -> Evaluation:
    """Score one model on labelled images.

    Raises:
        KdcacheError: no such model, weights that do not fit, data without labels or with other classes.
    """
    device = resolve_device(options.device)
    precision = resolve_precision(options.precision, device)
    use_all_cores()
    source = model_source(options.model, options.weights)
    network = load_model(source.name, source.weights)
    network.module.to(device).eval()
    index = open_index(options.data, progress=progress)
    return score(
        network,
        index,
        name=options.model,
        device=device,
        precision=precision,
        batch_size=options.batch_size,
        progress=progress,
    )

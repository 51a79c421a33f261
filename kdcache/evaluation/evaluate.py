"""`kdcache evaluate`: top-1, top-5 and loss on labelled images."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from kdcache.data.index import open_index
from kdcache.errors import ModelError
from kdcache.evaluation.scoring import DEFAULT_BATCH, Evaluation, score
from kdcache.models.load import card_of, load_model
from kdcache.models.network import Network
from kdcache.models.run_weights import imports_of_run
from kdcache.models.source import model_source
from kdcache.runtime.device import resolve_device, resolve_precision, use_all_cores
from kdcache.runtime.imports import import_modules, naming_imports
from kdcache.runtime.progress import Progress, logged


@dataclass(frozen=True)
class EvaluateOptions:
    """The options of `evaluate`: model and weights as `model_source` takes them, and labelled shards.

    Attributes:
        imports: modules that are imported first.
    """

    model: str
    data: str
    weights: Path | None = None
    device: str = "auto"
    precision: str = "fp32"
    batch_size: int = DEFAULT_BATCH
    imports: tuple[str, ...] = ()


def evaluate(options: EvaluateOptions, progress: Progress = logged) -> Evaluation:
    """Score one model on labelled images.

    Raises:
        KdcacheError: no such model, weights that do not fit, data without labels or with other classes.
    """
    device = resolve_device(options.device)
    precision = resolve_precision(options.precision, device)
    use_all_cores()
    import_modules(options.imports)
    with naming_imports(lambda: _made_with(options)):
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


def _made_with(options: EvaluateOptions) -> dict[str, tuple[str, ...]]:
    paths = [Path(options.model), *([options.weights] if options.weights is not None else [])]
    return {f"The run {path}": imports_of_run(path) for path in paths}


def evaluate_module(
    module: nn.Module,
    data: str,
    *,
    image_size: int | None = None,
    precision: str = "fp32",
    batch_size: int = DEFAULT_BATCH,
    progress: Progress = logged,
) -> Evaluation:
    """Score a timm module on the device that it is on; it is left in the mode that it had.

    Args:
        image_size: pixels a side; None for the size in its own configuration.

    Raises:
        ModelError: the module does not say how many classes it has.
        KdcacheError: data without labels or with other classes.
    """
    if not isinstance(getattr(module, "num_classes", None), int):
        raise ModelError(
            f"{type(module).__name__} does not say how many classes it has: give it an attribute num_classes, as "
            "timm's models have it."
        )
    network = Network(module, card_of(module, type(module).__name__, image_size, {}))
    device = next(module.parameters()).device
    return score(
        network,
        open_index(data, progress=progress),
        name=type(module).__name__,
        device=device,
        precision=resolve_precision(precision, device),
        batch_size=batch_size,
        progress=progress,
    )

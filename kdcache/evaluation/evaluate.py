"""`kdcache evaluate`: scores of models on labelled images."""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

from kdcache.data.index import open_index
from kdcache.errors import ModelError, UsageError
from kdcache.evaluation.options import EvaluateOptions as EvaluateOptions
from kdcache.evaluation.options import EvaluateSettings as EvaluateSettings
from kdcache.evaluation.options import TableOptions as TableOptions
from kdcache.evaluation.real_labels import read_real_labels
from kdcache.evaluation.report import Scores, ScoreTable, summarise_seeds
from kdcache.evaluation.scoring import Computing
from kdcache.evaluation.table import DataSet, Scorer
from kdcache.io.json_format import parse_json
from kdcache.io.limits import MAX_BATCH, MAX_SEED, MAX_SIZE
from kdcache.io.plain_values import shown
from kdcache.io.reading import read_bytes
from kdcache.io.yaml_format import parse_yaml
from kdcache.models.card import MAX_CROP_PCT
from kdcache.models.load import card_of, load_model
from kdcache.models.network import Network
from kdcache.models.run_weights import at_epoch, imports_of_run
from kdcache.models.source import ModelSource, model_source
from kdcache.runtime.device import resolve_device, resolve_precision, use_all_cores
from kdcache.runtime.distributed import Distributed, join_processes
from kdcache.runtime.imports import import_modules, naming_imports
from kdcache.runtime.progress import Progress, logged, silent
from kdcache.runtime.ranks import Ranks

#: More bins than this have too few samples each to say anything, and only a typing error asks for them.
MAX_BINS = 10_000


@dataclass(frozen=True)
class _Named:
    """A model as it was named."""

    name: str
    weights: Path | None
    is_reference: bool = False


def evaluate(options: EvaluateOptions, progress: Progress = logged) -> Scores:
    """Score one model on labelled images. Errors are those of `evaluate_table`."""
    settings = {field.name: getattr(options, field.name) for field in dataclasses.fields(EvaluateSettings)}
    table = evaluate_table(TableOptions(models=(options.model,), data=(options.data,), **settings), progress)
    return next(row for row in table.rows if row.model == options.model)


def evaluate_table(options: TableOptions, progress: Progress = logged) -> ScoreTable:
    """Score several models on several data sets, in one process or in all that torchrun has started.

    The reference comes first, also if it is none of the models. Processes share the images, and each returns the whole
    table; on a CPU it is the table of a single process bit for bit. Where the caller has set up torch.distributed
    already, each process scores by itself.

    Raises:
        UsageError: options that make no sense.
        KdcacheError: no such model, weights that do not fit, data without labels or with other classes.
    """
    require_sane(options)
    device = resolve_device(options.device)
    precision = resolve_precision(options.precision, device)
    use_all_cores()
    import_modules(options.imports)
    models = _named(options)
    with naming_imports(lambda: _made_with(models)), _processes(device) as processes:
        progress = progress if processes.is_main else silent
        # A wrong name, and weights that do not fit, are told before an index of millions is built.
        sources = [model_source(named.name, named.weights) for named in models]
        networks = (load_network(source, options) for source in sources)
        first = next(networks)
        scorer = Scorer(
            data=_data_sets(options, progress),
            computing=Computing(device, precision, options.batch_size, processes, progress),
            reference=options.reference,
            bins=options.bins,
            seed=options.seed,
        )
        found: list[Scores] = []
        for named, network in zip(models, chain([first], networks), strict=True):
            network.module.to(device)
            found += scorer.score_model(named.name, network, is_reference=named.is_reference)
    order = list(dict.fromkeys(options.data))
    rows = sorted(found, key=lambda row: order.index(row.data))
    seeds = summarise_seeds(rows, group_by_seed(options.models))
    return ScoreTable(tuple(rows), tuple(seeds), tuple(scorer.notes))


def load_network(source: ModelSource, settings: EvaluateSettings) -> Network:
    """Load a model, with the test size and crop that were asked for; on the CPU.

    Raises:
        KdcacheError: weights that do not fit, or a size that it does not take.
    """
    network = load_model(source.name, source.weights, size=settings.size)
    return _with_crop(network, settings.crop_pct)


def evaluate_module(
    module: nn.Module,
    data: str,
    settings: EvaluateSettings,
    progress: Progress = logged,
) -> Scores:
    """Score a timm module on the device that it is on, by this process alone; it is left in the mode that it had.

    Args:
        settings: how; its device, imports and weights are not used.

    Raises:
        ModelError: the module does not say how many classes it has.
        KdcacheError: data without labels or with other classes.
    """
    if not isinstance(getattr(module, "num_classes", None), int):
        raise ModelError(
            f"{type(module).__name__} does not say how many classes it has: give it an attribute num_classes, as "
            "timm's models have it."
        )
    if settings.reference is not None:
        raise UsageError("A module is scored by itself: leave the reference out, or export the module and name it.")
    _require_ranges(settings)
    name = type(module).__name__
    network = _with_crop(Network(module, card_of(module, name, settings.size, {})), settings.crop_pct)
    device = next(module.parameters()).device
    precision = resolve_precision(settings.precision, device)
    scorer = Scorer(
        data=_data_sets(TableOptions(models=(), data=(data,), real_labels=settings.real_labels), progress),
        computing=Computing(device, precision, settings.batch_size, None, progress),
        bins=settings.bins,
    )
    return scorer.score_model(name, network)[0]


def require_sane(options: TableOptions) -> None:
    """Raise UsageError for options that make no sense, before anything is loaded."""
    if not options.models or not options.data:
        raise UsageError("An evaluation needs at least one model and one data set: name them.")
    if options.weights is not None and len(options.models) > 1:
        raise UsageError(
            "--weights belongs to one model, and several are named: evaluate that one by itself, or name a folder that "
            "holds its weights."
        )
    if options.reference_weights is not None and options.reference is None:
        raise UsageError("--reference-weights belongs to --reference: name the model that these are the weights of.")
    _require_ranges(options)


def _require_ranges(settings: EvaluateSettings) -> None:
    for option, value, least, most in (
        ("--batch-size", settings.batch_size, 1, MAX_BATCH),
        ("--size", settings.size, 1, MAX_SIZE),
        ("--bins", settings.bins, 1, MAX_BINS),
        ("--seed", settings.seed, 0, MAX_SEED),
    ):
        if value is not None and not least <= value <= most:
            raise UsageError(f"{option} is {shown(value)}: give {least:,} to {most:,}.")
    if settings.crop_pct is not None and not 0 < settings.crop_pct <= MAX_CROP_PCT:
        raise UsageError(f"--crop-pct is {settings.crop_pct}: give a share over 0 and up to {MAX_CROP_PCT:g}.")


def _with_crop(network: Network, crop_pct: float | None) -> Network:
    if crop_pct is None:
        return network
    return dataclasses.replace(network, card=dataclasses.replace(network.card, crop_pct=crop_pct))


def _named(options: TableOptions) -> list[_Named]:
    """Return the models in the order of their evaluation: the reference first, each of them once."""
    reference = None
    if options.reference is not None:
        reference = _Named(options.reference, options.reference_weights, is_reference=True)
        if options.reference in options.models and options.reference_weights != options.weights:
            raise UsageError(
                f"{options.reference} is named twice with other weights, and both would have one name in the report: "
                "name one of them by a folder that holds its weights."
            )
    others = [name for name in dict.fromkeys(options.models) if name != options.reference]
    return [*([reference] if reference else []), *(_Named(name, options.weights) for name in others)]


def _made_with(models: list[_Named]) -> dict[str, tuple[str, ...]]:
    paths = [Path(named.name) for named in models] + [named.weights for named in models if named.weights is not None]
    return {f"The run {path}": imports_of_run(path) for path in paths}


def _data_sets(options: TableOptions, progress: Progress) -> list[DataSet]:
    """Open the data sets, each once, with the several right labels of those that have them."""
    real = None if options.real_labels is None else read_real_labels(options.real_labels)
    found = []
    for name in dict.fromkeys(options.data):
        index = open_index(name, progress=progress)
        found.append(DataSet(name, index, None if real is None else real.of_index(index)))
    if real is not None and all(data.allowed is None for data in found):
        raise UsageError(
            f"{real.path} has labels of no sample of the data: a list of lists is for keys that hold "
            "ILSVRC2012_val_ and eight digits, an object of lists for its own keys."
        )
    return found


@contextmanager
def _processes(device: torch.device) -> Iterator[Distributed]:
    if distributed.is_available() and distributed.is_initialized():
        yield Distributed(Ranks(), device)
        return
    with join_processes(device) as processes:
        yield processes


def group_by_seed(models: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the groups of two or more runs whose settings are the same but for seeds, in the order of their names.

    Args:
        models: models as they were named; what is no run folder, export of one or RUN@epoch=N is in no group.
    """
    groups: dict[str, list[str]] = {}
    for model in dict.fromkeys(models):
        key = settings_but_for_seeds(model)
        if key is not None:
            groups.setdefault(key, []).append(model)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def settings_but_for_seeds(model: str) -> str | None:
    """Return the settings and the identity of the run that a model is of, without seeds; None where nothing tells.

    The seed of the student and that of the views are left out; two runs of the same group may have been trained from
    two caches that differ in it. The epoch of RUN@epoch=N counts as a setting.
    """
    run, epoch = at_epoch(Path(model)) or (Path(model), None)
    folders = [run, run.parent] if run.name == "export" or run.suffix == ".safetensors" else [run]
    for folder in folders:
        try:
            config = parse_yaml(read_bytes(folder / "config.yaml"))
            identity = parse_json(read_bytes(folder / "run_identity.json"))
        except (OSError, ValueError):
            continue
        return json.dumps([_without_seeds(config), _without_seeds(identity), epoch], sort_keys=True)
    return None


def _without_seeds(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_seeds(part) for name, part in value.items() if name != "seed"}
    return [_without_seeds(part) for part in value] if isinstance(value, list) else value

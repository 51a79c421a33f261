"""Runs that differ in their seeds alone, found by what their folders say of themselves."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kdcache.io.json_format import parse_json
from kdcache.io.reading import read_bytes
from kdcache.io.yaml_format import parse_yaml
from kdcache.models.run_weights import at_epoch

_SEED = "seed"


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
        return {name: _without_seeds(part) for name, part in value.items() if name != _SEED}
    return [_without_seeds(part) for part in value] if isinstance(value, list) else value

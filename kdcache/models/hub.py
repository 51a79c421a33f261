"""The places of timm's pretrained weights: this disk, or a hub that is asked once, with a short time-out."""

from pathlib import Path

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from timm.models import get_pretrained_cfg

from kdcache.errors import ModelError, reason
from kdcache.models.names import resolve_name
from kdcache.models.weights import Weights, read_weights

_PROBE_SECONDS = 5


def find_pretrained(name: str) -> Weights | None:
    """Return the weights of timm's `name` from the hub's cache on this disk; None where timm should fetch them.

    Raises:
        ModelError: timm knows no weights for the name, or they are on a hub that cannot be reached. The hub's
            client would try again for most of a minute; this asks once first.
    """
    repository, file, custom = _location(name)
    if repository is None:
        return None
    cached = try_to_load_from_cache(repository, file)
    if isinstance(cached, str) and not custom:
        return read_weights(Path(cached))
    try:
        if constants.HF_HUB_OFFLINE:
            raise ConnectionError("HF_HUB_OFFLINE is set")
        HfApi().model_info(repository, timeout=_PROBE_SECONDS)
    except Exception as error:
        raise ModelError(
            f"The weights of {name} are not on this disk, and {repository} cannot be had from the "
            f"Hugging Face hub ({reason(error)}): give them as a file (--weights FILE; of a "
            "student --set student.weights=FILE), or run once where the hub can be reached and bring its cache folder "
            "(HF_HOME) here."
        ) from error
    return None


def pretrained_classes(name: str) -> int | None:
    """Return the classes of timm's pretrained weights of `name` without asking the hub; None where it alone knows.

    Raises:
        ModelError: nobody knows the name.
    """
    resolved = resolve_name(name)
    cfg = None if resolved.startswith("hf-hub:") else get_pretrained_cfg(resolved)
    return int(cfg.num_classes) if cfg is not None and cfg.has_weights else None


def _location(name: str) -> tuple[str | None, str, bool]:
    """Return the hub's repository (None: not on the hub), the file in it, and whether only timm can read it."""
    if name.startswith("hf-hub:"):
        return name.removeprefix("hf-hub:").partition("@")[0], "model.safetensors", True
    cfg = get_pretrained_cfg(name)
    if cfg is None or not (cfg.hf_hub_id or cfg.url or cfg.file):
        raise ModelError(f"timm has no pretrained weights for {name}: give weights with --weights FILE.")
    return cfg.hf_hub_id, cfg.hf_hub_filename or "model.safetensors", bool(cfg.custom_load)

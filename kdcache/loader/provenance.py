"""Provenance of a block's targets: versions and devices that can change their last bits, but not their meaning."""

from collections.abc import Sequence

import timm
import torch

import kdcache
from kdcache.cache.entry import Entry
from kdcache.models.teachers import Teacher
from kdcache.render.base import Renderer
from kdcache.render.opening import renderer_version
from kdcache.runtime.device import processor_name
from kdcache.runtime.progress import Progress


def provenance_of(renderer: Renderer, teacher: Teacher) -> dict[str, str]:
    """Return the provenance that is recorded with each block: versions, device and number of threads, by name.

    Each of them can change the last bits of targets; where one differs from an earlier block, a warning says so.
    """
    device = teacher.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "kdcache": kdcache.__version__,
        "renderer": renderer.version,
        "threads": str(torch.get_num_threads()),
        "timm": timm.__version__,
        "torch": torch.__version__,
    }


def warn_of_other_provenance(entry: Entry, provenance: dict[str, str], views: int, progress: Progress) -> None:
    """Warn of each field of `provenance` that differs in stored blocks of the first `views` views."""
    for field, now in sorted(provenance.items()):
        others = {
            str(entry.record(view, block).provenance.get(field, "unknown"))
            for view in range(views)
            for block in entry.listed(view)
        } - {now}
        if others:
            progress.warn(
                f"Targets in this cache were computed with {field} {', '.join(sorted(others))}, and here it is {now}: "
                "pixels and targets can differ in the last bits."
            )


def warn_of_other_renderer(
    entries: Sequence[Entry], renderer: str, decode: str, device: torch.device, views: int, progress: Progress
) -> None:
    """Warn where stored blocks of the first `views` views were rendered by another renderer or another version."""
    here = {"renderer": renderer_version(renderer, device=device, decode=decode)}
    for entry in entries:
        warn_of_other_provenance(entry, here, views, progress)

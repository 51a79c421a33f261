"""Provenance of a block's targets: versions and devices that can change their last bits, but not their meaning."""

from collections.abc import Sequence
from contextlib import suppress

import timm
import torch

from kdcache.cache.entry import Entry
from kdcache.cache.store import Cache
from kdcache.errors import CacheError
from kdcache.models.teachers import Teacher
from kdcache.render.base import Renderer
from kdcache.render.opening import renderer_version
from kdcache.runtime.device import processor_name
from kdcache.runtime.progress import Progress
from kdcache.version import __version__

#: Field of the backend of torch.compile, which is there only where the teacher was compiled, and its value elsewhere.
_COMPILE, _NOT_COMPILED = "compile", "none"
#: Field of the modules named with --import, and what stands between two of them.
_IMPORTS, _BETWEEN = "imports", ", "


def provenance_of(renderer: Renderer, teacher: Teacher, imports: Sequence[str] = ()) -> dict[str, str]:
    """Return the provenance that is recorded with each block: versions, device, threads and compiler, by name.

    Each of them can change the last bits of targets; where one differs from an earlier block, a warning says so. The
    modules that were named with --import stand there, too, where there are any: the teacher's code may be theirs.
    """
    device = teacher.device
    return {
        **({_IMPORTS: _BETWEEN.join(imports)} if imports else {}),
        **({} if teacher.compiler is None else {_COMPILE: teacher.compiler}),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "kdcache": __version__,
        "renderer": renderer.version,
        "threads": str(torch.get_num_threads()),
        "timm": timm.__version__,
        "torch": torch.__version__,
    }


def imports_of(entry: Entry) -> tuple[str, ...]:
    """Return the modules that the first readable block of an entry was made with; none where nothing tells."""
    with suppress(CacheError):
        for view in entry.views():
            for block in sorted(entry.listed(view)):
                names = entry.record(view, block).provenance.get(_IMPORTS)
                return tuple(names.split(_BETWEEN)) if isinstance(names, str) else ()
    return ()


def imports_in(cache_path: str, *names: str) -> dict[str, tuple[str, ...]]:
    """Return the modules that entries of a cache were made with, by a description of each; none where it has none."""
    with suppress(CacheError):
        if Cache.exists(cache_path):
            cache = Cache.open(cache_path)
            there = cache.names()
            return {
                f"The teacher {name} in {cache_path}": imports_of(cache.entry(name, strict=False, tables=False))
                for name in names
                if name in there
            }
    return {}


def warn_of_other_provenance(entry: Entry, provenance: dict[str, str], views: int, progress: Progress) -> None:
    """Warn of each field of `provenance`, as `provenance_of` has it, that differs in blocks of the first `views` views.

    Modules that were imported are no such field: the same code may be had from another place.
    """
    here = {name: value for name, value in provenance.items() if name != _IMPORTS}
    _warn_of_others(entry, {_COMPILE: _NOT_COMPILED} | here, views, progress)


def _warn_of_others(entry: Entry, here: dict[str, str], views: int, progress: Progress) -> None:
    for field, now in sorted(here.items()):
        others = {
            str(entry.record(view, block).provenance.get(field, _NOT_COMPILED if field == _COMPILE else "unknown"))
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
        _warn_of_others(entry, here, views, progress)

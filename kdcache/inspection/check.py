"""`kdcache index --check`: decodes every image once, with each CPU decoder that may render it."""

from kdcache.data.check import Checked, Faults, check_index
from kdcache.errors import DeviceError
from kdcache.render import encoded
from kdcache.render.opening import renderer_version
from kdcache.runtime.progress import Progress, logged


def check(
    data: str,
    *,
    drop_bad: bool = False,
    mark_bad: bool = False,
    unlabelled: bool = False,
    renderer: str = "dali",
    progress: Progress = logged,
) -> Checked:
    """Decode every image of DATA on all cores, and find those that Pillow or DALI refuses.

    Both decode on the CPU. If DALI cannot run, a warning is logged and only Pillow is tried. A broken header counts as
    bad. A JPEG that is damaged within a scan does not: both decoders accept it without an error.

    renderer: name of the renderer of later jobs; for "pillow", DALI is not tried.

    Raises BadSamplesError and DataError as `check_index` does, and UsageError for an unknown renderer.
    """
    faults = _faults(renderer, progress)
    return check_index(data, faults, drop_bad=drop_bad, mark_bad=mark_bad, unlabelled=unlabelled, progress=progress)


def _faults(renderer: str, progress: Progress) -> Faults:
    try:
        version = renderer_version(renderer, decode="cpu")
    except DeviceError as error:
        progress.warn(
            "Only Pillow is tried, so images that only DALI refuses are not found: DALI cannot run here "
            f"({error.__cause__ or error}). Install nvidia-dali-cuda120 and check again before DALI renders them; "
            "if Pillow renders them, add --renderer pillow."
        )
        return encoded.faults
    if not version.startswith("dali"):
        return encoded.faults
    from kdcache.render.trial import faults

    return faults

"""`kdcache index --check`: every image decoded once, by each decoder on the CPU that may render it."""

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
    """Decode every image of DATA, on all cores; bad are those that Pillow or DALI refuses, and broken headers.

    Both decode on the CPU. Where DALI cannot run, a warning says so and Pillow alone is asked. A JPEG that is damaged
    within a scan is not among the bad: decoders pass over that in silence, alike.

    renderer: what the images are to be rendered by; for "pillow", DALI is not asked.

    Raises BadSamplesError and DataError as `check_index` does, and UsageError for an unknown renderer.
    """
    faults = _faults(renderer, progress)
    return check_index(data, faults, drop_bad=drop_bad, mark_bad=mark_bad, unlabelled=unlabelled, progress=progress)


def _faults(renderer: str, progress: Progress) -> Faults:
    try:
        version = renderer_version(renderer, decode="cpu")
    except DeviceError as error:
        progress.warn(
            "Only Pillow is asked, so images that DALI alone refuses are not found: DALI cannot run here "
            f"({error.__cause__ or error}). Install nvidia-dali-cuda120 and check again before DALI renders them; "
            "where Pillow does, --renderer pillow asks it alone."
        )
        return encoded.faults
    if not version.startswith("dali"):
        return encoded.faults
    from kdcache.render.trial import faults

    return faults

"""`kdcache index --check`: every image decoded once, by each decoder that may render it."""

from kdcache.data.check import Checked, Faults, check_index
from kdcache.errors import DeviceError
from kdcache.progress import Progress, silent
from kdcache.render import encoded
from kdcache.render.opening import renderer_version


def check(data: str, *, drop_bad: bool = False, unlabelled: bool = False, progress: Progress = silent) -> Checked:
    """Decode every image of DATA, on all cores; bad are those that Pillow or DALI refuses, and broken headers.

    Where DALI cannot run, a warning says so and Pillow alone is asked. A JPEG that is damaged within a scan is not
    among the bad: decoders pass over that in silence, alike.

    Raises BadSamplesError and DataError as `check_index` does.
    """
    return check_index(data, _faults(progress), drop_bad=drop_bad, unlabelled=unlabelled, progress=progress)


def _faults(progress: Progress) -> Faults:
    try:
        renderer_version("dali", decode="cpu")
    except DeviceError as error:
        progress.warn(f"Only Pillow is asked, so images that DALI alone refuses are not found. {error}")
        return encoded.faults
    from kdcache.render.trial import faults

    return faults

"""`kdcache index --check`: every image decoded once, by the decoder that renders it."""

from kdcache.data.check import Checked, check_index
from kdcache.progress import Progress, silent
from kdcache.render.encoded import fault


def check(data: str, *, drop_bad: bool = False, unlabelled: bool = False, progress: Progress = silent) -> Checked:
    """Decode every image of DATA, on all cores; bad are those that `decode_rgb` refuses, and broken headers.

    A JPEG that is damaged within a scan is not among them: decoders pass over that in silence, alike.

    Raises BadSamplesError and DataError as `check_index` does.
    """
    return check_index(data, fault, drop_bad=drop_bad, unlabelled=unlabelled, progress=progress)

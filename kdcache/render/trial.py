"""Asking every decoder that a dump or a training may use about an image: Pillow, then DALI's on the CPU.

Many processes do so at once, so nothing here imports torch, which takes hundreds of megabytes in each.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from kdcache.render.dali_graph import Graph, LostError, refused_by_dali
from kdcache.render.encoded import UndecodableError, decode_rgb, is_plain


def faults(encoded: Iterable[bytes]) -> Iterator[str | None]:
    """As `kdcache.render.encoded.faults`, and why DALI cannot show an image that Pillow can.

    DALI is asked about one image at a time: a refusal costs it its pipeline, which is then opened anew, and nothing
    else. It decodes as far as the last pixel; images that Pillow reads for it are left to Pillow.
    """
    graph = _open()
    no = np.array([False])
    for data in encoded:
        try:
            picture = decode_rgb(data)
        except UndecodableError as error:
            yield str(error)
            continue
        if not is_plain(data):
            yield None
            continue
        last = np.array([[picture.height - 1, picture.width - 1, 1, 1]], np.int32)
        try:
            graph.launch([data], last, no, no)
            graph.drop()
        except LostError as error:
            graph = _open()
            yield refused_by_dali(error)
        else:
            yield None


def _open() -> Graph:
    return Graph(size=1, max_batch=1, threads=1, gpu=None)

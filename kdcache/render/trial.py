"""Tries whether every decoder that a dump or a training may use can decode an image: Pillow, then DALI on the CPU.

Many processes do this at once, so nothing here imports torch, which takes hundreds of megabytes in each of them.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from kdcache.render.dali_graph import Graph, PipelineError, describe_refusal
from kdcache.render.encoded import UndecodableError, decode_rgb, is_plain


def faults(encoded: Iterable[bytes]) -> Iterator[str | None]:
    """For each image the reason why Pillow or DALI cannot decode it, a clause; None if both can.

    DALI gets one image at a time, because its whole pipeline fails with an image that it refuses; another pipeline is
    opened then. It decodes up to the last pixel. Images that Pillow decodes for DALI are tried with Pillow alone.
    """
    graph = _open_graph()
    no = np.array([False])
    for data in encoded:
        try:
            image = decode_rgb(data)
        except UndecodableError as error:
            yield str(error)
            continue
        if not is_plain(data):
            yield None
            continue
        last = np.array([[image.height - 1, image.width - 1, 1, 1]], np.int32)
        try:
            graph.launch([data], last, no, no)
            graph.drop()
        except PipelineError as error:
            graph = _open_graph()
            yield describe_refusal(error)
        else:
            yield None


def _open_graph() -> Graph:
    return Graph(size=1, max_batch=1, threads=1, gpu=None)

"""Images of every format, from a shard through index, plan and renderer to pixels."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdcache.data.images import IMAGE_EXTENSIONS
from kdcache.data.index import open_index
from kdcache.data.reader import SampleReader
from kdcache.render.opening import open_renderer
from kdcache.views.policy import Policy
from kdcache.views.stream import stream_views
from kdcache.views.viewset import RowRange, ViewSet
from support.image_files import FORMATS, open_rgb, pixels_alone
from support.renderer_contract import FILTERS, channels_first, difference
from support.shards import Sample, write_set

INDEXED = {kind: file for kind, (file, _) in FORMATS.items() if kind != "gif"}
ALONE = {f"one pixel of {kind}": file for kind, file in pixels_alone().items()}


def extension(kind: str) -> str:
    """The format that a kind's name tells."""
    return next(name for name in ("jpeg", "png", *IMAGE_EXTENSIONS) if name in kind)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    files = INDEXED | ALONE
    samples = [Sample(kind.replace(" ", "_"), extension(kind), file, 0) for kind, file in files.items()]
    folder: Path = tmp_path_factory.mktemp("formats")
    return str(write_set(folder, samples, shards=2))


@pytest.mark.parametrize("renderer", ["dali", "pillow"])
def test_every_format_is_indexed_and_shown_as_pillow_loads_it(data: str, renderer: str) -> None:
    index = open_index(data)
    assert len(index) == len(INDEXED) + len(ALONE)
    view_set = ViewSet(index, Policy(crop_scale=(0.3, 1.0)), 1, np.zeros(len(index), np.int32))
    spans = [RowRange(view, 0, len(index)) for view in (0, 1)]
    with closing(SampleReader(index)) as reader, open_renderer(renderer, size=48, max_batch=len(index)) as pixels:
        for views in stream_views(view_set, reader, pixels, spans):
            plan = views.rows.plan
            for row, sample in enumerate(views.rows.samples.tolist()):
                kind = index.key(sample).replace("_", " ")
                top, left, height, width = plan.box[row].tolist()
                filter = FILTERS["bicubic" if plan.cubic[row] else "bilinear"]
                wanted = shown_by_pillow(kind).crop((left, top, left + width, top + height)).resize((48, 48), filter)
                expected = channels_first(wanted)
                expected = expected.flip(2) if plan.flip[row] else expected
                off = difference(views.pixels[row].to(torch.uint8), expected)
                assert off.mean() < (0.3 if renderer == "dali" else 1e-9), kind


def shown_by_pillow(kind: str) -> Image.Image:
    """The whole image as it lies in the file: an orientation in its EXIF data is ignored."""
    return FORMATS[kind][1] if kind in FORMATS else open_rgb(ALONE[kind])

"""How far a view of policy `centre` is from timm's own evaluation: EfficientNet-Lite 0's outputs for photographs.

    python benchmarks/centre.py [--images 200]

The photographs are random parts of those that scikit-image ships. `centre` is dumped with each renderer, and the
targets of every image are compared with the output of the same weights in timm's model for the same file after timm's
evaluation transform. Prints a Markdown table. `cut first` is what `centre` was before.
"""

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor

from kdcache.cache.store import Cache
from kdcache.data.index import Index, open_index
from kdcache.data.reader import SampleReader
from kdcache.dumping.dump import dump
from kdcache.dumping.options import DumpOptions
from kdcache.loader.opening import stored_views
from kdcache.views.policies import CENTRE, FORMER_CENTRE

HEADER = "| policy | renderer | images | same top-1 | mean KL | largest KL |"
BATCH = 32


def as_timm_evaluates(index: Index, weights: Path, name: str) -> Tensor:
    """Log-probabilities of timm's model and transform, float32 [samples, classes], in the order of the index."""
    model = timm.create_model(name).eval()
    model.load_state_dict(load_file(weights))
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    parts = []
    with SampleReader(index) as reader, torch.inference_mode():
        for samples in np.array_split(np.arange(len(index)), -(-len(index) // BATCH)):
            images = [transform(Image.open(io.BytesIO(encoded)).convert("RGB")) for encoded in reader.read(samples)]
            parts.append(model(torch.stack(images)).log_softmax(1))
    return torch.cat(parts)


def as_dumped(index: Index, request: DumpOptions) -> Tensor:
    """Log-probabilities of a dump's only view, float32 [samples, classes], in the order of the index."""
    dump(request)
    cache = Cache.open(request.cache)
    (name,) = cache.names()
    entry = cache.entry(name)
    blocks = [
        entry.read_block(0, block).log_probs(num_classes=entry.identity.num_classes)
        for block in range(entry.layout.blocks)
    ]
    rows = torch.from_numpy(np.argsort(stored_views(cache, index).view_set.order(0)))
    return torch.cat(blocks)[rows]


def table(images: int, folder: Path) -> Iterator[str]:
    """The rows of the table; `folder` takes shards, weights and caches."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from support.imagenet_teacher import NAME, efficientnet_lite0, photograph_shards

    data, weights = photograph_shards(folder / "data", images), efficientnet_lite0(folder)
    index = open_index(data)
    expected = as_timm_evaluates(index, weights, NAME)
    former = folder / "former.json"
    former.write_text(json.dumps(FORMER_CENTRE.to_json()), encoding="utf-8")
    for title, policy, renderer in (
        (CENTRE, CENTRE, "dali"),
        (CENTRE, CENTRE, "pillow"),
        ("cut first", str(former), "pillow"),
    ):
        request = DumpOptions(
            teacher=NAME, data=data, cache=str(folder / f"{title}-{renderer}"), weights=weights, views=1,
            targets="full", dtype="float32", label_space="none", policy=policy, batch_size=min(BATCH, images // 2 * 2),
            device="cpu", precision="fp32", renderer=renderer,
        )  # fmt: skip
        found = as_dumped(index, request)
        same = (found.argmax(1) == expected.argmax(1)).float().mean().item()
        kl = (expected.exp() * (expected - found)).sum(1)
        yield f"| {title} | {renderer} | {images:,} | {same:.1%} | {kl.mean():.2g} | {kl.max():.2g} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200, help="how many parts of photographs")
    asked = parser.parse_args()
    print(HEADER)
    print("|---|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for line in table(asked.images, Path(folder)):
            print(line, flush=True)


if __name__ == "__main__":
    main()

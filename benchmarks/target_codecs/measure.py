"""What a codec loses and takes."""

import time
from dataclasses import dataclass
from typing import Any

import numcodecs
import numpy as np
import torch
from torch import Tensor

from kdcache.cache.record import BlockId, BlockRecord, Stored
from kdcache.cache.zarr_form import ZarrChunk
from kdcache.targets.base import TargetCodec
from kdcache.targets.class_order import ClassOrder
from kdcache.targets.kinds import create_codec
from target_codecs.sources import TeacherOutputs

#: Of a usual length: what a dump says of itself in each record.
PROVENANCE = {"renderer": "dali 2.4.0 (cpu)", "device": "NVIDIA H200", "torch": "2.12.1", "timm": "1.0.31"}
BLOCK_ID = BlockId(16 * "0", 16 * "0", view=100, block=0)


@dataclass(frozen=True)
class Result:
    """Mean KL(full || rebuilt) in nats and bytes a view: of each array, of records, and of an ideal order-0 coder."""

    name: str
    kl: float
    parts: dict[str, float]
    bound: float | None

    @property
    def total(self) -> float:
        """All bytes of a view, checksums included."""
        return sum(self.parts.values())


def divergence(full: Tensor, rebuilt: Tensor) -> float:
    """Mean KL(full || rebuilt) in nats."""
    return (full.exp() * (full - rebuilt)).sum(1).mean().item()


def plain_top_k(outputs: TeacherOutputs, k: int) -> Result:
    """Probabilities in fp16 and classes in int16, most probable first, under the best of Blosc's zstd settings."""
    full = outputs.stored
    prob, classes = full.exp().topk(k)
    tail = (1 - prob.sum(1, keepdim=True)).clamp(min=1e-9) / (full.shape[1] - k)
    rebuilt = tail.log().repeat(1, full.shape[1]).scatter_(1, classes, prob.log())
    codecs = [numcodecs.Blosc("zstd", level, shuffle) for level in (1, 5, 9) for shuffle in (0, 1, 2)]
    sizes = [
        min(len(compressor.encode(part)) for compressor in codecs)
        for part in (prob.half().numpy(), classes.short().numpy())
    ]
    return Result(f"top-{k}, fp16 + int16", divergence(full, rebuilt), {"all": sum(sizes) / len(full)}, None)


def coded(outputs: TeacherOutputs, name: str, kind: str, order: ClassOrder | None = None, **parameters: Any) -> Result:
    """Return the size and loss of one chunk of all stored rows; tables, which are stored once, are not counted."""
    full, rows = outputs.stored, len(outputs.stored)
    tables = {"order": order.table} if order is not None else None
    features = None
    if kind == "embedding":
        assert outputs.features is not None
        features, head = outputs.features
        tables, parameters = {"head": head.table}, parameters | {"num_features": features.shape[1]}
    codec = create_codec(kind, full.shape[1], tables, **parameters)
    packed = codec.encode(codec.select(full, outputs.labels, features), rows)
    rebuilt = codec.decode(packed, rows).with_labels(outputs.labels).log_probs(num_classes=full.shape[1])
    chunks = {array: ZarrChunk(spec).encode(packed[array]) for array, spec in codec.arrays(rows).items()}
    stored = {f"{array}/0": Stored.of(data) for array, data in chunks.items()}
    record = BlockRecord(stored, PROVENANCE, block_id=BLOCK_ID)
    parts = {array: len(data) / rows for array, data in chunks.items()} | {"record": len(record.to_bytes()) / rows}
    bound = entropy(packed) / rows if kind == "topk" else None
    return Result(name, divergence(full, rebuilt), parts, bound)


def entropy(packed: dict[str, np.ndarray]) -> float:
    """Bytes that an ideal coder takes which knows how often each value of each array occurs, and nothing else."""
    used = int(packed["count"].sum(dtype=np.int64))
    total = 0.0
    for name, values in packed.items():
        _, times = np.unique(values[:used] if name in ("class", "level") else values, return_counts=True)
        total -= float((times * np.log2(times / times.sum())).sum())
    return total / 8


def views_per_second(outputs: TeacherOutputs, order: ClassOrder, rows: int = 131072) -> float:
    """Chunks of a store's bytes to ragged classes and probabilities, a second of one core's time."""
    codec: TargetCodec = create_codec("topk", outputs.stored.shape[1], {"order": order.table})
    kept = codec.select(outputs.stored, outputs.labels)
    kept = type(kept).concat([kept] * -(-rows // len(kept)))[:rows]
    codecs = {name: ZarrChunk(spec) for name, spec in codec.arrays(rows).items()}
    chunks = {name: codecs[name].encode(values) for name, values in codec.encode(kept, rows).items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        best = np.inf
        for _ in range(8):
            start = time.process_time()
            codec.decode({name: codecs[name].decode(data) for name, data in chunks.items()}, rows)
            best = min(best, time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    return rows / best

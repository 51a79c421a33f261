"""Caches of a few rows, for tests."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdcache.cache.durable import LocalFiles
from kdcache.cache.entry import Entry
from kdcache.cache.identity import TeacherIdentity, ViewSetIdentity, windows_checksum
from kdcache.cache.store import Cache
from kdcache.io.disk import Disk
from kdcache.targets.base import TargetCodec, Targets
from kdcache.targets.embedding import EmbeddingCodec
from kdcache.targets.full import FullCodec
from kdcache.targets.head import Head
from kdcache.targets.topk_codec import TopKCodec
from support.targets_contract import labels_for, random_order, teacher_log_probs

SAMPLES = 11
BLOCK_ROWS = 4
CLASSES = 12
WINDOWS = np.arange(SAMPLES, dtype=np.int32) % 3

VIEW_SET = ViewSetIdentity(
    fingerprint="f" * 64,
    samples=SAMPLES,
    windows=windows_checksum(WINDOWS),
    policy={"mixup": 0.1},
    seed=7,
    block_rows=BLOCK_ROWS,
)

TOPK = TopKCodec(CLASSES, k=5, min_prob=0.01, order=random_order(CLASSES))
FULL = FullCodec(CLASSES)
#: A classifier of no weights but one for each class, so that features are logits.
EMBEDDING = EmbeddingCodec(CLASSES, CLASSES, head=Head.of(torch.eye(CLASSES), torch.zeros(CLASSES)))
PROVENANCE = {"renderer": "pillow", "software": {"torch": "2"}}


@contextmanager
def small_chunks(codec: type[TargetCodec] = FullCodec, rows: int = 2) -> Iterator[None]:
    """Meanwhile a kind of targets is stored in chunks of so few rows; a file still has those of a block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "chunk_rows", lambda self, block_rows: rows)
        yield


def identity_of(codec: TargetCodec, name: str = "teacher", **changes: Any) -> TeacherIdentity:
    """A teacher's identity that fits the codec."""
    made = TeacherIdentity(
        name=name,
        architecture="resnet18",
        weights="0123",
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.2, 0.2),
        size=224,
        precision="fp32",
        batch_size=4,
        targets=codec.identity(),
        num_classes=codec.num_classes,
    )
    return replace(made, **changes)


def labels_of(view: int, start: int, stop: int) -> np.ndarray:
    """Labels of some rows of a view, int64 [rows, 2]."""
    return labels_for(SAMPLES, CLASSES, seed=view).numpy()[start:stop]


def said(view: int, start: int, stop: int) -> torch.Tensor:
    """What the teacher says of some rows of a view."""
    return teacher_log_probs(SAMPLES, CLASSES, seed=view)[start:stop]


def kept(codec: TargetCodec, view: int, start: int, stop: int) -> Targets:
    """What is kept of that; features are the log-probabilities themselves, as `EMBEDDING` has them."""
    output = said(view, start, stop)
    return codec.select(output, torch.from_numpy(labels_of(view, start, stop)), output)


def view_set_of(samples: int) -> ViewSetIdentity:
    """A view set of the first samples."""
    return replace(VIEW_SET, samples=samples, windows=windows_checksum(WINDOWS[:samples]))


def open_entry(
    path: Path, codec: TargetCodec = TOPK, disk: Disk | None = None, samples: int = SAMPLES, **changes: Any
) -> Entry:
    """The teacher's entry in the cache at a path; both are made if they are not there."""
    files = LocalFiles(path, disk=disk)
    cache = (
        Cache.open(path, files=files)
        if Cache.exists(path)
        else Cache.create(path, view_set_of(samples), WINDOWS[:samples], files=files)
    )
    return cache.add_teacher(identity_of(codec, **changes), codec)


def fill(entry: Entry, views: int = 2) -> Entry:
    """Write every block that is missing, as a dump does."""
    for view in range(views):
        for block in sorted(set(range(entry.layout.blocks)) - entry.recorded(view)):
            start, stop = entry.layout.block_range(block)
            entry.write_block(view, block, kept(entry.codec, view, start, stop), PROVENANCE)
    return entry


def tree(path: Path) -> dict[str, bytes | None]:
    """Every file below a path, and None for every folder."""
    return {
        str(part.relative_to(path)): part.read_bytes() if part.is_file() else None for part in sorted(path.rglob("*"))
    }


def edit_attributes(path: Path, content: object) -> None:
    """Give the `zarr.json` at `path` other attributes."""
    meta = json.loads(path.read_text())
    meta["attributes"] = content
    path.write_text(json.dumps(meta))


def in_files(file_rows: int, chunk_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files have this many rows, and chunks this many of them."""
    monkeypatch.setattr(TargetCodec, "file_rows", lambda self, block_rows: file_rows)
    monkeypatch.setattr(TargetCodec, "chunk_rows", lambda self, block_rows: chunk_rows)

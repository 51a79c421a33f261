"""A reader written from docs/format.md alone: Zarr, NumPy and the standard library, nothing of kdcache's."""

import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import torch
import zarr

from kdcache.cache.layout import MAX_BLOCK_ROWS, Layout, default_block_rows
from kdcache.targets.base import TargetCodec
from kdcache.targets.embedding import EmbeddingTargets
from kdcache.targets.kinds import create_codec
from kdcache.targets.topk import TopKTargets
from support.small_cache import CLASSES, EMBEDDING, SAMPLES, TOPK, fill, open_entry
from support.targets_contract import random_order


def unsealed(value: dict[str, Any]) -> dict[str, Any]:
    content = {name: part for name, part in value.items() if name != "check"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert hashlib.blake2b(text.encode(), digest_size=8).hexdigest() == value["check"]
    return content


def digest(identity: dict[str, Any], without: str) -> str:
    content = {name: part for name, part in identity.items() if name != without}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def middle(level: np.ndarray, floor: float, bits: int) -> np.ndarray:
    step = (1 - floor**0.5) / 2**bits
    return (floor**0.5 + (level + 0.5) * step) ** 2


class Reader:
    """Outputs of a teacher, row by row."""

    def __init__(self, path: Path, name: str) -> None:
        self.root = path / "teachers" / name
        self.group = zarr.open_group(self.root, mode="r")
        view_set = unsealed(dict(zarr.open_group(path, mode="r").attrs["kdcache"]))
        teacher = unsealed(dict(self.group.attrs["kdcache"]))
        assert view_set["format"] in (3, 4)
        self.block_id = {"view_set": digest(view_set, "format"), "teacher": digest(teacher, "name")}
        self.names_blocks = view_set["format"] > 3
        self.samples, self.block_rows, self.classes = (
            view_set["samples"],
            view_set["block_rows"],
            teacher["num_classes"],
        )
        self.targets = teacher["targets"]
        for table in {"order", "head"} & self.targets.keys():
            setattr(self, table, self.group[table][:])
            check = hashlib.blake2b(self.group[table][:].tobytes(), digest_size=16).hexdigest()
            assert check == self.targets[table]

    def check_block(self, view: int, block: int) -> None:
        record = unsealed(json.loads((self.root / f"records/{view}/{block}.json").read_bytes()))
        named = {**self.block_id, "view": view, "block": block}
        assert record.get("block_id") == (named if self.names_blocks else None)
        files: dict[tuple[str, int], list[tuple[int, int]]] = {}
        for name, stored in sorted(record["chunks"].items(), key=lambda item: int(item[0].split("/")[1])):
            array, chunk = name.split("/")
            files.setdefault((array, int(chunk) // self.room(array)), []).append(stored)
        for (array, file), chunks in files.items():
            place = {"label": f"0/{file}", "range": f"0/{file}", "log_prob": f"{file}/0", "feature": f"{file}/0"}
            data = (self.root / array / f"c/{view}/{place.get(array, file)}").read_bytes()
            room, start, index = self.room(array), 0, b""
            for crc, length in chunks:
                part = data[start : start + length]
                assert (google_crc32c.value(part[:-4]), len(part)) == (crc, length)
                index += struct.pack("<QQ", start, length)
                start += length
            index += b"\xff" * 16 * (room - len(chunks))
            index += struct.pack("<I", google_crc32c.value(index))
            assert data[start:] == (index if room > 1 else b"")

    def room(self, array: str) -> int:
        """Chunks that a file of an array has room for."""
        sizes = zip(self.group[array].shards or (), self.group[array].chunks, strict=False)
        return max((shard // chunk for shard, chunk in sizes), default=1)

    def topk(self, view: int) -> list[tuple[dict[int, float], float, list[float]]]:
        """Of each row the kept classes' probabilities, the tail, and the exceptions' probabilities."""
        bits, floor = self.targets["bits"], self.targets["min_prob"]
        rows, prefix = self.group["top"].chunks[1], self.order.shape[1] if "order" in self.targets else 0
        found = []
        for chunk in range(-(-self.samples // rows)):
            self.check_block(view, chunk * rows // self.block_rows)
            part = {name: self.group[name] for name in ("top", "count", "class", "level", "tail", "label")}
            part = {name: a[view, ..., chunk * a.chunks[-1] : (chunk + 1) * a.chunks[-1]] for name, a in part.items()}
            at = 0
            for row in range(min(rows, self.samples - chunk * rows)):
                top, m = int(part["top"][row]), int(part["count"][row])
                names = np.cumsum(part["class"][at : at + m].astype(int) + 1) - 1
                q = middle(part["level"][at : at + m], floor, bits)
                at += m
                classes = [int(self.order[top, x]) if x < prefix else int(x) - prefix for x in names]
                codes = part["label"][:, row].astype(float)
                exceptions = [float(np.exp(-(code - 1) * 40 / 65534)) for code in codes if code]
                tail = 0.0 if m + 1 + len(exceptions) == self.classes else float(middle(part["tail"][row], 0, bits))
                shrink = min(1, (1 - 1e-7) / max(tail + sum(exceptions), 1e-7))
                tail, exceptions = tail * shrink, [part * shrink for part in exceptions]
                kept = 1 - tail - sum(exceptions)
                first, least = kept - q.sum(), max(1.001 * q.max(initial=0), 1e-7)
                if first < least:
                    first, q = least * kept / (least + q.sum()), q * kept / (least + q.sum())
                found.append((dict(zip([top, *classes], [first, *q], strict=True)), tail, exceptions))
        return found

    def full(self, view: int) -> np.ndarray:
        stored = self.group["log_prob"][view, : self.samples]
        for block in range(-(-self.samples // self.block_rows)):
            self.check_block(view, block)
        if self.targets["dtype"] == "float32":
            return stored
        lowest, step = self.group["range"][view][:, : self.samples, None]
        value = lowest + stored * step
        return value - np.log(np.exp(value).sum(1, keepdims=True))

    def embedding(self, view: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
        """Features, and log-probabilities at a temperature."""
        feature = self.group["feature"][view, : self.samples].astype(np.float64)
        for block in range(-(-self.samples // self.block_rows)):
            self.check_block(view, block)
        assert feature.shape[1] == self.targets["num_features"]
        if self.targets["dtype"] == "uint8":
            lowest, step = self.group["range"][view][:, : self.samples, None].astype(np.float64)
            feature = lowest + feature * step
        logit = (feature @ self.head[:, :-1].T + self.head[:, -1]) / temperature
        return feature, logit - np.log(np.exp(logit).sum(1, keepdims=True))


CODINGS = [
    TOPK,
    create_codec("topk", CLASSES, k=3, min_prob=0.0, bits=8),
    create_codec("topk", CLASSES, k=CLASSES, min_prob=0.0, bits=4),
    create_codec("topk", CLASSES, {"order": random_order(CLASSES, seed=2).table}, min_prob=0.3, bits=1),
]


@pytest.mark.parametrize("codec", CODINGS)
@pytest.mark.parametrize("chunk_rows", [4, 2])
def test_the_page_is_enough_to_read_topk(
    tmp_path: Path, codec: TargetCodec, chunk_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TargetCodec, "chunk_rows", lambda self, block_rows: chunk_rows)
    entry = fill(open_entry(tmp_path, codec))
    for view in range(2):
        found = Reader(tmp_path, "teacher").topk(view)
        expected = TopKTargets.concat([entry.read_block(view, block) for block in range(3)])  # type: ignore[list-item]
        assert len(found) == SAMPLES
        for row, (kept, tail, exceptions) in enumerate(found):
            one = expected[row : row + 1]
            assert list(kept) == one.class_id.tolist()
            assert list(kept.values()) == pytest.approx(one.prob.tolist(), rel=1e-4, abs=1e-6)
            assert tail == pytest.approx(one.tail.item(), rel=1e-4, abs=1e-6)
            assert exceptions == pytest.approx(one.label_prob[~one.label_prob.isnan()].tolist(), rel=1e-4)
            assert sum(kept.values()) + tail + sum(exceptions) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("chunk_rows", [4, 2])
def test_the_page_is_enough_to_read_full(
    tmp_path: Path, dtype: str, chunk_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TargetCodec, "chunk_rows", lambda self, block_rows: chunk_rows)
    entry = fill(open_entry(tmp_path, create_codec("full", CLASSES, dtype=dtype)))
    expected = torch.cat([entry.read_block(1, block).log_probs(num_classes=CLASSES) for block in range(3)])
    assert Reader(tmp_path, "teacher").full(1) == pytest.approx(expected.numpy(), abs=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_the_page_is_enough_to_read_embedding(tmp_path: Path, dtype: str) -> None:
    entry = fill(open_entry(tmp_path, replace(EMBEDDING, dtype=dtype)))
    expected = EmbeddingTargets.concat([entry.read_block(1, block) for block in range(3)])  # type: ignore[list-item]
    features, log_probs = Reader(tmp_path, "teacher").embedding(1, 4.0)
    assert features == pytest.approx(expected.features().numpy(), abs=1e-5)
    assert log_probs == pytest.approx(expected.log_probs(num_classes=CLASSES, temperature=4.0).numpy(), abs=1e-5)


def test_the_example_of_the_page() -> None:
    order = np.array([[1, 2, 3, 4], [0, 2, 3, 4], [0, 1, 3, 4], [1, 4, 0, 2], [0, 1, 2, 3]], np.uint8)
    codec = create_codec("topk", 5, {"order": order}, min_prob=0.01)
    said = torch.tensor([[0.2, 0.25, 0.002, 0.546, 0.002]]).log()
    packed = codec.encode(codec.select(said, torch.tensor([[-1, -1]])), 1)
    assert (packed["top"].tolist(), packed["count"].tolist(), packed["class"][:2].tolist()) == ([3], [2], [0, 1])


@pytest.mark.parametrize("classes", [1000, 21841])
@pytest.mark.parametrize(
    ("kind", "choice", "files_a_view"),
    [
        ("topk", {}, (70, 70)),
        ("topk", {"k": 1000, "min_prob": 0.0}, (70, 70)),
        ("full", {"dtype": "uint8"}, (30, 50)),
        ("full", {"dtype": "float32"}, (20, 89)),
        ("embedding", {"dtype": "uint8", "num_features": 2048}, (30, 30)),
        ("embedding", {"dtype": "float16", "num_features": 2560}, (20, 20)),
    ],
)
def test_imagenet_takes_few_files(
    kind: str, choice: dict[str, Any], files_a_view: tuple[int, int], classes: int
) -> None:
    """1.28 million images in 400 views: at most 50,000, whatever is kept."""
    samples, views = 1_281_167, 400
    codec = create_codec(kind, classes, **choice)
    rows = default_block_rows(samples)
    assert rows == MAX_BLOCK_ROWS
    layout = Layout(samples, rows, codec.file_rows(rows), codec.chunk_rows(rows))
    files = sum(len(layout.files_of(block)) for block in range(layout.blocks)) * len(codec.arrays(2)) + layout.blocks
    assert files == files_a_view[classes > 1000]
    assert files * views <= 50_000

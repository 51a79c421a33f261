"""Looking at targets takes little memory, however many lie in a chunk."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcache.cache.identity import windows_checksum
from kdcache.cache.store import Cache
from kdcache.targets.base import MAX_CHUNK_BYTES, TargetCodec, Targets
from kdcache.targets.full import FullCodec, FullTargets
from kdcache.targets.topk_codec import TopKCodec
from support.forked import run_program
from support.small_cache import VIEW_SET, identity_of

CLASSES = 1000

MOST = 100  # MiB

#: Prints by how much the most memory that a process ever had grows, in MiB.
MEASURE = """
import resource, sys
from kdcache.inspection.inspect import InspectOptions, inspect
from kdcache.inspection.verify import VerifyOptions, verify

def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

small, large = sys.argv[1:]
for path in (small, large):
    before = most()
    assert inspect(InspectOptions(path)).teachers[0].statistics is not None
    assert verify(VerifyOptions(path)).whole
print(most() - before)
"""


def full(rows: int) -> tuple[FullCodec, dict[str, np.ndarray]]:
    """Every class alike, in chunks of 7.8 MiB."""
    codec = FullCodec(CLASSES, "uint8")
    arrays = {name: np.zeros(spec.shape, spec.dtype) for name, spec in codec.arrays(rows).items()}
    arrays["range"][0] = -np.log(CLASSES)  # what code 0 stands for
    return codec, arrays


def topk(rows: int) -> tuple[TopKCodec, dict[str, np.ndarray]]:
    """The last class and the 511 first ones: 2 million classes in a chunk."""
    codec = TopKCodec(CLASSES, k=512, min_prob=0.0, bits=8)
    arrays = {name: np.zeros(spec.shape, spec.dtype) for name, spec in codec.arrays(rows).items()}
    arrays["top"][:] = CLASSES - 1
    arrays["count"][:] = codec.width - 1
    return codec, arrays


@pytest.mark.parametrize(("made", "large"), [(full, 8192), (topk, 4096)], ids=["full", "topk"])
def test_large_chunks_are_looked_at_in_parts(tmp_path: Path, made, large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, rows in (("small", 64), ("large", large)):
        codec, arrays = made(rows)
        assert max(array.nbytes for array in arrays.values()) > (0 if rows == 64 else MAX_CHUNK_BYTES * 0.45)
        monkeypatch.setattr(type(codec), "encode", lambda self, targets, rows, packed=arrays: packed)
        entry = _entry(tmp_path / name, codec, rows)
        assert entry.layout.chunk_rows == rows
        nobody: Targets = FullTargets(torch.zeros(1, 1).expand(rows, 1), None)  # what was packed is fabricated
        entry.write_block(0, 0, nobody, {})
    (tmp_path / "measure.py").write_text(MEASURE, encoding="utf-8")
    measured = run_program(["measure.py", "small", "large"], tmp_path, dict(os.environ))
    assert measured.returncode == 0, measured.stderr
    assert float(measured.stdout) < MOST


def _entry(path: Path, codec: TargetCodec, rows: int):
    windows = np.zeros(rows, np.int32)
    view_set = {"samples": rows, "block_rows": rows, "windows": windows_checksum(windows)}
    cache = Cache.create(path, type(VIEW_SET)(**(vars(VIEW_SET) | view_set)), windows)
    return cache.add_teacher(identity_of(codec), codec)

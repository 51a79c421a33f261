"""40,000 classes: more than 16 bits with a sign hold, and than a whole table of their order could have room for."""

import tracemalloc
from pathlib import Path

import numpy as np
import torch

from kdcache.cache.store import Cache
from kdcache.inspection.inspect import InspectOptions, inspect
from kdcache.inspection.verify import VerifyOptions, verify
from kdcache.targets.class_order import ClassOrder
from kdcache.targets.topk import TopKTargets
from kdcache.targets.topk_codec import TopKCodec
from support.small_cache import PROVENANCE, SAMPLES, open_entry
from support.targets_contract import labels_for, same, teacher_log_probs

CLASSES = 40_000


def test_many_classes_are_written_read_verified_and_inspected(tmp_path: Path) -> None:
    near = (np.arange(CLASSES)[:, None] + np.arange(1, 257)) % CLASSES
    codec = TopKCodec(CLASSES, k=300, min_prob=0.0, bits=8, order=ClassOrder(near.astype(np.uint16)))
    entry = open_entry(tmp_path, codec)
    kept = codec.select(teacher_log_probs(SAMPLES, CLASSES, sharpness=4.0), labels_for(SAMPLES, CLASSES))
    for block in range(entry.layout.blocks):
        start, stop = entry.layout.block_range(block)
        entry.write_block(0, block, kept[start:stop], PROVENANCE)
    del near, codec, entry
    tracemalloc.start()
    try:
        report = inspect(InspectOptions(str(tmp_path)))
        assert verify(VerifyOptions(str(tmp_path))).whole
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 150 * 2**20, "the order has 20 MB"

    entry = Cache.open(tmp_path).entry("teacher")
    blocks = [entry.read_block(0, block) for block in range(entry.layout.blocks)]
    found = TopKTargets.concat([block for block in blocks if isinstance(block, TopKTargets)])
    expected = entry.codec.decode(entry.codec.encode(kept, SAMPLES), SAMPLES)
    assert same(found, expected)
    assert int(found.class_id.max()) > 2**15
    assert torch.equal(found.class_id.sort().values, kept.class_id.sort().values)
    found.with_labels(labels_for(SAMPLES, CLASSES)).log_probs(num_classes=CLASSES)
    (teacher,) = report.teachers
    assert teacher.statistics is not None
    assert teacher.statistics.looked_at == SAMPLES
    assert teacher.statistics.kept >= 300
    assert report.once_bytes["tables"] < 20 * 2**20

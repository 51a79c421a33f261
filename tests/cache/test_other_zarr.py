"""Every array of a cache is opened and read by a Zarr library that has nothing in common with the one it is made by."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr

from kdcache.targets.base import TargetCodec
from support.small_cache import EMBEDDING, FULL, TOPK, fill, open_entry

VIEWS = 2


def arrays(path: Path) -> list[Path]:
    """The folders of all arrays below a path."""
    metas = sorted(path.rglob("zarr.json"))
    return [meta.parent for meta in metas if json.loads(meta.read_bytes())["node_type"] == "array"]


@pytest.mark.parametrize("codec", [TOPK, EMBEDDING, FULL], ids=["topk", "embedding", "float32"])
@pytest.mark.parametrize("rows", [1, 2, 4], ids="chunks of {}".format)
def test_tensorstore_reads_what_zarr_python_reads(
    tmp_path: Path, codec: TargetCodec, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TargetCodec, "chunk_rows", lambda self, block_rows: rows)
    entry = fill(open_entry(tmp_path, codec), VIEWS)
    found = {folder.relative_to(tmp_path).as_posix() for folder in arrays(tmp_path)}
    names = {*entry.codec.arrays(2), *entry.codec.tables()}
    assert found == {"windows", *(f"teachers/teacher/{name}" for name in names)}
    for folder in arrays(tmp_path):
        store = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}}
        theirs = tensorstore.open(store, open=True, read=True).result()
        ours = zarr.open_array(folder, mode="r")
        assert theirs.shape == ours.shape
        assert theirs.dtype.numpy_dtype == ours.dtype
        once = folder.name == "windows" or folder.name in entry.codec.tables()
        rows = slice(None) if once else slice(0, VIEWS)  # of a view that is not there all is the fill value
        read = theirs[rows].read().result()
        assert np.array_equal(read, ours[rows])
        assert once or np.any(read != ours.fill_value), "something is stored"

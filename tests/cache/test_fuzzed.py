"""Caches that somebody made up: whatever their files say, nobody meets anything but an error that explains itself."""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from kdcache.cache.identity import canonical, seal
from kdcache.cache.layout import record_key
from kdcache.cache.record import Stored
from kdcache.cache.store import Cache
from kdcache.cache.zarr_form import ZarrChunk
from kdcache.errors import KdcacheError
from kdcache.inspection.inspect import InspectOptions, inspect
from kdcache.inspection.verify import VerifyOptions, verify
from kdcache.targets.base import TargetCodec
from support.small_cache import CLASSES, EMBEDDING, FULL, TOPK, fill, open_entry, small_chunks

SEEDS = 4
#: Cases of each seed; more are tried where somebody has the time (CONTRIBUTING.md).
CASES = int(os.environ.get("KDCACHE_TEST_FUZZ_CASES", "60"))

#: Values that stand where another was: of a wrong type, absurdly large, or of the kind that breaks a parser.
STRANGE: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2**31, 2**40, 2**63, 2**80, 10**400, 0.5, 1e308, 5e-324, -0.0, "", "x", "\x00",
    "../../etc/passwd", "9" * 5000, [], {}, [[]], {"a": {"b": None}}, [0] * 2000, "topk", "full", "embedding",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def several_in_a_file() -> Iterator[None]:
    """Of the second teacher, a file has two chunks."""
    with small_chunks():
        yield


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "cache"
    fill(open_entry(path, TOPK, samples=6), 1)
    fill(open_entry(path, FULL, samples=6, name="other"), 1)
    fill(open_entry(path, EMBEDDING, samples=6, name="third"), 1)
    return path


def read_everything(path: Path, inspected: bool = True) -> None:
    """What a user does with a cache that he was given: `verify` opens every entry and decodes every block."""
    with suppress(KdcacheError):
        verify(VerifyOptions(str(path)))
    if inspected:
        with suppress(KdcacheError):
            inspect(InspectOptions(str(path)))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a JSON value, and a key of it."""
    if isinstance(value, dict):
        for key in value:
            yield value, key
            yield from places(value[key])
    elif isinstance(value, list):
        for number in range(len(value)):
            yield value, number
            yield from places(value[number])


def altered(rng: random.Random, value: Any) -> Any:
    """A JSON value with one part replaced, removed or added."""
    value = json.loads(json.dumps(value))
    container, key = rng.choice(list(places(value)))
    kind = rng.random()
    if kind < 0.8:
        container[key] = rng.choice(STRANGE)
    elif kind < 0.9 and isinstance(container, dict):
        del container[key]
    elif isinstance(container, dict):
        container[rng.choice(("extra", "", "check", "\x00"))] = rng.choice(STRANGE)
    return value


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    kind, place = rng.randrange(6), rng.randrange(len(data) or 1)
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data + rng.randbytes(rng.randrange(1, 40))
    if kind == 2:
        return b""
    if kind == 3:
        return rng.randbytes(rng.randrange(200))
    length = rng.randrange(1, 9) if kind == 4 else 1
    return data[:place] + rng.randbytes(length) + data[place + length :]


def mutate_metadata(rng: random.Random, path: Path) -> None:
    """With seals that fit: whoever means harm can compute them."""
    meta = json.loads(path.read_text())
    if "kdcache" in meta["attributes"] and rng.random() < 0.8:
        content = {name: part for name, part in meta["attributes"]["kdcache"].items() if name != "check"}
        content = altered(rng, content)
        try:
            meta["attributes"]["kdcache"] = seal(content)
        except ValueError:
            meta["attributes"]["kdcache"] = content
    else:
        meta = altered(rng, meta)
    path.write_text(json.dumps(meta, indent=2))


def mutate_record(rng: random.Random, path: Path) -> None:
    value = json.loads(path.read_text())
    del value["check"]
    path.write_text(canonical(seal(altered(rng, value))))


def mutate_chunk(rng: random.Random, path: Path, root: Path) -> None:
    """With checksums, in the chunk and in the record, that fit what it has become; one chunk, where a file has two."""
    key, name, array = path.relative_to(root).as_posix(), *path.relative_to(root).parts[1:3]
    entry = Cache.open(root).entry(name)
    if array in entry.codec.tables():
        path.write_bytes(checked(mutate_blosc(rng, path.read_bytes()[:-4])))
        return
    places = [(block, file) for block in range(2) for file in entry.block_files(0, block)]
    ((block, file),) = [place for place in places if place[1].key == key]
    record, whole = entry.record(0, block), path.read_bytes()
    starts = [file.start(chunk, record.chunks) for chunk in file.names]
    parts = [
        whole[start : start + record.chunks[chunk].length] for start, chunk in zip(starts, file.names, strict=True)
    ]
    changed = rng.randrange(len(parts))
    parts[changed] = checked(mutate_blosc(rng, parts[changed][:-4]))
    path.write_bytes(b"".join([*parts, file.index([len(part) for part in parts])]))
    chunks = {**record.chunks, file.names[changed]: Stored.of(parts[changed])}
    (root / record_key(name, 0, block)).write_bytes(replace(record, chunks=chunks).to_bytes())


def mutate_blosc(rng: random.Random, body: bytes) -> bytes:
    if rng.random() < 0.5:
        return mutate_bytes(rng, body)
    found, place = bytearray(body), rng.randrange(16)  # the head: versions, flags, and three lengths
    found[place : place + rng.randrange(1, 5)] = rng.randbytes(4)[: rng.randrange(1, 5)]
    return bytes(found)


def checked(body: bytes) -> bytes:
    return body + google_crc32c.value(body).to_bytes(4, "little")


def mutate_table(rng: random.Random, path: Path, root: Path) -> None:
    """With a checksum in the teacher's identity that fits what it has become."""
    name, table = path.relative_to(root).parts[1:3]
    codec: TargetCodec = {"teacher": TOPK, "third": EMBEDDING}[name]
    values = codec.tables()[table].copy()
    for place in rng.sample(range(values.size), rng.randrange(1, 5)):
        strange = rng.choice((float("nan"), float("inf"), 1e38, -65504.0, 0.0))
        values.flat[place] = strange if values.dtype.kind == "f" else rng.randrange(256)
    path.write_bytes(ZarrChunk(codec.table_specs()[table]).encode(values))
    check = hashlib.blake2b(values.tobytes(), digest_size=16).hexdigest()
    reseal(root / "teachers" / name / "zarr.json", targets={**codec.identity(), table: check})


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_cache_that_was_tampered_with_is_an_error_and_nothing_worse(sound: Path, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    root = Path(shutil.copytree(sound, tmp_path / "cache"))
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    metas = [path for path in files if path.name == "zarr.json"]
    records = [path for path in files if "records" in path.parts and path.name != "zarr.json"]
    chunks = [path for path in files if path.relative_to(root).parts[3:4] == ("c",)]
    assert metas
    assert records
    assert chunks
    for case in range(CASES):
        kind = rng.randrange(4)
        path = rng.choice((metas, records, chunks, files)[kind])
        if kind == 0:
            mutate_metadata(rng, path)
        elif kind == 1:
            mutate_record(rng, path)
        elif kind == 2 and {"order", "head"} & set(path.parts) and rng.random() < 0.5:
            mutate_table(rng, path, root)
        elif kind == 2:
            mutate_chunk(rng, path, root)
        else:
            path.write_bytes(mutate_bytes(rng, path.read_bytes()))
        read_everything(root, inspected=case % 4 == 0)
        for changed in (path, *metas, *((root / record.relative_to(root)) for record in records)):
            changed.write_bytes((sound / changed.relative_to(root)).read_bytes())
    read_everything(root)
    assert verify(VerifyOptions(str(root))).whole


def reseal(path: Path, **changes: Any) -> None:
    meta = json.loads(path.read_text())
    content = {name: part for name, part in meta["attributes"]["kdcache"].items() if name != "check"}
    meta["attributes"]["kdcache"] = seal(content | changes)
    path.write_text(json.dumps(meta, indent=2))


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("zarr.json", {"samples": 2**50}),
        ("zarr.json", {"samples": 2**40, "block_rows": 2**10}),
        ("zarr.json", {"block_rows": 2**40}),
        ("teachers/other/zarr.json", {"num_classes": 2**40}),
        ("teachers/third/zarr.json", {"num_classes": 2**40}),
        ("teachers/third/zarr.json", {"targets": {**EMBEDDING.identity(), "num_features": 2**60}}),
        ("teachers/third/zarr.json", {"targets": {**EMBEDDING.identity(), "num_features": 10**400}}),
        ("teachers/third/zarr.json", {"targets": {**EMBEDDING.identity(), "num_features": CLASSES + 1}}),
        ("teachers/third/zarr.json", {"targets": {"kind": "embedding", "dtype": "uint8", "num_features": CLASSES}}),
        ("teachers/third/zarr.json", {"targets": {"kind": "embedding"}}),
        ("teachers/teacher/zarr.json", {"num_classes": 2**40}),
        ("teachers/teacher/zarr.json", {"targets": {"kind": "topk", "k": 2**60, "min_prob": 0.0, "bits": 60}}),
        ("teachers/teacher/zarr.json", {"targets": {"kind": "topk", "k": 5, "min_prob": 10**400, "bits": 5}}),
        ("teachers/teacher/zarr.json", {"num_classes": 4_000_000}),
        ("teachers/teacher/zarr.json", {"batch_size": 2**60}),
    ],
)
def test_absurd_numbers_are_refused_before_anything_is_made_of_them(
    sound: Path, tmp_path: Path, key: str, changes: dict[str, Any]
) -> None:
    root = Path(shutil.copytree(sound, tmp_path / "cache"))
    reseal(root / key, **changes)
    assert not verify(VerifyOptions(str(root))).whole
    if key == "zarr.json":
        with pytest.raises(KdcacheError):
            inspect(InspectOptions(str(root)))
        return
    name = key.split("/")[1]
    told = inspect(InspectOptions(str(root)))
    assert list(told.problems) == [name]
    assert name not in [teacher.identity["name"] for teacher in told.teachers]
    with pytest.raises(KdcacheError):
        Cache.open(root).entry(name)


@pytest.mark.parametrize("min_prob", [5e-324, 1e-320, -0.0])
def test_thresholds_of_next_to_nothing_are_numbers_like_others(sound: Path, tmp_path: Path, min_prob: float) -> None:
    root = Path(shutil.copytree(sound, tmp_path / "cache"))
    targets = {**TOPK.identity(), "min_prob": min_prob}
    reseal(root / "teachers/teacher/zarr.json", targets=targets)
    for records in (root / "teachers/teacher/records").glob("*/"):
        shutil.rmtree(records)  # they are of an entry with another threshold
    verify(VerifyOptions(str(root)))
    assert Cache.open(root).entry("teacher").codec.identity()["min_prob"] == min_prob


def test_lists_in_lists_in_lists_are_refused(sound: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(sound, tmp_path / "cache"))
    for depth in (100, 900, 990, 5_000, 100_000):
        text = '{"zarr_format": 3, "node_type": "group", "attributes": {"kdcache": {"check": "0", "a": %s}}}'
        (root / "zarr.json").write_text(text % ("[" * depth + "]" * depth))
        assert not verify(VerifyOptions(str(root))).whole
        (root / "teachers/other/records/0/1.json").write_text("[" * depth + "]" * depth)
    shutil.copy(sound / "zarr.json", root / "zarr.json")
    assert not verify(VerifyOptions(str(root))).whole

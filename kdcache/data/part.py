"""A part of a data set: a smaller index over the same shards, with caches of its own."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64

from kdcache.data.advice import keep_data, kept_data
from kdcache.data.columns import COLUMNS, META, Source, read_meta
from kdcache.data.index import Index, load_index
from kdcache.data.index_writer import seal, write_rows
from kdcache.data.places import building, hold_index
from kdcache.data.shards import CLASSES
from kdcache.errors import DataError, UsageError
from kdcache.io.failures import cannot_write
from kdcache.runtime.progress import Progress, logged


def part_of(label: Int32[np.ndarray, " n"], fraction: float, stratified: bool) -> Int64[np.ndarray, " m"]:
    """Return the rows of a part: the first of all, or of each label, in the order of key hashes, which is a random one.

    So a part depends on the keys alone (and the labels, if stratified), and a smaller one lies within a larger one.

    label: labels of all samples in the order of their key hashes.
    stratified: whether to take `fraction` of each label's samples, rounded, at least one.
    """
    if not stratified:
        return np.arange(_count(len(label), fraction))
    by_label = np.argsort(label, kind="stable")
    _, counts = np.unique(label, return_counts=True)
    starts = np.cumsum(counts) - counts
    return np.sort(
        np.concatenate(
            [
                by_label[start : start + _count(count, fraction)]
                for start, count in zip(starts.tolist(), counts.tolist(), strict=True)
            ]
        )
    )


def _count(samples: int, fraction: float) -> int:
    return max(1, round(samples * fraction))


def write_part(
    index: Index, fraction: float, out: Path, *, stratified: bool = False, progress: Progress = logged
) -> Index:
    """Write the index of a part of `index` to the folder `out`, which `open_index` takes as DATA, and open it.

    The shards stay where they are, and the folder refers to them by paths relative to itself. Checksums and class
    names are taken over; `num_classes` stays what it was.

    Raises UsageError for a fraction outside 0..1 and for a folder that holds anything but another such part, DataError
    when it cannot be written, FolderHeldError when another process writes it.
    """
    if not 0 < fraction <= 1:
        raise UsageError(f"The fraction {fraction} is out of range: give a number above 0, up to 1.")
    out = Path(os.path.abspath(out))
    if out.exists() and "part" not in read_meta(out) and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} exists and is no part of a data set. Name another folder.")
    rows = part_of(np.asarray(index.label), fraction, stratified)
    unlabelled = bool((index.label == -1).all())
    source = Source.of(out, index.shards, unlabelled)
    names = [*COLUMNS, "key_start", "key_bytes"] + ["crc"] * (index.crc is not None)
    data = keep_data(index.opened_as or index.shards_folder, out)
    notes: dict[str, object] = {
        "part": {"of": index.fingerprint, "data": data, "fraction": fraction, "stratified": stratified}
    }
    if index.crc is not None:
        notes["left_out"] = index.left_out
    try:
        lock = hold_index(out, progress)
    except OSError as error:
        raise DataError(cannot_write(out, error, "What was there before is whole")) from error
    with lock, building(out) as folder:
        write_rows(folder, {name: getattr(index, name) for name in names}, rows)
        if index.class_names is not None:
            (folder / CLASSES).write_text(json.dumps(index.class_names, ensure_ascii=False), "utf-8")
        lost = np.flatnonzero(np.isin(rows, index.lost))
        seal(folder, source, labels=index.num_classes, lost=lost, **notes)
    part = load_index(out, source)
    if part is None:
        raise DataError(f"{out / META} changed while it was being opened. Run the command again.")
    kind = "of each class" if stratified else "of all"
    progress.say(f"selected {len(part)} of {len(index)} samples, {fraction:g} {kind}: {out}")
    return replace(part, opened_as=kept_data(data, out))

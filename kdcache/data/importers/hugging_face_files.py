"""The files of a Hugging Face data set on a disk: which belong to a split, and whether all of them are there."""

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.data.importers.tar_source import unreadable
from kdcache.errors import DataError, UsageError
from kdcache.io.json_format import parse_json
from kdcache.io.plain_values import FormatError
from kdcache.io.reading import read_bytes

#: `train-00000-of-00010.parquet`, with or without a hash behind the count.
_NUMBERED = re.compile(r"(?P<split>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})(-[0-9a-f]+)?\.parquet")
#: Folders whose names say nothing of a split.
_PLAIN_FOLDERS = frozenset({"data", "default"})
_STATE, _INFO, _SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
_EXPECTED = "Name a folder that `save_to_disk` wrote, a folder of parquet files, or a parquet file"


@dataclass(frozen=True)
class DataFiles:
    """The files of one split, in order.

    Attributes:
        folder: folder or file that the user named.
        split: name of the split; empty where nothing tells it.
        paths: files with the rows.
        are_parquet: whether these are parquet files, and not Arrow files.
    """

    folder: Path
    split: str
    paths: tuple[Path, ...]
    are_parquet: bool


def find_data_files(src: Path, split: str | None) -> DataFiles:
    """Return the files of a split. Raises UsageError where it has to be chosen, and DataError where files are missing.

    split: name of the split; None for the only one.
    """
    try:
        if src.is_file():
            if src.suffix != ".parquet":
                raise DataError(f"{src} is no parquet file by its extension. {_EXPECTED}.")
            return DataFiles(src, split or "", (src,), True)
        names = {path.name for path in src.iterdir()}
        if _SPLITS in names:
            splits = _read_json(src / _SPLITS).get("splits")
            if not isinstance(splits, list) or not all(_is_name(name) for name in splits):
                raise DataError(f"{src / _SPLITS} names no splits. Save the data set again.")
            return _saved(src / _chosen(src, splits, split), split)
        if _STATE in names:
            return _saved(src, split)
        found = sorted(path for path in src.rglob("*.parquet") if path.is_file())
    except OSError as error:
        raise unreadable(src, error) from error
    if not found:
        cached = " The Arrow files there are of its download cache: load it and call `save_to_disk`." * any(
            name.endswith(".arrow") for name in names
        )
        raise DataError(f"{src} holds no data set.{cached} {_EXPECTED}.")
    return _parquet(src, found, split)


def _saved(folder: Path, split: str | None) -> DataFiles:
    """Return the files of a folder of `Dataset.save_to_disk`."""
    state = _read_json(folder / _STATE)
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise DataError(
            f"{folder} holds a selection of rows beside the rows. Call `flatten_indices()` on the data set, and save "
            "it again."
        )
    listed = state.get("_data_files")
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in listed or ()]
    if not names or not all(_is_name(name) for name in names):
        raise DataError(f"{folder / _STATE} names no files of rows. Save the data set again.")
    own = state.get("_split")
    if split is not None and isinstance(own, str) and own != split:
        raise UsageError(f"{folder} is the split {own}. Leave out --split, or name the folder of {split}.")
    paths = tuple(folder / str(name) for name in names)
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}, which {_STATE} names, is missing. Copy the data set again.")
    return DataFiles(folder, split or (str(own) if _is_name(own) else ""), paths, False)


def _parquet(src: Path, found: list[Path], split: str | None) -> DataFiles:
    by_split: dict[str, list[Path]] = defaultdict(list)
    for path in found:
        match = _NUMBERED.fullmatch(path.name)
        parent = "" if path.parent == src or path.parent.name in _PLAIN_FOLDERS else path.parent.name
        by_split[match["split"] if match else parent].append(path)
    chosen = _chosen(src, list(by_split), split)
    paths = by_split[chosen]
    if len({path.parent for path in paths}) > 1:
        folders = ", ".join(sorted({str(path.parent.relative_to(src)) for path in paths}))
        raise DataError(f"{src} holds several data sets, in {folders}. Name the folder of one of them.")
    numbers = [match for path in paths if (match := _NUMBERED.fullmatch(path.name))]
    if numbers and [int(match["number"]) for match in numbers] != list(range(int(numbers[0]["count"]))):
        raise DataError(
            f"Of the split {chosen} in {src} {len(numbers)} of {int(numbers[0]['count'])} parquet files are there, so "
            "that images would be missing. Download the others."
        )
    return DataFiles(src, chosen or split or "", tuple(paths), True)


def _chosen(src: Path, splits: list[str], split: str | None) -> str:
    if split is None or splits == [""]:
        if len(splits) == 1:
            return splits[0]
        raise UsageError(f"{src} has the splits {', '.join(sorted(splits))}. Choose one with --split.")
    if split not in splits:
        raise UsageError(f"{src} has no split {split}, but {', '.join(sorted(splits))}. Choose one of these.")
    return split


def saved_features(files: DataFiles) -> dict[str, Any]:
    """Return what the data set says of its columns beside its rows; empty where it does not."""
    place = files.paths[0].parent / _INFO
    features = _read_json(place).get("features") if not files.are_parquet and place.is_file() else None
    return features if isinstance(features, dict) else {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = parse_json(read_bytes(path))
    except OSError as error:
        raise unreadable(path, error) from error
    except FormatError as error:
        raise DataError(f"{path} cannot be read: {error}. Save the data set again.") from error
    return value if isinstance(value, dict) else {}


def _is_name(name: object) -> bool:
    """Return whether this is the name of an entry in a folder, and leads nowhere else."""
    return isinstance(name, str) and name not in ("", ".", "..") and "/" not in name and "\0" not in name

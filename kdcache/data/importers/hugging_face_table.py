"""The tables of a Hugging Face data set, read with pyarrow: which columns are images and labels, and their values."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcache.data.importers.hugging_face_files import DataFiles, saved_features
from kdcache.errors import DataError, UsageError
from kdcache.io.json_format import parse_json
from kdcache.io.plain_values import FormatError
from kdcache.io.reading import require_regular

if TYPE_CHECKING:
    import pyarrow

#: Rows of a parquet file that are unpacked at a time.
_ROWS = 64
_FEATURES_KEY = b"huggingface"


@dataclass(frozen=True)
class Columns:
    """The columns of images and labels, and the class names that the data set lists for its labels, if it does."""

    image: str
    label: str
    class_names: tuple[str, ...] | None


def choose_columns(files: DataFiles, image: str | None, label: str | None) -> Columns:
    """Return the columns of the images and the labels.

    Raises UsageError where several columns may be meant, or none is there of a name that was given; DataError where
    pyarrow is not installed or a file cannot be read.
    """
    schema = _schema(files.paths[0], files.are_parquet)
    features = _features(schema) or saved_features(files)
    images = [name for name in schema.names if _type(features, name) == "Image"]
    images = images or [name for name in schema.names if _holds_bytes(schema.field(name).type)]
    labels = [name for name in schema.names if _type(features, name) == "ClassLabel"]
    labels = labels or [name for name in schema.names if name == "label"]
    chosen = _choose("--label", label, labels, schema.names, files.folder)
    names = features.get(chosen, {}).get("names") if _type(features, chosen) == "ClassLabel" else None
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return Columns(
        _choose("--image", image, images, schema.names, files.folder),
        chosen,
        tuple(names) if names and is_list else None,
    )


def open_table(path: Path) -> "pyarrow.Table":
    """Return the table of an Arrow file, mapped and not read. Raises DataError where it cannot be read."""
    arrow = _arrow()
    with _explained(path):
        source = arrow.memory_map(str(path))
        try:
            table = arrow.ipc.open_stream(source).read_all()
        except arrow.ArrowInvalid:  # the other of Arrow's two formats
            source.seek(0)
            table = arrow.ipc.open_file(source).read_all()
        table.validate()
        return table


def labels_in(path: Path, columns: Columns, parquet: bool) -> "pyarrow.ChunkedArray":
    """Return the column of the labels. Raises DataError where it cannot be read."""
    _arrow()
    with _explained(path):
        if not parquet:
            return open_table(path)[columns.label]
        from pyarrow.parquet import ParquetFile

        with ParquetFile(path) as file:
            return file.read([columns.label])[columns.label]


def parquet_images(path: Path, column: str) -> Iterator[Any]:
    """Yield the images of a parquet file as it holds them. Raises DataError where it cannot be read."""
    _arrow()
    from pyarrow.parquet import ParquetFile

    with _explained(path), ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS, columns=[column], use_threads=False):
            for value in batch.column(0):
                yield value.as_py()


def image_bytes(value: Any, where: str) -> bytes:
    """Return the encoded image of a row. Raises DataError where it holds none."""
    data = value.get("bytes") if isinstance(value, Mapping) else value
    if isinstance(data, bytes):
        return data
    if isinstance(value, Mapping) and value.get("path"):
        raise DataError(
            f"{where} holds the path of an image ({value['path']}) and not the image. Save the data set again with its "
            "images embedded (`save_to_disk` does so), or import the folder of the images."
        )
    raise DataError(f"{where} holds no image file. Choose the column of the images with --image.")


def _schema(path: Path, parquet: bool) -> "pyarrow.Schema":
    _arrow()
    with _explained(path):
        if not parquet:
            return open_table(path).schema
        from pyarrow.parquet import read_schema

        return read_schema(path)


def _features(schema: "pyarrow.Schema") -> dict[str, Any]:
    """Return what the library `datasets` has written into a file about its columns."""
    text = (schema.metadata or {}).get(_FEATURES_KEY)
    try:
        found = parse_json(text)["info"]["features"] if text else {}
    except (FormatError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _type(features: Mapping[str, Any], name: str) -> object:
    feature = features.get(name)
    return feature.get("_type") if isinstance(feature, Mapping) else None


def _holds_bytes(kind: "pyarrow.DataType") -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return types.is_binary(kind) or types.is_large_binary(kind)


def _choose(option: str, requested: str | None, found: list[str], names: list[str], where: Path) -> str:
    if requested is not None:
        if requested in names:
            return requested
        raise UsageError(f"{where} has no column {requested}, but {', '.join(names)}. Give one of these with {option}.")
    if len(found) == 1:
        return found[0]
    what = f"several columns may be meant ({', '.join(found)})" if found else f"no column is it (of {', '.join(names)})"
    raise UsageError(f"Of {where} {what}. Choose one with {option} COLUMN.")


def _arrow() -> Any:
    """Return the module pyarrow. Raises DataError with what to do where it is not installed."""
    try:
        import pyarrow
    except ImportError as error:
        raise DataError(
            "Data sets of Hugging Face are read with pyarrow, which is not installed. Install it "
            "(`pip install 'kdcache[hf]'`), and run the import again."
        ) from error
    return pyarrow


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Raise what pyarrow raises about a file within the block as a DataError."""
    import pyarrow

    try:
        require_regular(path)
        yield
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise DataError(
            f"{path} cannot be read by pyarrow: {reason.rstrip('.')}. It is damaged, or of another format: copy the "
            "data set again."
        ) from error

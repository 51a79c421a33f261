"""Webdataset shards of other projects, whose members or labels kdcache does not index as they are.

Such shards have images in components such as `image.jpg`, and labels in JSON, or as names of classes. They are written
as kdcache's own, with the same keys.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from kdcache.data.images import IMAGE_EXTENSIONS
from kdcache.data.importers.class_list import Labeller, read_class_list
from kdcache.data.importers.shard_import import ImportFolder, ImportOptions, random_order
from kdcache.data.importers.tar_source import TarImage, TarImages
from kdcache.data.member_names import LABEL, split_name
from kdcache.data.places import is_url
from kdcache.data.shard_file import ShardFile
from kdcache.data.shards import CLASSES, expand_data, open_shard
from kdcache.data.tar import Member, members
from kdcache.data.writer import require_no_shards
from kdcache.errors import DataError, UsageError
from kdcache.io.json_format import parse_json
from kdcache.io.plain_values import FormatError
from kdcache.runtime.progress import Progress, logged
from kdcache.runtime.workers import in_threads

#: Bytes of a label as text, and of a JSON file that holds one.
_MAX_TEXT, _MAX_JSON = 2**12, 2**24
_SHOWN = 5


@dataclass(frozen=True)
class Components:
    """Where a sample has its image and its label.

    Attributes:
        image: component of the image, such as "image.jpg"; None for the only one that is an image by its extension.
        label: component of the label, such as "cls", "txt" or "json"; None for samples without labels.
        path: names that lead to the label within a component of JSON; empty if the component is the label as text.
    """

    image: str | None
    label: str | None
    path: tuple[str, ...] = ()

    @classmethod
    def of(cls, image: str | None, label: str | None) -> "Components":
        """Return the components for the options --image and --label (`cls`, `txt`, `json:FIELD`, `json:A.B`).

        Raises UsageError for a component of JSON without a field.
        """
        if label is None:
            return cls(image.lower() if image else None, None)
        component, colon, path = label.partition(":")
        names = tuple(path.split(".")) if path else ()
        if component.rpartition(".")[2].lower() == "json" and not path:
            raise UsageError(f"--label {label} does not tell which field is the label: write {component}:FIELD.")
        if not component or (colon and not all(names)) or (colon and not names):
            raise UsageError(f"--label {label} names no component: write cls, txt or json:FIELD.")
        return cls(image.lower() if image else None, component.lower(), names)


@dataclass
class _Sample:
    """The members of one key, as they come together."""

    images: dict[str, Member] = field(default_factory=dict)
    label: Member | None = None
    others: list[str] = field(default_factory=list)


def import_webdataset(
    data: str,
    out: Path,
    *,
    image: str | None = None,
    label: str | None = LABEL,
    classes: Path | None = None,
    options: ImportOptions | None = None,
    progress: Progress = logged,
) -> int:
    """Write the images of webdataset shards to shards of kdcache in `out`, in random order, and return their number.

    Args:
        data: folder of plain tars, one tar or a brace pattern, on a file system.
        image: component of the image, such as "image.jpg"; None for the only one that is an image by its extension.
        label: component of the label, "cls" or "txt", or "json:FIELD" for a field within JSON ("json:a.b" for one
            within another); None for samples without labels. A label is a number, or a name in the list of classes.
        classes: list of class names in the order of the labels; None for the shards' own `classes.json`, if any.
        options: seed, resizing and threads.

    Raises:
        UsageError: options that name no component, and shards that are not on a file system.
        DataError: a shard is damaged, a sample has no image or several, or no label, or a key comes twice.
        FolderHeldError: another process writes `out`.
    """
    options = options or ImportOptions()
    components = Components.of(image, label)
    if is_url(data):
        raise UsageError(f"{data} is not on a file system, and an import reads in random order. Copy it here first.")
    require_no_shards(out)
    shards = expand_data(data)
    own = Path(shards[0]).parent / CLASSES
    class_names = read_class_list(classes or own) if classes is not None or own.is_file() else None
    with ImportFolder(out, progress) as folder:
        images: list[TarImage] = []
        passed_over: Counter[str] = Counter()
        scan = partial(_scan, components=components, labeller=Labeller(class_names))
        with progress.task("listing", total=len(shards), unit="shards") as task:
            for number, (found, others) in enumerate(in_threads(scan, shards, options.workers)):
                images += [one._replace(tar=number) for one in found]
                passed_over += others
                task.advance()
        if not images:
            raise DataError(f"There is no image in {data}. Name webdataset shards with images.")
        if passed_over:
            listed = ", ".join(f"{count:,} {name}" for name, count in passed_over.most_common(_SHOWN))
            progress.say(f"members that are neither the image nor the label stay out: {listed}")
        samples = TarImages(shards, images)
        order = random_order([one.key for one in images], options.seed)
        count = folder.write(samples, order, class_names, options)
        progress.say(f"imported {count} images from {data} into {out}")
        return count


def _scan(shard: str, components: Components, labeller: Labeller) -> tuple[list[TarImage], Counter[str]]:
    """Return the images of a shard with their labels, and the number of other members by component."""
    samples: dict[str, _Sample] = {}
    others: Counter[str] = Counter()
    with open_shard(shard) as file:
        for member in members(shard, file):
            split = split_name(member.name)
            if split is None:
                others["without a key"] += 1
                continue
            key, component = split
            sample = samples.setdefault(key, _Sample())
            if component in sample.images or (component == components.label and sample.label is not None):
                raise DataError(f"{member.name} is twice in {shard}. Leave one out, and write the shard again.")
            if component == components.label:
                sample.label = member
            elif _is_image(component, components.image):
                sample.images[component] = member
            else:
                sample.others.append(component)
                others[component] += 1
        return [
            _as_image(key, sample, shard, components, _label(key, sample, file, shard, components, labeller))
            for key, sample in samples.items()
        ], others


def _is_image(component: str, wanted: str | None) -> bool:
    return component == wanted if wanted else component.rpartition(".")[2] in IMAGE_EXTENSIONS


def _as_image(key: str, sample: _Sample, shard: str, components: Components, label: int | None) -> TarImage:
    if len(sample.images) != 1:
        names = ", ".join(sample.images) or f"none (it has {', '.join(sample.others[:_SHOWN]) or 'nothing else'})"
        raise DataError(
            f"The sample {key} in {shard} should have one image and has {names}. Give --image COMPONENT, such as "
            f"--image {next(iter(sample.images), components.image or 'image.jpg')}, or write the shard again."
        )
    ((component, member),) = sample.images.items()
    extension = component.rpartition(".")[2]
    if extension not in IMAGE_EXTENSIONS:
        raise UsageError(f"--image {component} is no image by its extension: these are {', '.join(IMAGE_EXTENSIONS)}.")
    return TarImage(0, member.offset, member.length, member.name, key, extension, label)


def _label(
    key: str, sample: _Sample, file: ShardFile, shard: str, components: Components, labeller: Labeller
) -> int | None:
    if components.label is None:
        return None
    where = f"The sample {key} in {shard}"
    if sample.label is None:
        raise DataError(
            f"{where} has no label: there is no {key}.{components.label}; it has "
            f"{', '.join([*sample.images, *sample.others][:_SHOWN])}. Give --label COMPONENT or --label json:FIELD, or "
            "--unlabelled for losses that need no labels."
        )
    limit = _MAX_JSON if components.path else _MAX_TEXT
    if sample.label.length > limit:
        raise DataError(f"{sample.label.name} in {shard} has {sample.label.length:,} bytes, too many for a label.")
    data = file.read(sample.label.length, sample.label.offset)
    try:
        value = _within(parse_json(data), components.path) if components.path else data.decode("utf-8")
    except (FormatError, UnicodeError) as error:
        raise DataError(f"{sample.label.name} in {shard} cannot be read: {error}. Write the shard again.") from error
    except KeyError as error:
        raise DataError(
            f"{sample.label.name} in {shard} has no field {'.'.join(components.path)}: {error.args[0]} is missing. "
            "Give --label json:FIELD with one that all have."
        ) from error
    return labeller.label(value, where)


def _within(value: Any, path: tuple[str, ...]) -> Any:
    """Return the field to which names lead. Raises KeyError with the first name that is missing."""
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            raise KeyError(name)
        value = value[name]
    return value

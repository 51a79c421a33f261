"""`kdcache preview`: a contact sheet of views of some images, with a teacher's likeliest classes if cached."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from PIL import ImageDraw, ImageFont

from kdcache.cache.entry import Entry
from kdcache.cache.store import Cache
from kdcache.data.index import Index, key_hash, open_index
from kdcache.data.reader import SampleReader
from kdcache.errors import DataError, RunError, UsageError
from kdcache.inspection.contact_sheet import CaptionedImage, Cell, Sheet, require_format, write_sheet
from kdcache.inspection.options import PreviewOptions as PreviewOptions
from kdcache.io.failures import cannot_write
from kdcache.io.folder_lock import hold_beside
from kdcache.loader.opening import new_views, views_for_dump
from kdcache.render.encoded import UndecodableError, broken_image, decode_rgb
from kdcache.render.opening import open_renderer
from kdcache.runtime.formatting import format_count
from kdcache.runtime.progress import Progress, logged
from kdcache.views.plan import describe_changes, describe_crop, describe_mixing
from kdcache.views.policies import DEFAULT, describe_policy, load_policy
from kdcache.views.stream import stream_views
from kdcache.views.viewset import RowIndices, Rows, ViewSet

_TOP = 3  # likeliest classes that are shown
_COLOURS = ((230, 60, 50), (40, 120, 220), (30, 160, 80), (230, 150, 20), (150, 70, 200), (20, 170, 180))


def preview(options: PreviewOptions, progress: Progress = logged) -> Path:
    """Write the contact sheet and return its path: a line for each image, a column for each view.

    A mixed view is shown beside its partner. Below each are its plan and the teacher's likeliest classes.

    Raises:
        UsageError: an unknown format or teacher.
        DataError: a key that no sample has.
        IdentityError: the cache belongs to other data, or to another policy or seed.
        FolderHeldError: another process writes the same file.
    """
    require_format(options.out)
    if options.teacher is not None and options.cache is None:
        raise UsageError("--teacher names an entry of a cache: give --cache too.")
    remedy = "Wait until it has ended, or give another --out."
    try:
        lock = hold_beside(options.out, f"The file {options.out}", remedy, progress.say)
    except OSError as error:
        raise RunError(cannot_write(options.out, error, "An existing file is unchanged")) from error
    with lock:
        return _preview(options, progress)


def _preview(options: PreviewOptions, progress: Progress) -> Path:
    sheet = build_sheet(options, progress)
    write_sheet(sheet, options.out)
    images = format_count(len(sheet.lines), "image")
    progress.say(f"{images} in {format_count(options.views, 'view')}: {options.out}")
    return options.out


def build_sheet(options: PreviewOptions, progress: Progress = logged) -> Sheet:
    """Return the contact sheet without writing it; errors are those of `preview`."""
    index = open_index(options.data, progress=progress)
    entry = None
    if options.cache is not None:
        cache = Cache.open(options.cache)
        view_set = views_for_dump(options.cache, index, options.policy, options.seed, progress).view_set
        entry = _entry(cache, options.teacher)
    else:
        view_set = new_views(index, load_policy(options.policy or DEFAULT), options.seed or 0, progress).view_set
    samples = _samples(view_set, options)
    return _sheet(view_set, samples, options, options.size or view_set.policy.reference_size, entry)


def _entry(cache: Cache, name: str | None) -> Entry | None:
    names = cache.names()
    if name is None and len(names) > 1:
        raise UsageError(f"The cache holds the teachers {', '.join(names)}: choose one with --teacher.")
    if name is not None and name not in names:
        raise UsageError(f"The cache holds no teacher {name!r}; it holds {', '.join(names) or 'none'}.")
    return cache.entry(name or names[0]) if names else None


def _samples(view_set: ViewSet, options: PreviewOptions) -> Int64[np.ndarray, " n"]:
    """Return the positions of the images to show in the index."""
    index = view_set.index
    if not options.samples:
        order = view_set.order(0)
        # Every other row first: its partner is shown beside it anyway.
        return np.concatenate([order[::2], order[1::2]])[: options.images]
    hashes = np.array([key_hash(key) for key in options.samples], np.uint64)
    places = np.searchsorted(index.key_hash, hashes).clip(max=len(index) - 1)
    for key, place in zip(options.samples, places.tolist(), strict=True):
        if index.key(place) != key:
            raise DataError(f"No sample has the key {key!r}; an existing key is {index.key(0)!r}. Check --sample.")
    return places.astype(np.int64)


def _sheet(
    view_set: ViewSet, samples: Int64[np.ndarray, " n"], options: PreviewOptions, size: int, entry: Entry | None
) -> Sheet:
    columns = [_View.of(view_set, view, samples) for view in range(options.views)]
    with (
        SampleReader(view_set.index) as reader,
        open_renderer(options.renderer, size=size, max_batch=2 * len(samples)) as renderer,
        closing(stream_views(view_set, reader, renderer, [column.rows for column in columns])) as stream,
    ):
        cells = []
        for column, views in zip(columns, stream, strict=True):
            classes = _likeliest_classes(view_set.index, entry, column, views.rows) if entry is not None else {}
            shown = views.pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
            cells.append([_cell(view_set.index, views.rows, shown, at, classes) for at in column.places])
        originals = reader.read(samples)
    lines = []
    for number, (sample, encoded) in enumerate(zip(samples.tolist(), originals, strict=True)):
        boxes = [view_set.rows(column.rows).plan.shown_box()[column.places[number]] for column in columns]
        original = _original(view_set.index, sample, encoded, boxes, max(size, 192))
        lines.append((Cell((original,)), *(column[number] for column in cells)))
    title = [
        f"Views of {options.data}",
        f"policy {describe_policy(view_set.policy, view_set.seed)}, {size} pixels",
        _units(size, view_set.policy.reference_size),
    ]
    if entry is not None:
        title.append(f"likeliest classes of {entry.identity.name}, in blue")
    headings = ("image", *(f"view {view}" for view in range(options.views)))
    return Sheet(tuple(title), headings, tuple(lines))


def _units(size: int, reference_size: int) -> str:
    """Return the units of the numbers below the images."""
    view = "the view"
    if size != reference_size:
        view = f"a {reference_size} x {reference_size} view, scaled to {size} x {size}"
    return f"crops are in pixels of the image; other distances are in pixels of {view}"


@dataclass(frozen=True, eq=False)
class _View:
    """The rows of one view that hold the chosen samples, with their partners.

    Attributes:
        rows: row indices, pair by pair.
        places: position of each sample in `rows`.
    """

    rows: RowIndices
    places: tuple[int, ...]

    @classmethod
    def of(cls, view_set: ViewSet, view: int, samples: Int64[np.ndarray, " n"]) -> "_View":
        order = view_set.order(view)
        found = np.flatnonzero(np.isin(order, samples))
        row_of = dict(zip(order[found].tolist(), found.tolist(), strict=True))
        pairs = np.unique(found // 2)  # ascending: an odd last row comes last
        rows = np.stack([2 * pairs, 2 * pairs + 1], axis=1).reshape(-1)
        rows = rows[rows < len(order)]
        places = tuple(int(np.searchsorted(rows, row_of[sample])) for sample in samples.tolist())
        return cls(RowIndices(np.full_like(rows, view), rows), places)


def _cell(
    index: Index, rows: Rows, pixels: UInt8[np.ndarray, "b s s 3"], at: int, classes: dict[int, tuple[str, ...]]
) -> Cell:
    def image(place: int, *first: str) -> CaptionedImage:
        caption = (*first, describe_crop(rows.plan, place), *describe_changes(rows.plan, place))
        return CaptionedImage(pixels[place], caption, classes.get(place, ()))

    if at // 2 == len(rows.plan.weight) or rows.plan.weight[at // 2] == 1:
        return Cell((image(at),))
    partner = at ^ 1
    name = f"with {_name(index, int(rows.samples[partner]))}"
    return Cell((image(at, describe_mixing(rows.plan, at // 2)), image(partner, name)))


def _likeliest_classes(index: Index, entry: Entry, column: _View, rows: Rows) -> dict[int, tuple[str, ...]]:
    """Return the likeliest classes of each row that the cache holds, by its place in the column."""
    layout, own_labels = entry.layout, entry.identity.label_space == "teacher"
    names = index.class_names if own_labels else None
    found: dict[int, tuple[str, ...]] = {}
    listed = {view: entry.surely_listed(view) for view in set(column.rows.view.tolist())}
    for place, (view, row) in enumerate(zip(column.rows.view.tolist(), column.rows.row.tolist(), strict=True)):
        chunk = row // layout.chunk_rows
        if layout.block_of(chunk) not in listed[view]:
            found[place] = ("no targets yet",)
            continue
        at = row - chunk * layout.chunk_rows
        labels = torch.from_numpy(rows.labels[place : place + 1])
        targets = entry.read_chunk(view, chunk)[at : at + 1]
        targets = targets.with_labels(labels if own_labels else torch.full_like(labels, -1))
        found[place] = _likeliest(targets.log_probs(num_classes=entry.codec.num_classes)[0].exp().numpy(), names)
    return found


def _likeliest(probabilities: Float32[np.ndarray, " c"], names: Sequence[str] | None) -> tuple[str, ...]:
    order = np.argsort(-probabilities, kind="stable")[:_TOP].tolist()
    return tuple(
        f"{probabilities[number]:.0%} {names[number] if names is not None else f'class {number}'}" for number in order
    )


def _original(index: Index, sample: int, encoded: bytes, boxes: Sequence[np.ndarray], size: int) -> CaptionedImage:
    """Return the whole image with the crop of each view drawn into it."""
    try:
        image = decode_rgb(encoded)
    except UndecodableError as error:
        raise broken_image(index.describe(sample), error, index.data) from error
    height, width = image.height, image.width
    scale = size / max(height, width)
    image = image.resize((max(1, round(width * scale)), max(1, round(height * scale))))
    canvas, font = ImageDraw.Draw(image), ImageFont.load_default(size=14)
    for number, box in enumerate(boxes):
        top, left, tall, wide = (float(edge) * scale for edge in box)
        corners = (left, top, left + wide - 1, top + tall - 1)
        colour = _COLOURS[number % len(_COLOURS)]
        canvas.rectangle(corners, outline=colour, width=2)
        canvas.text((left + 5, top + 2), str(number), fill=colour, font=font, stroke_width=1, stroke_fill="white")
    return CaptionedImage(np.asarray(image), (_name(index, sample), f"{height} x {width} pixels"))


def _name(index: Index, sample: int) -> str:
    """Return a sample's key, its class, and "lost" if a grey image is shown in its place."""
    label, details = int(index.label[sample]), []
    if label >= 0:
        details.append(index.class_names[label] if index.class_names is not None else f"class {label}")
    if sample in index.lost:
        details.append("lost")
    return f"{index.key(sample)} ({', '.join(details)})" if details else index.key(sample)

"""The gallery: views of some images with the likeliest classes of the teacher and of the students."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8

from kdcache.data.index import open_index
from kdcache.errors import KdcacheError, printable
from kdcache.evaluation.scoring import eval_mode
from kdcache.inspection.contact_sheet import CaptionedImage, Sheet, printable_sheet, to_data_url
from kdcache.inspection.preview import PreviewOptions, build_sheet
from kdcache.models.load import load_model
from kdcache.models.network import Network
from kdcache.models.source import model_source
from kdcache.report.parts import Figure, Gallery
from kdcache.report.runs import RunRecord
from kdcache.runtime.progress import Progress, logged

#: Images and views of each that are shown.
IMAGES, VIEWS = 4, 3
#: Likeliest classes of a student that are shown, as many as preview shows of the teacher.
_TOP = 3
#: Students whose classes are shown below each view; more would make the captions longer than the images.
MOST_STUDENTS = 4


@dataclass(frozen=True)
class GalleryOptions:
    """Where the views of the gallery come from.

    Attributes:
        data: shards of the cache.
        teacher: name of the entry; None for the only one.
    """

    cache: str
    data: str
    teacher: str | None
    renderer: str


@dataclass(frozen=True, eq=False)
class _Student:
    name: str
    network: Network


def build_gallery(options: GalleryOptions, runs: Sequence[RunRecord], progress: Progress = logged) -> Gallery:
    """Return the gallery. Students are those runs that have exported weights.

    Raises:
        KdcacheError: cache, shards or weights cannot be read, or do not belong together.
    """
    students, notes = _load(runs)
    preview = PreviewOptions(
        data=options.data,
        out=Path("gallery.html"),  # is not written
        cache=options.cache,
        teacher=options.teacher,
        images=IMAGES,
        views=VIEWS,
        renderer=options.renderer,
    )
    sheet = printable_sheet(build_sheet(preview, progress))
    names = open_index(options.data, progress=progress).class_names
    # The last line of the title tells of the colour that classes have on a contact sheet.
    return Gallery((*sheet.title[1:3], *notes), _lines(sheet, students, options.teacher, names))


def _load(runs: Sequence[RunRecord]) -> tuple[list[_Student], list[str]]:
    students: list[_Student] = []
    notes: list[str] = []
    for run in runs:
        if not run.has_weights:
            notes.append(f"{run.name} has no exported weights yet, so its classes are not shown.")
        elif len(students) == MOST_STUDENTS:
            notes.append(f"Classes of the first {MOST_STUDENTS} students are shown; {run.name} comes after them.")
        else:
            source = model_source(str(run.folder))
            students.append(_Student(run.name, load_model(source.name, source.weights)))
    return students, notes


def _lines(
    sheet: Sheet, students: Sequence[_Student], teacher: str | None, names: Sequence[str] | None
) -> tuple[tuple[tuple[str, tuple[Figure, ...]], ...], ...]:
    lines = []
    for line in sheet.lines:
        cells = []
        for number, (heading, cell) in enumerate(zip(sheet.columns, line, strict=True)):
            shown = students if number else ()  # the first is the whole image, which no model was shown
            figures = [_figure(heading, image, shown, teacher or "teacher", names) for image in cell.images]
            cells.append((heading, tuple(figures)))
        lines.append(tuple(cells))
    return tuple(lines)


def _figure(
    heading: str, image: CaptionedImage, students: Sequence[_Student], teacher: str, names: Sequence[str] | None
) -> Figure:
    height, width = image.pixels.shape[:2]
    classes = [(printable(teacher), image.classes)] if image.classes else []
    classes += [(student.name, _classes(student, image.pixels, names)) for student in students]
    alt = f"{heading}: {', '.join(image.caption)}"
    return Figure(to_data_url(image.pixels), width, height, alt, image.caption, tuple(classes))


def _classes(student: _Student, pixels: UInt8[np.ndarray, "h w 3"], names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the likeliest classes of a view in 8 bits a channel, as it is shown."""
    try:
        prob = _probabilities(student.network, pixels)
    except (KdcacheError, RuntimeError, ValueError) as error:
        return (printable(f"cannot be told: {error}")[:200],)
    own = student.network.card.class_names or names
    top = prob.topk(min(_TOP, len(prob)))
    return tuple(
        printable(f"{value:.0%} {own[number] if own and number < len(own) else f'class {number}'}")
        for value, number in zip(top.values.tolist(), top.indices.tolist(), strict=True)
    )


def _probabilities(network: Network, pixels: UInt8[np.ndarray, "h w 3"]) -> Float[torch.Tensor, "c"]:
    views = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    size = network.card.size
    if views.shape[-2:] != (size, size):
        views = F.interpolate(views, (size, size), mode="bilinear", antialias=True)
    with eval_mode(network.module), torch.inference_mode():
        prob: torch.Tensor = network.compute_logits(network.normalise(views))[0].float().softmax(0)
    return prob

"""The contact sheet shows the very views, their partners, and what the teacher said."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdcache.cache.store import Cache
from kdcache.data.index import open_index
from kdcache.data.reader import SampleReader
from kdcache.dumping.dump import dump
from kdcache.errors import DataError, IdentityError, KdcacheError, UsageError
from kdcache.inspection.contact_sheet import CaptionedImage, Cell, Sheet, write_sheet
from kdcache.inspection.preview import PreviewOptions, preview
from kdcache.loader.opening import new_views, stored_views
from kdcache.render.opening import open_renderer
from kdcache.runtime.progress import silent
from kdcache.views.policies import load_policy
from kdcache.views.stream import stream_views
from kdcache.views.viewset import RowRange, ViewSet
from support.command_line import kdcache
from support.shards import make_shards
from support.small_job import CLASSES, MODEL, SAMPLES, SIZE, dump_request, make_data


class Page(HTMLParser):
    """Figures of a page: pixels and lines of words; and whatever a page should not have."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.figures: list[tuple[np.ndarray, list[str]]] = []
        self.cells: list[int] = []
        self.headings: list[str] = []
        text = file.read_text("utf-8")
        self.outside = re.findall(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[^\"]*", "", text))
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "td":
            self.cells.append(0)
            self.headings.append(dict(attrs)["data-column"] or "")
        if tag == "img":
            data = dict(attrs)["src"] or ""
            pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition("base64,")[2]))))
            self.figures.append((pixels, []))
            self.cells[-1] += 1

    def handle_data(self, data: str) -> None:
        if self.figures and data.strip():
            self.figures[-1][1].append(data)


def views_of(view_set: ViewSet, view: int) -> dict[str, tuple[np.ndarray, bool]]:
    """Key -> pixels of its view, and whether it is mixed."""
    rows = len(view_set)
    with (
        SampleReader(view_set.index) as reader,
        open_renderer("pillow", size=SIZE, max_batch=rows) as renderer,
    ):
        (views,) = stream_views(view_set, reader, renderer, [RowRange(view, 0, rows)])
    pixels = views.pixels.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    mixed = (views.rows.weight < 1).tolist()
    keys = [view_set.index.key(sample) for sample in views.rows.samples.tolist()]
    return {key: (pixels[row], mixed[row]) for row, key in enumerate(keys)}


@pytest.fixture
def request_(job, tmp_path) -> PreviewOptions:
    return PreviewOptions(job.data, tmp_path / "sheet.html", policy=job.policy, renderer="pillow", images=3, views=2)


def test_the_views_shown_are_those_of_the_view_set_partners_beside_them(request_: PreviewOptions) -> None:
    page = Page(preview(request_))
    index = open_index(request_.data)
    view_set = new_views(index, load_policy(request_.policy or ""), 0, silent).view_set
    assert len(page.cells) == 3 * (1 + 2)
    shown = iter(page.figures)
    expected = [views_of(view_set, view) for view in range(2)]
    cells = zip(page.cells, page.headings, strict=True)
    for _ in range(3):
        assert next(cells) == (1, "image")
        _, words = next(shown)
        key = words[0].split()[0]
        for view in range(2):
            count, heading = next(cells)
            pixels, mixed = expected[view][key]
            assert heading == f"view {view}" + ", a mixed pair" * mixed
            assert count == 1 + mixed
            own, words = next(shown)
            assert np.array_equal(own, pixels)
            if mixed:
                assert re.match("mixup: keeps|cutmix:", words[0])
                other, words = next(shown)
                partner = words[0].split()[1]
                assert partner != key
                assert np.array_equal(other, expected[view][partner][0])


def test_the_page_stands_alone_and_escapes_what_it_shows(tmp_path: Path) -> None:
    sheet = Sheet(
        ("<b>title</b>", "a & b"),
        ("<i>",),
        ((Cell((CaptionedImage(np.zeros((8, 8, 3), np.uint8), ('<script>"x"',), ("50% <u>",)),)),),),
    )
    write_sheet(sheet, tmp_path / "deep" / "a.html")
    page = Page(tmp_path / "deep" / "a.html")
    assert not page.tags & {"script", "b", "i", "u", "link", "iframe"}
    assert page.figures[0][1] == ['<script>"x"', "50% <u>"]
    assert page.headings == ["<i>"]
    assert not page.outside


def test_a_png_shows_every_picture_and_has_room_for_the_words(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (size, size, 3)).astype(np.uint8) for size in (100, 130, 40)]
    words = ("a line of words that is far too long to stand in one line under so small a picture",)
    cells = tuple(Cell((CaptionedImage(pixels, words),)) for pixels in images)
    write_sheet(Sheet(("title",), ("a", "b", "c"), (cells, cells)), tmp_path / "a.png")
    image = np.asarray(Image.open(tmp_path / "a.png"))
    for pixels in images[:2]:
        size = len(pixels)
        corners = np.argwhere((image == pixels[0, 0]).all(axis=2)).tolist()
        assert sum(np.array_equal(image[y : y + size, x : x + size], pixels) for y, x in corners) == 2
    assert (image[-6:] == 255).all()
    assert (image[:, -6:] == 255).all()


def test_a_word_wider_than_its_picture_goes_on_in_a_further_line(tmp_path: Path) -> None:
    black = np.zeros((100, 100, 3), np.uint8)
    heights = []
    for words in (("WWW",), ("W" * 60, "a " + "W" * 60)):
        write_sheet(Sheet(("title",), ("a",), ((Cell((CaptionedImage(black, words),)),),)), tmp_path / "a.png")
        image = np.asarray(Image.open(tmp_path / "a.png"))
        assert (image[:, -12:] == 255).all()
        heights.append(len(image))
    assert heights[1] > heights[0] + 5 * 15


def test_what_the_numbers_under_the_pictures_count_is_said(request_: PreviewOptions) -> None:
    text = preview(request_).read_text("utf-8")
    assert "<p>crops are in pixels of the image; other distances are in pixels of the view</p>" in text
    text = preview(replace(request_, size=48)).read_text("utf-8")
    assert f"are in pixels of a {SIZE} x {SIZE} view, scaled to 48 x 48</p>" in text


def test_the_targets_of_a_cache_stand_under_its_views(job, request_: PreviewOptions) -> None:
    request = replace(request_, policy=None, cache=str(job.cache), views=11, images=1)
    page = Page(preview(request))
    index = open_index(job.data)
    cache = Cache.open(job.cache)
    view_set, entry = stored_views(cache, index).view_set, cache.entry(MODEL)
    row = 0
    probabilities_of_rows = []
    for view in range(10):
        row = int(np.flatnonzero(view_set.order(view) == view_set.order(0)[0])[0])
        chunk, at = divmod(row, entry.layout.chunk_rows)
        probabilities_of_rows.append(
            entry.read_chunk(view, chunk)[at : at + 1].log_probs(num_classes=CLASSES)[0].exp().numpy()
        )
    shown = [words for _, words in page.figures if not words[0].startswith("with ")][1:]
    assert len(shown) == 11
    for probabilities, words in zip(probabilities_of_rows, shown, strict=False):
        best = np.argsort(-probabilities)[:3]
        assert words[-3:] == [f"{probabilities[number]:.0%} class {number}" for number in best]
    assert shown[10][-1] == "no targets yet"


@pytest.mark.parametrize(("label_space", "names"), [("teacher", "Sort"), ("none", "class")])
def test_classes_are_named_where_labels_are_the_teachers_classes(
    job, tmp_path: Path, label_space: str, names: str
) -> None:
    data = make_data(tmp_path / "data", images=20)
    (tmp_path / "data" / "classes.json").write_text(json.dumps([f"Sort {number}" for number in range(CLASSES)]))
    cache = tmp_path / "cache"
    dump(dump_request(data, cache, job.weights, job.policy, views=1, targets="topk", label_space=label_space))
    page = Page(preview(PreviewOptions(data, tmp_path / "a.html", cache=str(cache), views=1, renderer="pillow")))
    assert "(Sort " in page.figures[0][1][0]
    for _, words in page.figures:
        assert all(re.fullmatch(rf"\d+% {names} \d", line) for line in words if re.match(r"\d+% ", line))
    assert re.match(r"\d+% ", page.figures[1][1][-1])


def test_chosen_samples_are_shown_with_the_odd_last_row_alone(request_: PreviewOptions) -> None:
    index = open_index(request_.data)
    assert len(index) == SAMPLES
    view_set = new_views(index, load_policy(request_.policy or ""), 0, silent).view_set
    last, first = (index.key(int(view_set.order(0)[row])) for row in (-1, 0))
    page = Page(preview(replace(request_, samples=(last, first), views=1)))
    assert [words[0].split()[0] for _, words in (page.figures[0], page.figures[2])] == [last, first]
    assert page.cells[:2] == [1, 1]
    assert page.figures[1][1][0].startswith("crop ")


def test_unlabelled_samples_are_shown_by_their_keys(tmp_path: Path) -> None:
    data = make_shards(tmp_path / "data", images=4, labelled=False)
    open_index(data, unlabelled=True)
    page = Page(preview(PreviewOptions(str(data), tmp_path / "a.html", policy="crop", renderer="pillow", size=32)))
    assert re.fullmatch(r"img-0000\d", page.figures[0][1][0])


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"out": Path("a.pdf")}, UsageError, r"neither \.html nor \.png"),
        ({"samples": ("img-00000", "nobody")}, DataError, "No sample has the key 'nobody'"),
        ({"teacher": "x"}, UsageError, "give --cache too"),
        ({"policy": "nonsense"}, KdcacheError, "no policy called"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    request_: PreviewOptions, change: dict[str, object], kind: type[KdcacheError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        preview(replace(request_, **change))
    assert not request_.out.exists()


def test_a_cache_of_other_views_or_without_the_teacher_is_refused(job, request_: PreviewOptions) -> None:
    with pytest.raises(IdentityError, match="seed"):
        preview(replace(request_, cache=str(job.cache), seed=1))
    with pytest.raises(UsageError, match="holds no teacher 'x'"):
        preview(replace(request_, cache=str(job.cache), teacher="x"))


def test_the_command_writes_the_file_it_is_told(job, tmp_path: Path) -> None:
    out = tmp_path / "a.png"
    arguments = ("--data", job.data, "--policy", "a2", "--images", "2", "--views", "1", "--size", "32")
    done = kdcache("preview", *arguments, "--renderer", "pillow", "--out", out)
    assert done.returncode == 0, done.stderr
    assert f"2 images in 1 view: {out}" in done.stderr
    assert Image.open(out).width > 300

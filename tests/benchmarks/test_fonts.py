"""The data set of characters: which fonts are taken, and what is drawn of them."""

import io
import json
import string

import numpy as np
import pytest
from PIL import Image, ImageFont

from kdcache.data.index import open_index
from kdcache.data.reader import SampleReader


@pytest.fixture
def fonts(project_root, monkeypatch):
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    import fonts

    return fonts


@pytest.fixture
def folder(tmp_path):
    """A font that Pillow brings, as a file."""
    path = tmp_path / "fonts" / "aileron.ttf"
    path.parent.mkdir()
    path.write_bytes(ImageFont.load_default(20).path.getvalue())
    return path.parent


def ink(picture):
    """First and last row and column that are not black."""
    rows, columns = (np.flatnonzero(picture.max(axis=axis) > 40) for axis in (1, 0))
    return rows[0], rows[-1], columns[0], columns[-1]


def test_characters_stand_on_one_line_in_the_middle(fonts, folder):
    font = fonts.draw(folder / "aileron.ttf")
    drawn = dict(zip(fonts.CHARACTERS, font.images, strict=True))
    assert list(drawn) == [chr(code) for code in range(33, 127)]
    assert {ink(drawn[letter])[1] for letter in "ABEHx1"} == {ink(drawn["H"])[1]}
    assert ink(drawn["x"])[0] > ink(drawn["X"])[0]
    assert ink(drawn["p"])[1] > ink(drawn["b"])[1]
    assert ink(drawn["'"])[1] < 16 < ink(drawn[","])[0]
    for letter in string.ascii_letters:
        _, _, left, right = ink(drawn[letter])
        assert abs(left + right - 31) <= 2
    heights = [ink(drawn[letter])[:2] for letter in string.ascii_letters + string.digits]
    top, bottom = min(first for first, _ in heights), max(last for _, last in heights)
    assert top >= 1
    assert bottom <= 30
    assert bottom - top > 18


def made(fonts, seed, family="Family"):
    """A font of noise: no two characters are alike."""
    random = np.random.default_rng(seed)
    return fonts.Font(family, f"Style {seed}", random.integers(0, 256, (94, 32, 32)).astype(np.uint8))


def test_a_design_is_taken_once(fonts):
    one, other = made(fonts, 0), made(fonts, 1)
    hinted = fonts.Font("Clone", "", (one.images.astype(int) ^ 1).astype(np.uint8))
    assert fonts.distinct([one, other, hinted, one]) == [True, True, False, False]


def test_what_looks_like_no_letters_is_told_from_what_does(fonts, folder):
    real = fonts.draw(folder / "aileron.ttf")
    moved = fonts.Font("Moved", "", np.roll(real.images, 3, axis=(1, 2)))
    code = fonts.Font("Code", "", np.roll(real.images, 1, axis=0))
    assert fonts.readable([real, moved, real, code]) == [True, True, True, False]


def test_a_family_is_on_one_side_whatever_else_there_is(fonts):
    sides = {name: made(fonts, 0, name).side for name in map(str, range(400))}
    assert all(made(fonts, seed, name).side == sides[name] for seed in (1, 2) for name in ("3", "5", "8"))
    assert 50 < list(sides.values()).count("test") < 110
    assert made(fonts, 0, "DejaVu Sans").side == made(fonts, 1, "DEJAVU SANS").side


@pytest.mark.parametrize(
    ("drawn_as", "reason"),
    [
        ({"q": "\uffff"}, "lacks a character"),
        ({"q": " "}, "has an empty character"),
        ({letter: letter.upper() for letter in string.ascii_lowercase}, "draws many characters alike"),
        ({"l": "I", "O": "0"}, None),
    ],
)
def test_a_font_that_cannot_serve_is_left_out_with_a_reason(fonts, folder, monkeypatch, drawn_as, reason):
    """What Pillow draws is changed, as if the font had these characters so."""

    def changed(of):
        return lambda self, text, *given, **named: of(self, drawn_as.get(text, text), *given, **named)

    for method in ("getmask2", "getbbox"):
        monkeypatch.setattr(ImageFont.FreeTypeFont, method, changed(getattr(ImageFont.FreeTypeFont, method)))
    drawn = fonts.draw(folder / "aileron.ttf")
    assert (None if isinstance(drawn, fonts.Font) else drawn) == reason


def test_a_file_that_is_no_font_is_left_out(fonts, tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    (tmp_path / "notes.txt").write_bytes(b"no font either")
    found, left_out = fonts.gather([tmp_path])
    assert not found
    assert [count for reason, count in left_out.items() if reason.startswith("cannot be drawn")] == [1]


def test_the_shards_hold_every_character_of_every_font(fonts, folder, tmp_path):
    found, left_out = fonts.gather([folder])
    assert [font.family for font in found] == ["Aileron"]
    assert not left_out.total()
    found.append(made(fonts, 0))
    assert fonts.write(found, tmp_path / "out") == 188
    index = open_index(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "classes.json").read_text("utf-8")) == list(fonts.CHARACTERS)
    assert np.bincount(index.label).tolist() == [2] * 94
    images = {font.name: font.images for font in found}
    with SampleReader(index) as reader:
        for sample, data in enumerate(reader.read(np.arange(188))):
            name, code = index.key(sample).split("/")
            image = Image.open(io.BytesIO(data))
            assert (image.mode, index.label[sample]) == ("L", int(code) - 33)
            assert np.array_equal(np.asarray(image), images[name][int(code) - 33])


def test_a_sheet_shows_fonts_from_first_to_last(fonts):
    some = [made(fonts, seed) for seed in range(5)]
    drawn = np.asarray(fonts.sheet(some, rows=3))
    assert drawn.shape == (3 * 32, 94 * 32)
    for row, font in enumerate((some[0], some[2], some[4])):
        assert np.array_equal(drawn[32 * row : 32 * (row + 1), :32], font.images[0])

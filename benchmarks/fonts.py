"""A data set of 94 classes: the printable characters of ASCII, 33 to 126, in the fonts that are installed.

    python benchmarks/fonts.py OUT [--sheet SHEET.png]

Writes webdataset shards of grey 32x32 PNG images to OUT/train and OUT/test. Every font is on one side only, and so are
all fonts of a family. O and 0, l, I and |, or ' and ` are classes of their own, whatever a font makes of them: they are
what a teacher is unsure of. Nothing is downloaded. On Debian, this installs some 1,800 fonts of 700 families:

    apt-get install --no-install-recommends $(python benchmarks/fonts.py --packages)
"""

import argparse
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kdcache.data.importers.shuffling import shuffled
from kdcache.data.writer import NewSample, write_shards

CHARACTERS = tuple(map(chr, range(33, 127)))
SIZE = 32
FOLDERS = (Path("/usr/share/fonts"), Path("/usr/share/texmf/fonts"))
ENDINGS = {".ttf", ".otf", ".ttc", ".pfb", ".pfa", ".t1"}
TEST_SHARE = 0.2

# Drawn this many times larger and averaged down, so that images hardly depend on a font's hints for small sizes.
_FINER = 4
# Of SIZE: what letters and digits fill, from the top of the tallest to the foot of the deepest.
_FILLED = 0.8
# A face without small letters draws 26 characters twice; look-alikes are a few.
_MAX_TWICE = 8
# Levels of 0..255: a mean difference over all images below which two fonts are one design in two files.
_SAME_DESIGN = 2.5
# The share of its letters and digits that are nearest to the usual shape of the same: most fonts have more than 0.8,
# Greek ones 0.35. Below it a font is taken to write no Latin.
_READABLE = 0.4


@dataclass(frozen=True)
class Font:
    """A font's images: uint8 [94, 32, 32], white on black, as its characters stand on the line."""

    family: str
    style: str
    images: np.ndarray

    @property
    def name(self) -> str:
        """Names the font in the keys of its samples, wherever its file lies."""
        words = re.sub(r"[^0-9A-Za-z]+", "-", f"{self.family} {self.style}").strip("-")
        return f"{words}-{hashlib.blake2b(self.images.tobytes(), digest_size=4).hexdigest()}"

    @property
    def side(self) -> str:
        """The split that its family belongs to, whatever else is installed."""
        word = hashlib.blake2b(self.family.lower().encode(), digest_size=8).digest()
        return "test" if int.from_bytes(word, "little") < TEST_SHARE * 2**64 else "train"


def files_in(folders: Sequence[Path]) -> list[Path]:
    """Font files, sorted by name, each once whatever links lead to it."""
    found = (path for folder in folders for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    return sorted({path.resolve() for path in found})


def draw(path: Path) -> Font | str:
    """The font in a file, or why it is left out."""
    try:
        trial = ImageFont.truetype(path, 64, layout_engine=ImageFont.Layout.BASIC)
        boxes = np.array([trial.getbbox(character, anchor="ms") for character in CHARACTERS])
        words = boxes[[character.isalnum() for character in CHARACTERS]]
        top, bottom, width = words[:, 1].min(), words[:, 3].max(), (words[:, 2] - words[:, 0]).max()
        side = SIZE * _FINER
        scale = _FILLED * side / max(bottom - top, width, 1)
        font = trial.font_variant(size=float(64 * scale))
        if _glyph(font, "\uffff") in {_glyph(font, character) for character in CHARACTERS}:
            return "lacks a character"
        # Everything stands on one line, with letters and digits in the middle of the height; each character is centred
        # on its own ink. What is larger than they are may lose its ends.
        line = (side - (top + bottom) * scale) / 2
        images = []
        for character, middle in zip(CHARACTERS, (boxes[:, 0] + boxes[:, 2]) / 2, strict=True):
            image = Image.new("L", (side, side))
            place = (side / 2 - middle * scale, line)
            ImageDraw.Draw(image).text(place, character, fill=255, font=font, anchor="ms")
            images.append(np.asarray(image.reduce(_FINER)))
    except (OSError, ValueError) as error:
        return f"cannot be drawn ({error})"
    found = np.stack(images)
    if not found.max(axis=(1, 2)).all():
        return "has an empty character"
    if len(found) - len({image.tobytes() for image in found}) > _MAX_TWICE:
        return "draws many characters alike"
    family, style = trial.getname()
    return Font(family or path.stem, style or "", found)


def _glyph(font: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)


def readable(fonts: Sequence[Font]) -> list[bool]:
    """Whether each font's letters and digits look like other fonts' same ones: symbols and other scripts don't."""
    places = [place for place, character in enumerate(CHARACTERS) if character.isalnum()]
    # Stretched to one frame, o and O are one shape.
    names = np.array([CHARACTERS[place].lower() for place in places])
    shapes = np.stack([[_shape(font.images[place]) for place in places] for font in fonts])
    usual = _even(np.median(shapes, axis=0))
    shares = [(names[(_even(shape) @ usual.T).argmax(axis=1)] == names).mean() for shape in shapes]
    return [bool(share >= _READABLE) for share in shares]


def _shape(drawn: np.ndarray) -> np.ndarray:
    """Return what lies within an image's ink, at 8 x 8, whatever its size, place and weight: float32 [64]."""
    image = Image.fromarray(drawn)
    return np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR, box=image.getbbox()), np.float32).ravel()


def _even(shapes: np.ndarray) -> np.ndarray:
    """Shapes [n, 64] without their mean, at length 1."""
    centred = shapes - shapes.mean(axis=1, keepdims=True)
    return centred / np.linalg.norm(centred, axis=1, keepdims=True).clip(1e-6)


def distinct(fonts: Sequence[Font]) -> list[bool]:
    """Whether each font is unlike all that are kept before it: a design is often there in several files and names."""
    blocks = [font.images.reshape(-1, SIZE // 4, 4, SIZE // 4, 4) for font in fonts]
    coarse = np.stack([block.mean(axis=(2, 4), dtype=np.float32).ravel() for block in blocks])
    kept: list[int] = []
    for number, font in enumerate(fonts):
        # Means differ by no more than what they are means of, so that few fonts have to be compared in full.
        near = np.abs(coarse[kept] - coarse[number]).mean(axis=1) < _SAME_DESIGN
        images = font.images.astype(np.int16)
        others = (fonts[other].images for other, is_near in zip(kept, near, strict=True) if is_near)
        if all(np.abs(images - other).mean() >= _SAME_DESIGN for other in others):
            kept.append(number)
    return [number in set(kept) for number in range(len(fonts))]


def gather(folders: Sequence[Path]) -> tuple[list[Font], Counter[str]]:
    """The fonts to use, by name, and how many files were left out for which reason."""
    fonts: list[Font] = []
    left_out: Counter[str] = Counter()
    for path in files_in(folders):
        drawn = draw(path)
        if isinstance(drawn, Font):
            fonts.append(drawn)
        else:
            left_out[drawn] += 1
    fonts.sort(key=lambda font: (font.family, font.style, font.name))
    for reason, judge in (("writes no Latin", readable), ("is a design seen before", distinct)):
        keep = judge(fonts) if fonts else []
        left_out[reason] = keep.count(False)
        fonts = [font for font, kept in zip(fonts, keep, strict=True) if kept]
    return fonts, left_out


def write(fonts: Sequence[Font], out: Path, seed: int = 0) -> int:
    """Write the fonts' characters to shards, in random order; the label is the character's code less 33."""
    places = {
        f"{font.name}/{ord(character):03d}": (font, label)
        for font in fonts
        for label, character in enumerate(CHARACTERS)
    }

    def samples() -> Iterator[NewSample]:
        for key in shuffled(places, seed):
            font, label = places[key]
            buffer = io.BytesIO()
            Image.fromarray(font.images[label]).save(buffer, "PNG")
            yield NewSample(key, "png", buffer.getvalue(), label)

    return write_shards(samples(), out, samples_per_shard=5000, class_names=CHARACTERS)


def sheet(fonts: Sequence[Font], rows: int = 40) -> Image.Image:
    """Fonts from all over the list, one a row."""
    some = [fonts[round(place)] for place in np.linspace(0, len(fonts) - 1, min(rows, len(fonts)))]
    lines = [np.concatenate([*font.images], axis=1) for font in some]
    return Image.fromarray(np.concatenate(lines, axis=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="an empty folder for train/ and test/")
    parser.add_argument("--folders", type=Path, nargs="*", default=FOLDERS, help="where fonts are installed")
    parser.add_argument("--sheet", type=Path, help="draw some of the fonts to this image")
    parser.add_argument("--packages", action="store_true", help="print the Debian packages and end")
    asked = parser.parse_args()
    if asked.packages:
        print(*PACKAGES.split())
        return
    if asked.out is None:
        parser.error("name a folder to write to")
    fonts, left_out = gather(asked.folders)
    if not fonts:
        parser.error("no font here has all 94 characters: install some (--packages), or name --folders")
    for reason, count in left_out.most_common():
        print(f"{count:6} files left out: {reason}")
    for side in ("train", "test"):
        chosen = [font for font in fonts if font.side == side]
        count = write(chosen, asked.out / side)
        print(f"{side}: {count} images in {len(chosen)} fonts of {len({font.family for font in chosen})} families")
    if asked.sheet:
        sheet(fonts).save(asked.sheet)


PACKAGES = """
fonts-3270 fonts-adf-accanthis fonts-adf-baskervald fonts-adf-berenis fonts-adf-gillius fonts-adf-ikarius
fonts-adf-irianis fonts-adf-libris fonts-adf-mekanus fonts-adf-oldania fonts-adf-romande fonts-adf-solothurn
fonts-adf-switzera fonts-adf-tribun fonts-adf-universalis fonts-adf-verana fonts-aenigma fonts-agave fonts-allerta
fonts-ancient-scripts fonts-anonymous-pro fonts-apropal fonts-arapey fonts-arkpandora fonts-atarismall
fonts-averia-gwf fonts-averia-sans-gwf fonts-averia-serif-gwf fonts-b612 fonts-bajaderka fonts-bebas-neue
fonts-beteckna fonts-blankenburg fonts-breip fonts-cabin fonts-cabinsketch fonts-campania fonts-cantarell
fonts-cardo fonts-century-catalogue fonts-cherrybomb fonts-clear-sans fonts-cmu fonts-comfortaa fonts-comic-neue
fonts-compagnon fonts-courier-prime fonts-croscore fonts-crosextra-caladea fonts-crosextra-carlito
fonts-dancingscript fonts-dejavu fonts-dejima-mincho fonts-dkg-handwriting fonts-dosis fonts-dustin fonts-ebgaramond
fonts-ebgaramond-extra fonts-ecolier-court fonts-elstob fonts-engadget fonts-essays1743 fonts-eurofurence
fonts-evertype-conakry fonts-fantasma fonts-fantasque-sans fonts-fanwood fonts-femkeklaver fonts-ferrite-core
fonts-firacode fonts-freefont-ttf fonts-gamaliel fonts-georgewilliams fonts-gfs-artemisia fonts-gfs-baskerville
fonts-gfs-bodoni-classic fonts-gfs-didot fonts-gfs-neohellenic fonts-gfs-olga fonts-gnutypewriter fonts-go
fonts-gotico-antiqua fonts-goudybookletter fonts-hack-ttf fonts-havana fonts-hermit fonts-humor-sans
fonts-inconsolata fonts-inter fonts-isabella fonts-jetbrains-mono fonts-johnsmith-induni fonts-joscelyn
fonts-junction fonts-junicode fonts-jura fonts-karla fonts-karmilla fonts-kaushanscript fonts-klaudia-berenika
fonts-klee fonts-komatuna fonts-konatu fonts-kristi fonts-lato fonts-le-murmure fonts-league-mono
fonts-league-spartan fonts-leckerli-one fonts-lemonada fonts-levien-museum fonts-levien-typoscript fonts-liberation2
fonts-lindenhill fonts-linex fonts-linuxlibertine fonts-lmodern fonts-lobster fonts-lobstertwo fonts-manrope
fonts-millimetre fonts-mmcedar fonts-monofur fonts-monoid fonts-mononoki fonts-mplus fonts-nanum fonts-nanum-codec
fonts-national-park fonts-naver-d2coding fonts-noto-core fonts-noto-mono fonts-ocr-a fonts-ocr-b fonts-okolaks
fonts-oldstandard fonts-open-sans fonts-opendin fonts-opendyslexic fonts-osifont fonts-oxygen fonts-paratype
fonts-play fonts-povray fonts-prociono fonts-quattrocento fonts-quicksand fonts-radisnoir fonts-rampart fonts-reggae
fonts-roadgeek fonts-roboto-slab fonts-roboto-unhinted fonts-rocknroll fonts-routed-gothic fonts-rufscript
fonts-seto fonts-sil-andika fonts-sil-charis fonts-sil-doulos fonts-sil-galatia fonts-sil-gentiumplus
fonts-sixtyfour fonts-sjfonts fonts-smc-chilanka fonts-smc-manjari fonts-smiley-sans fonts-solide-mirage fonts-sora
fonts-staypuft fonts-stick fonts-stix fonts-summersby fonts-symbola fonts-texgyre fonts-tiresias
fonts-tlwg-garuda-ttf fonts-tlwg-kinnari-ttf fonts-tlwg-laksaman-ttf fonts-tlwg-loma-ttf fonts-tlwg-mono-ttf
fonts-tlwg-norasi-ttf fonts-tlwg-purisa-ttf fonts-tlwg-sawasdee-ttf fonts-tlwg-typewriter-ttf fonts-tlwg-typist-ttf
fonts-tlwg-typo-ttf fonts-tlwg-umpush-ttf fonts-tlwg-waree-ttf fonts-tomsontalks fonts-tuffy fonts-ubuntu-title
fonts-unfonts-core fonts-uralic fonts-urw-base35 fonts-vollkorn fonts-woowa-bm fonts-yanone-kaffeesatz
fonts-yrsa-rasa fonts-yusei-magic
"""

if __name__ == "__main__":
    main()

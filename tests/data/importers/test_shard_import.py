"""What all importers share: threads, going on after a kill, smaller images."""

import io
import threading

import numpy as np
import pytest
from PIL import Image

from kdcache.data.importers.resizing import Resizing
from kdcache.data.importers.shard_import import ImportFolder, ImportOptions, random_order
from kdcache.data.shards import INCOMPLETE, expand_data
from kdcache.data.writer import MARKER, NewSample
from kdcache.errors import DataError, UsageError
from kdcache.runtime.progress import silent
from support.archives import decoded, photograph, shard_bytes
from support.crashing import kills
from support.imported import imported
from support.small_job import Heard
from support.stuck_jobs import stuck


class Photographs:
    """Samples that note which of them were read."""

    def __init__(self, count, broken=None):
        self.keys = [f"image-{number:03d}" for number in range(count)]
        self.broken, self.sources = broken, ["first"] * count
        self.read_numbers, self._lock = [], threading.Lock()

    def read(self, number):
        with self._lock:
            self.read_numbers.append(number)
        if number == self.broken:
            raise DataError("this one is broken")
        return NewSample(self.keys[number], "jpg", photograph(number), number % 3)

    def stamp(self, number):
        return f"{self.keys[number]} {self.sources[number]}"


def run(out, samples, progress=silent, **options):
    with ImportFolder(out, progress) as folder:
        order = random_order(samples.keys, options.get("seed", 0))
        return folder.write(samples, order, ["a", "b", "c"], ImportOptions(**{"samples_per_shard": 4} | options))


def run_of_photographs(out, progress, workers=1):
    """For a process of its own."""
    run(out, Photographs(18), progress, workers=workers)


@pytest.fixture
def expected(tmp_path):
    assert run(tmp_path / "expected", Photographs(18), workers=1) == 18
    return shard_bytes(tmp_path / "expected")


def test_several_threads_write_the_same_bytes_as_one(tmp_path, expected):
    assert run(tmp_path / "out", Photographs(18), workers=3) == 18
    assert shard_bytes(tmp_path / "out") == expected
    assert set(expected) == {"classes.json", *(f"shard-{number:06d}.tar" for number in range(5))}
    assert imported(tmp_path / "out")["image-007"] == (photograph(7), 1)


@pytest.mark.parametrize("workers", [1, 3])
def test_an_import_goes_on_where_an_error_has_stopped_it(tmp_path, expected, workers):
    broken = random_order(Photographs(18).keys, 0)[-1]  # in the last shard
    first, second, heard = Photographs(18, broken), Photographs(18), Heard()
    with pytest.raises(DataError, match="this one is broken"):
        run(tmp_path / "out", first, workers=workers)
    with pytest.raises(DataError, match="did not finish"):
        expand_data(tmp_path / "out")
    complete = (tmp_path / "out" / INCOMPLETE).read_text().removeprefix(MARKER).splitlines()
    run(tmp_path / "out", second, heard, workers=workers)
    assert shard_bytes(tmp_path / "out") == expected
    assert len(second.read_numbers) == 18 - 4 * len(complete)
    assert broken in second.read_numbers
    if workers == 1:
        assert heard.said == ["going on with an import: 4 of 5 shards are complete"]


def test_what_has_changed_meanwhile_is_read_again(tmp_path):
    order = random_order(Photographs(18).keys, 0)
    with pytest.raises(DataError):
        run(tmp_path / "out", Photographs(18, broken=order[-1]), workers=1)
    changed = Photographs(18)
    changed.sources[order[5]] = "second"  # in the second shard
    run(tmp_path / "out", changed, workers=1)
    assert sorted(changed.read_numbers) == sorted(order[4:8] + order[16:])


@pytest.mark.parametrize("options", [{"seed": 1}, {"samples_per_shard": 5}, {"resizing": Resizing(24)}])
def test_another_import_into_the_folder_takes_nothing_over(tmp_path, options):
    with pytest.raises(DataError):
        run(tmp_path / "out", Photographs(18, broken=random_order(Photographs(18).keys, 0)[-1]), workers=1)
    samples = Photographs(18)
    run(tmp_path / "out", samples, **options)
    run(tmp_path / "expected", Photographs(18), **options)
    assert sorted(samples.read_numbers) == list(range(18))
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "expected")


def test_a_killed_import_goes_on(tmp_path, expected):
    out = tmp_path / "out"
    with stuck(tmp_path, 11, run_of_photographs, out) as process:
        process.kill()
        process.join()
    with pytest.raises(DataError, match="did not finish"):
        expand_data(out)
    kept = {path.name: path.stat().st_ino for path in out.glob("shard-00000[01].tar.partial")}
    assert len(kept) == 2
    samples, heard = Photographs(18), Heard()
    run(out, samples, heard)
    assert heard.said == ["going on with an import: 2 of 5 shards are complete"]
    assert len(samples.read_numbers) == 10
    assert shard_bytes(out) == expected
    assert {f"{path.name}.partial": path.stat().st_ino for path in out.glob("shard-00000[01].tar")} == kept


def test_killed_at_any_step_it_does_not_look_whole_and_goes_on(tmp_path, expected):
    deaths = 0
    for _ in kills(lambda: run_of_photographs(tmp_path / "out", silent)):
        with pytest.raises(DataError):
            expand_data(tmp_path / "out")
        deaths += 1
    assert deaths >= 10
    assert shard_bytes(tmp_path / "out") == expected


def test_a_half_written_line_is_no_complete_shard(tmp_path, expected):
    out = tmp_path / "out"
    with pytest.raises(DataError):
        run(out, Photographs(18, broken=random_order(Photographs(18).keys, 0)[-1]), workers=1)
    text = (out / INCOMPLETE).read_text()
    (out / INCOMPLETE).write_text(text[:-10])
    samples = Photographs(18)
    run(out, samples, workers=1)
    assert len(samples.read_numbers) == 4 + 2
    assert shard_bytes(out) == expected


def test_two_images_of_one_key_are_refused():
    with pytest.raises(DataError, match="Two images have the key b"):
        random_order(["a", "b", "c", "b"], 0)


# Smaller images


def test_large_images_become_smaller_and_small_ones_stay(tmp_path):
    resizing = Resizing(24, 95)
    large, small = NewSample("a", "png", photograph(0, "png"), 0), NewSample("b", "png", photograph(0, "png", 24), 1)
    result = resizing.apply(large)
    assert (result.key, result.extension, result.label) == ("a", "jpg", 0)
    whole = decoded(large.data)
    wanted = np.asarray(whole.resize((32, 24), Image.Resampling.BICUBIC), np.int16)
    pixels = np.asarray(decoded(result.data), np.int16)
    assert pixels.shape == (24, 32, 3)
    assert np.abs(pixels - wanted).mean() < 6
    assert np.abs(pixels - np.asarray(whole.resize((32, 24), Image.Resampling.NEAREST), np.int16)).mean() > 6
    assert resizing.apply(small) == small


def test_quality_is_that_of_the_jpeg_files():
    sizes = [len(Resizing(32, quality).apply_to_bytes(photograph(1), "it")) for quality in (20, 60, 95)]
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16"])
def test_every_kind_of_image_becomes_a_jpeg_that_looks_the_same(mode):
    grey = decoded(photograph(2)).convert("L")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    else:
        image = (grey if mode == "L" else decoded(photograph(2))).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    smaller = Image.open(io.BytesIO(Resizing(24).apply_to_bytes(buffer.getvalue(), "it")))
    assert (smaller.format, smaller.size, smaller.mode) == ("JPEG", (32, 24), "L" if mode == "L" else "RGB")
    assert np.abs(np.asarray(smaller.convert("L"), np.int16) - np.asarray(grey.resize((32, 24)), np.int16)).mean() < 12


def test_an_image_that_cannot_be_decoded_is_named():
    with pytest.raises(DataError, match=r"that one cannot be decoded: .*truncated.*Replace or remove"):
        Resizing(24).apply_to_bytes(photograph(0)[:900], "that one")


@pytest.mark.parametrize("wrong", [(0, 90), (24, 0), (24, 101)])
def test_sides_and_qualities_out_of_range(wrong):
    with pytest.raises(UsageError):
        Resizing(*wrong)


def test_the_folder_importer_makes_images_smaller_and_goes_on(tmp_path):
    from kdcache.data.importers.folder import import_folder

    for number in range(6):
        file = tmp_path / "tree" / f"c{number % 2}" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(photograph(number))
    options = {"samples_per_shard": 2, "resizing": Resizing(24), "workers": 1}
    import_folder(tmp_path / "tree", tmp_path / "expected", **options)
    assert {decoded(data).size for data, _ in imported(tmp_path / "expected").values()} == {(32, 24)}
    last = sorted(imported(tmp_path / "expected"))
    broken = tmp_path / "tree" / f"{last[0]}.jpg"
    good = broken.read_bytes()
    broken.write_bytes(b"<html>")
    with pytest.raises(DataError, match="cannot be read as an image"):
        import_folder(tmp_path / "tree", tmp_path / "out", **options)
    broken.write_bytes(good)
    import_folder(tmp_path / "tree", tmp_path / "out", **options)
    assert imported(tmp_path / "out") == imported(tmp_path / "expected")

"""A view is the same array whatever the batch size, the worker, the process or the shard layout."""

import dataclasses
import hashlib
import io
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest

from kdcache.data.index import open_index
from kdcache.data.order import derive_windows
from kdcache.data.reader import SampleReader
from kdcache.render.opening import open_renderer
from kdcache.views.policy import Policy
from kdcache.views.stream import stream_views
from kdcache.views.viewset import RowRange, ViewSet
from support.small_job import make_data

POLICY = Policy(
    interpolation="random",
    auto_augment="rand-m9-mstd0.5-inc1",
    color_jitter=(0.2, 0.2, 0.2, 0.1),
    color_jitter_prob=0.3,
    erase_prob=0.3,
    erase_mode="pixel",
    mixup=0.2,
    cutmix=1.0,
    reference_size=32,
)
IMAGES = 389  # odd, and three a shard over 130 shards


def view_of(data, windows, *, view=3, batch=64, threads=None, renderer="dali", policy=POLICY):
    """All rows of a view: float32 [n, 3, 32, 32], and the labels of both partners."""
    index = open_index(data)
    view_set = ViewSet(index, policy, 5, windows)
    row_ranges = [RowRange(view, start, min(start + batch, len(index))) for start in range(0, len(index), batch)]
    with (
        open_renderer(renderer, size=32, max_batch=batch, threads=threads) as pixels,
        closing(SampleReader(index)) as reader,
    ):
        parts = [(part.pixels.numpy(), part.rows.labels) for part in stream_views(view_set, reader, pixels, row_ranges)]
    return np.concatenate([pixels for pixels, _ in parts]), np.concatenate([labels for _, labels in parts])


def digest(pixels):
    return hashlib.blake2b(pixels.tobytes()).hexdigest()


@pytest.fixture(scope="module")
def two_shardings(tmp_path_factory):
    """The same images in 130 shards and in 3, and the windows that a view set made over the 130 keeps."""
    root = tmp_path_factory.mktemp("shardings")
    many, few = make_data(root / "many", shards=130, images=IMAGES), make_data(root / "few", shards=3, images=IMAGES)
    index = open_index(many)
    assert len(index.shards) == 130
    windows = derive_windows(np.asarray(index.shard), np.asarray(index.label), len(index.shards)).ids
    assert windows.max() == 1
    return many, few, windows


@pytest.fixture(scope="module")
def expected(two_shardings):
    many, _, windows = two_shardings
    return view_of(many, windows)


def test_two_shardings_are_the_same_data_set(two_shardings):
    many, few, _ = two_shardings
    assert open_index(many).fingerprint == open_index(few).fingerprint


def test_another_sharding_gives_the_same_view_with_the_stored_windows(two_shardings, expected):
    _, few, windows = two_shardings
    pixels, labels = view_of(few, windows)
    assert np.array_equal(pixels, expected[0])
    assert np.array_equal(labels, expected[1])


def test_windows_of_todays_shards_would_give_another_view(two_shardings, expected):
    """Which is why they are stored."""
    _, few, windows = two_shardings
    pixels, _ = view_of(few, np.zeros_like(windows))
    assert not np.array_equal(pixels, expected[0])


@pytest.mark.parametrize("choice", [{"batch": 2}, {"batch": 100}, {"batch": 390}, {"threads": 1}, {"threads": 3}])
def test_batch_size_and_threads_change_nothing(two_shardings, expected, choice):
    many, _, windows = two_shardings
    pixels, labels = view_of(many, windows, **choice)
    assert np.array_equal(pixels, expected[0])
    assert np.array_equal(labels, expected[1])


def test_another_process_makes_the_same_view(two_shardings, expected):
    many, _, windows = two_shardings
    script = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "import io\n"
        "import numpy as np\n"
        "from kdcache.data.index import open_index\n"
        "from end_to_end.test_views_are_the_same import digest, view_of\n"
        "print(digest(view_of(sys.argv[1], np.load(io.BytesIO(sys.stdin.buffer.read())), batch=50)[0]))\n"
    )
    stdin = io.BytesIO()
    np.save(stdin, windows)
    tests = [path for path in sys.path if path.endswith("tests")]
    done = subprocess.run(
        [sys.executable, "-c", script, many, *tests], input=stdin.getvalue(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().strip() == digest(expected[0])


def test_the_geometry_of_both_renderers_is_the_same(two_shardings):
    many, _, windows = two_shardings
    # Operations such as Equalize spread a level's difference; what is held here is decoding, cropping and mixing.
    plain = dataclasses.replace(POLICY, auto_augment="", color_jitter_prob=0.0)
    (pillow, pillow_labels), (dali, dali_labels) = (
        view_of(many, windows, renderer=renderer, policy=plain) for renderer in ("pillow", "dali")
    )
    assert np.array_equal(pillow_labels, dali_labels)
    assert np.abs(pillow - dali).mean() < 0.25


def test_views_differ_from_each_other(two_shardings, expected):
    many, _, windows = two_shardings
    pixels, _ = view_of(many, windows, view=4)
    assert np.abs(pixels - expected[0]).mean() > 5


def test_every_sample_is_in_a_view_once(two_shardings):
    many, _, windows = two_shardings
    index = open_index(many)
    view_set = ViewSet(index, POLICY, 5, windows)
    rows = view_set.rows(RowRange(0, 0, len(index)))
    assert np.array_equal(np.sort(rows.samples), np.arange(len(index)))


@pytest.mark.parametrize("row_range", [RowRange(0, 1, 4), RowRange(0, 0, 3), RowRange(0, 0, 392), RowRange(0, 6, 4)])
def test_a_row_range_that_splits_a_pair_is_refused(two_shardings, row_range):
    many, _, windows = two_shardings
    with pytest.raises(ValueError, match="splits a pair"):
        ViewSet(open_index(many), POLICY, 5, windows).rows(row_range)

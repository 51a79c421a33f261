"""What a view set says of rows: the samples in their order, and the labels of both that are mixed."""

import io

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from kdcache.data.index import open_index
from kdcache.errors import DataError
from kdcache.views.policy import Policy
from kdcache.views.viewset import RowIndices, RowRange, ViewSet
from support.shards import Sample, write_tar

SAMPLES = 23


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Each sample has a label of its own."""
    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, "PNG")
    folder = tmp_path_factory.mktemp("labels")
    write_tar(folder / "0.tar", [Sample(f"s{number}", "png", file.getvalue(), number) for number in range(SAMPLES)])
    return open_index(folder)


def view_set(index, **policy):
    return ViewSet(index, Policy(**policy), 3, np.zeros(SAMPLES, np.int32))


def expected_labels(views, indices, weight):
    """By definition: the label of the row's sample, and that of its neighbour's where they are mixed."""
    out = []
    for view, row, share in zip(indices.view, indices.row, weight, strict=True):
        order = views.order(int(view))
        label = views.index.label
        out.append((label[order[row]], label[order[row ^ 1]] if share < 1 else -1))
    return np.array(out)


@pytest.mark.parametrize("mix_prob", [0.0, 0.5, 1.0])
def test_a_mixed_row_has_its_neighbours_label(index, mix_prob):
    views = view_set(index, mixup=0.8, cutmix=1.0, mix_prob=mix_prob)
    rows = views.rows(RowRange(4, 0, SAMPLES))
    assert np.array_equal(rows.labels, expected_labels(views, RowIndices.of(RowRange(4, 0, SAMPLES)), rows.weight))
    assert (rows.weight < 1).any() == (mix_prob > 0)
    assert rows.labels[-1, 1] == -1, "an odd last row has no partner"


def test_picked_rows_have_their_neighbours_labels(index):
    views = view_set(index, mixup=0.8, mix_prob=0.7, repeats=3)
    pair = np.repeat([7, 2, 10, 0], 3)
    view = np.tile([3, 4, 5], 4)
    indices = RowIndices(np.repeat(view, 2), np.stack([2 * pair, 2 * pair + 1], axis=1).reshape(-1))
    rows = views.rows(indices)
    assert np.array_equal(rows.labels, expected_labels(views, indices, rows.weight))
    assert np.array_equal(rows.samples, views.order(3)[indices.row])


def test_picked_rows_have_the_plan_of_their_view(index):
    views = view_set(index, auto_augment="rand-m9-mstd0.5", mixup=0.8, erase_prob=0.5, repeats=2)
    whole = [views.rows(RowRange(view, 0, SAMPLES)).plan for view in (2, 3)]
    indices = RowIndices(np.array([3, 3, 2, 2, 3, 3]), np.array([6, 7, 6, 7, 20, 21]))
    plan = views.rows(indices).plan
    for position, (view, row) in enumerate(zip(indices.view, indices.row, strict=True)):
        for name in ("box", "flip", "op", "magnitude", "op_cubic", "erase", "noise"):
            assert np.array_equal(getattr(plan, name)[position], getattr(whole[view - 2], name)[row]), name
    assert np.array_equal(plan.weight, [whole[1].weight[3], whole[0].weight[3], whole[1].weight[10]])


@pytest.mark.parametrize("span", [RowRange(0, 1, 4), RowRange(0, 0, 3), RowRange(0, 0, SAMPLES + 1), RowRange(0, 6, 4)])
def test_a_span_splits_no_pair_and_stays_in_the_view(index, span):
    with pytest.raises(ValueError, match="splits a pair"):
        view_set(index).rows(span)


def lost_from(index, samples, **policy):
    return ViewSet(index, Policy(**policy), 3, np.zeros(SAMPLES, np.int32), np.array(samples, np.int64))


def walk(pairs, view=4):
    pair = np.asarray(pairs)
    return RowIndices(np.full(2 * len(pair), view), np.stack([2 * pair, 2 * pair + 1], axis=1).reshape(-1))


@given(st.sets(st.integers(0, SAMPLES - 1), max_size=9), st.integers(0, 5), st.permutations(range(SAMPLES // 2)))
@example({3}, 0, list(range(SAMPLES // 2)))
@example(set(), 0, list(range(SAMPLES // 2)))
def test_another_pair_is_seen_in_place_of_one_with_a_lost_sample(index, lost, view, order):
    views = lost_from(index, sorted(lost))
    before = walk(order, view)
    after = views.without_lost(before)
    samples = views.order(view)
    assert not set(samples[after.row].tolist()) & lost
    assert np.array_equal(after.view, before.view)
    assert np.array_equal(after.row[::2] + 1, after.row[1::2])
    whole = ~np.isin(samples[before.row], sorted(lost)).reshape(-1, 2).any(axis=1)
    assert np.array_equal(after.row.reshape(-1, 2)[whole], before.row.reshape(-1, 2)[whole])
    one_by_one = [views.without_lost(walk([pair], view)).row.tolist() for pair in order]
    assert after.row.reshape(-1, 2).tolist() == one_by_one
    assert np.array_equal(views.holds_lost(samples[before.row]).reshape(-1, 2).any(axis=1), ~whole)


def test_a_lost_odd_last_row_is_in_no_pair(index):
    last = int(view_set(index).order(4)[-1])
    views = lost_from(index, [last])
    assert views.without_lost(walk(range(SAMPLES // 2))).row.tolist() == list(range(SAMPLES - 1))
    assert views.holds_lost(views.order(4)).tolist() == [False] * (SAMPLES - 1) + [True]


def test_views_of_which_every_pair_holds_a_lost_sample_are_refused(index):
    views = lost_from(index, range(SAMPLES))
    with pytest.raises(DataError, match="Every pair of a view holds one of the 23 samples that are marked as lost"):
        views.without_lost(walk([0]))

"""What a view set says of rows: the samples in their order, and the labels of both that are mixed."""

import io

import numpy as np
import pytest
from PIL import Image

from kdcache.data.index import open_index
from kdcache.views.policy import Policy
from kdcache.views.viewset import Picks, Span, ViewSet
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


def expected_labels(views, picks, weight):
    """By definition: the label of the row's sample, and that of its neighbour's where they are mixed."""
    out = []
    for view, row, share in zip(picks.view, picks.row, weight, strict=True):
        order = views.order(int(view))
        label = views.index.label
        out.append((label[order[row]], label[order[row ^ 1]] if share < 1 else -1))
    return np.array(out)


@pytest.mark.parametrize("mix_prob", [0.0, 0.5, 1.0])
def test_a_mixed_row_has_its_neighbours_label(index, mix_prob):
    views = view_set(index, mixup=0.8, cutmix=1.0, mix_prob=mix_prob)
    rows = views.rows(Span(4, 0, SAMPLES))
    assert np.array_equal(rows.labels, expected_labels(views, Picks.of(Span(4, 0, SAMPLES)), rows.weight))
    assert (rows.weight < 1).any() == (mix_prob > 0)
    assert rows.labels[-1, 1] == -1, "an odd last row has no partner"


def test_picked_rows_have_their_neighbours_labels(index):
    views = view_set(index, mixup=0.8, mix_prob=0.7, repeats=3)
    pair = np.repeat([7, 2, 10, 0], 3)
    view = np.tile([3, 4, 5], 4)
    picks = Picks(np.repeat(view, 2), np.stack([2 * pair, 2 * pair + 1], axis=1).reshape(-1))
    rows = views.rows(picks)
    assert np.array_equal(rows.labels, expected_labels(views, picks, rows.weight))
    assert np.array_equal(rows.samples, views.order(3)[picks.row])


def test_picked_rows_have_the_plan_of_their_view(index):
    views = view_set(index, auto_augment="rand-m9-mstd0.5", mixup=0.8, erase_prob=0.5, repeats=2)
    whole = [views.rows(Span(view, 0, SAMPLES)).plan for view in (2, 3)]
    picks = Picks(np.array([3, 3, 2, 2, 3, 3]), np.array([6, 7, 6, 7, 20, 21]))
    plan = views.rows(picks).plan
    for position, (view, row) in enumerate(zip(picks.view, picks.row, strict=True)):
        for name in ("box", "flip", "op", "magnitude", "op_cubic", "erase", "noise"):
            assert np.array_equal(getattr(plan, name)[position], getattr(whole[view - 2], name)[row]), name
    assert np.array_equal(plan.weight, [whole[1].weight[3], whole[0].weight[3], whole[1].weight[10]])


@pytest.mark.parametrize("span", [Span(0, 1, 4), Span(0, 0, 3), Span(0, 0, SAMPLES + 1), Span(0, 6, 4)])
def test_a_span_splits_no_pair_and_stays_in_the_view(index, span):
    with pytest.raises(ValueError, match="splits a pair"):
        view_set(index).rows(span)

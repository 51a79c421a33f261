"""`inspect`: what it says of a cache is what the cache holds."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcache.cache.store import Cache
from kdcache.data.index import open_index
from kdcache.inspection.inspect import InspectOptions, inspect
from kdcache.inspection.statistics import compute_statistics
from kdcache.loader.opening import stored_views
from kdcache.runtime.formatting import format_ranges
from kdcache.targets.base import Targets
from kdcache.targets.full import FullCodec
from kdcache.targets.topk_codec import TopKCodec
from kdcache.views.viewset import RowRange
from support.small_cache import FULL, TOPK, fill, kept, open_entry
from support.small_job import CLASSES, MODEL, SAMPLES
from support.targets_contract import labels_for, teacher_log_probs


def test_views_blocks_and_bytes_are_counted(tmp_path: Path) -> None:
    fill(open_entry(tmp_path / "cache"), 2)
    other = open_entry(tmp_path / "cache", FULL, name="other")
    fill(other, 1)
    other.write_block(3, 1, kept(FULL, 3, 4, 8), {"renderer": "dali"})
    report = inspect(InspectOptions(str(tmp_path / "cache")))
    full, topk = report.teachers
    assert (full.complete, full.missing) == ((0,), {3: (0, 2)})
    assert (topk.complete, topk.missing) == ((0, 1), {})
    assert (full.stored_targets, topk.stored_targets) == (15, 22)
    for teacher in (full, topk):
        folder = tmp_path / "cache/teachers" / teacher.identity["name"]
        for name, size in teacher.array_bytes.items():
            stored = [
                path.stat().st_size
                for path in (folder / name).rglob("*")
                if path.is_file() and path.name != "zarr.json"
            ]
            assert size == sum(stored)
    metas = [path.stat().st_size for path in (tmp_path / "cache").rglob("zarr.json")]
    assert report.once_bytes["metadata"] == sum(metas)
    assert report.once_bytes["windows"] == (tmp_path / "cache/windows/c/0").stat().st_size
    assert [count for _, count in full.provenance] == [3, 1]
    text = "\n".join(report.lines())
    for words in ("view 3: blocks 0, 2", "complete   2 views: 0-1", "renderer dali (1 block)", "seed 7"):
        assert words in text
    assert json.loads(json.dumps(report.to_json()))["teachers"][1]["stored_targets"] == 22


def test_what_is_damaged_is_named_and_the_rest_is_told(tmp_path: Path) -> None:
    fill(open_entry(tmp_path), 2)
    (tmp_path / "teachers/teacher/records/0/1.json").write_bytes(b"?")
    (tmp_path / "teachers/teacher/tail/c/1/2").write_bytes(b"?")
    (teacher,) = inspect(InspectOptions(str(tmp_path))).teachers
    assert (teacher.complete, teacher.missing, teacher.damaged) == ((), {}, {0: (1,), 1: (2,)})
    assert teacher.stored_targets == 2 * 11 - 4
    assert teacher.statistics is not None
    assert (teacher.statistics.looked_at, teacher.statistics.views) == (2 * 11 - 4 - 3, 2)
    assert len(teacher.problems) == 2
    text = "\n".join(teacher.lines())
    assert str(tmp_path / "teachers/teacher/records/0/1.json") in text
    assert "view 1, block 2" in text
    assert "  damaged    view 0: block 1\n  damaged    view 1: block 2" in text
    assert "15 of 18 targets, from 2 views of 2" in text


def test_a_teacher_that_is_damaged_is_named_and_the_others_are_told(tmp_path: Path) -> None:
    fill(open_entry(tmp_path), 1)
    fill(open_entry(tmp_path, FULL, name="other"), 1)
    sound = inspect(InspectOptions(str(tmp_path)))
    (tmp_path / "teachers/teacher/zarr.json").write_bytes(b"?")
    report = inspect(InspectOptions(str(tmp_path)))
    assert report.teachers == sound.teachers[:1]
    assert list(report.problems) == ["teacher"]
    assert report.once_bytes["tables"] < sound.once_bytes["tables"]
    assert report.lines()[-2] == "teacher teacher: cannot be read"
    assert str(tmp_path / "teachers/teacher/zarr.json") in report.lines()[-1]


@pytest.mark.parametrize("damage", ["missing", "altered"])
def test_of_a_teacher_without_its_table_all_but_the_targets_is_told(tmp_path: Path, damage: str) -> None:
    fill(open_entry(tmp_path), 2)
    (sound,) = inspect(InspectOptions(str(tmp_path))).teachers
    table = tmp_path / "teachers/teacher/order/c/0/0"
    table.unlink() if damage == "missing" else table.write_bytes(b"?")
    report = inspect(InspectOptions(str(tmp_path)))
    (teacher,) = report.teachers
    assert report.problems == {}
    assert teacher.statistics is None
    (problem,) = teacher.problems
    assert str(table) in problem
    assert replace(teacher, statistics=sound.statistics, problems=()) == sound


def test_views_that_are_looked_at_are_counted(tmp_path: Path) -> None:
    fill(open_entry(tmp_path), 1)
    report = inspect(InspectOptions(str(tmp_path), samples=2))
    assert "from 1 view of 1" in "\n".join(report.lines())
    assert report.to_json()["teachers"][0]["statistics"]["views"] == 1


def test_an_empty_cache_can_be_looked_at(tmp_path: Path) -> None:
    open_entry(tmp_path / "cache")
    (teacher,) = inspect(InspectOptions(str(tmp_path / "cache"))).teachers
    assert teacher.statistics is None
    assert "complete   0 views: none" in "\n".join(teacher.lines())


def stored(codec: TopKCodec | FullCodec, rows: int) -> tuple[Targets, torch.Tensor]:
    """Targets as they come out of a cache, and as they are rebuilt with their labels."""
    said, labels = teacher_log_probs(rows, codec.num_classes), labels_for(rows, codec.num_classes)
    targets = codec.decode(codec.encode(codec.select(said, labels), rows), rows)
    return targets, targets.with_labels(labels).log_probs(num_classes=codec.num_classes).double()


@pytest.mark.parametrize("codec", [TOPK, FULL, TopKCodec(12, k=1, min_prob=0.0), TopKCodec(12, k=12, min_prob=0.0)])
def test_looks_are_those_of_the_rebuilt_targets(codec: TopKCodec | FullCodec) -> None:
    targets, rebuilt = stored(codec, 200)
    statistics = compute_statistics(targets)
    prob = rebuilt.exp()
    assert torch.allclose(statistics.entropy, -(prob * rebuilt).sum(1), atol=1e-4)
    assert torch.allclose(statistics.top, prob.gather(1, statistics.first[:, None])[:, 0], atol=1e-5)
    two = statistics.second >= 0
    assert bool((statistics.second != statistics.first).all())
    if codec is not TOPK:
        assert bool(two.all()) == (codec.parameters().get("k") != 1)
    assert bool((prob.gather(1, statistics.second.clamp(min=0)[:, None])[:, 0] <= statistics.top + 1e-6)[two].all())
    assert float(statistics.covered.max()) <= 1 + 1e-6


def test_what_the_tail_hides_is_bounded() -> None:
    """The codec has almost no quantisation error, so all of the divergence lies in the tail."""
    codec = TopKCodec(12, k=4, min_prob=0.02, bits=8)
    said = teacher_log_probs(500, 12, seed=3, sharpness=1.0)
    nobody = torch.full((500, 2), -1)
    kept_targets = codec.select(said, nobody)
    statistics = compute_statistics(kept_targets)
    divergence = (said.double().exp() * (said.double() - kept_targets.log_probs(num_classes=12).double())).sum(1)
    assert bool((divergence <= statistics.hidden + 1e-6).all())
    assert float(divergence.mean()) > 0.05 * float(statistics.hidden.mean()), "a bound that says nothing"


def test_labels_tell_top1_and_confusions(job) -> None:
    report = inspect(InspectOptions(str(job.cache), data=job.data))
    cache, index = Cache.open(job.cache), open_index(job.data)
    entry, view_set = cache.entry(MODEL), stored_views(cache, index).view_set
    right, wrong, labelled = 0, np.zeros((CLASSES, CLASSES), int), np.zeros(CLASSES, int)
    for view in range(10):
        rows = view_set.rows(RowRange(view, 0, SAMPLES))
        main = np.where(rows.weight >= 0.5, rows.labels[:, 0], rows.labels[:, 1])
        first = torch.cat(
            [entry.read_block(view, b).log_probs(num_classes=CLASSES) for b in range(entry.layout.blocks)]
        ).argmax(1)
        right += int((first.numpy() == main).sum())
        np.add.at(wrong, (main, first.numpy()), 1)
        np.add.at(labelled, main, 1)
    np.fill_diagonal(wrong, 0)
    found = report.teachers[0].statistics
    assert found.looked_at == 10 * SAMPLES
    assert found.top1 == pytest.approx(right / (10 * SAMPLES))
    worst = found.pairs[0]
    assert wrong[worst.classes] == wrong.max()
    assert worst.share == pytest.approx(wrong.max() / (10 * SAMPLES))
    assert worst.within == pytest.approx(wrong.max() / (labelled[worst.classes[0]]))
    one, other = worst.names
    told = f"{one} taken for {other}: {worst.share:.2%} of the targets, {worst.within:.2%} of those labelled {one}"
    assert f"  confused   {told}" in report.lines()
    assert worst.names == tuple(index.class_names[number] for number in worst.classes)
    assert f"top-1 is the label for {found.top1:.2%}" in "\n".join(report.lines())


def test_the_error_of_a_coding_is_that_of_the_records(job) -> None:
    report = inspect(InspectOptions(str(job.cache))).teachers[0]
    assert report.kl == 0, "full targets lose nothing"
    assert "error      0 nats" in "\n".join(report.lines())


def test_few_targets_may_stand_for_all(job) -> None:
    few = inspect(InspectOptions(str(job.cache), samples=60)).teachers[0].statistics
    assert 30 <= few.looked_at <= 90
    assert few.top1 is None


def test_without_labels_the_classes_that_are_close_are_told(job) -> None:
    report = inspect(InspectOptions(str(job.cache), samples=10**6))
    entry = Cache.open(job.cache).entry(MODEL)
    tops = Counter()
    for view in range(10):
        for block in range(entry.layout.blocks):
            tops.update(
                map(tuple, entry.read_block(view, block).log_probs(num_classes=CLASSES).topk(2).indices.tolist())
            )
    ((pair, count),) = tops.most_common(1)
    worst = report.teachers[0].statistics.pairs[0]
    assert (worst.classes, worst.names, worst.within) == (pair, None, None)
    assert worst.share == pytest.approx(count / (10 * SAMPLES))
    (line,) = (line for line in report.lines() if line.startswith("  close "))
    assert f"most often likeliest and second: {pair[0]} and {pair[1]} ({worst.share:.2%}), " in line


def test_neighbours_are_joined() -> None:
    assert format_ranges([]) == ""
    assert format_ranges([4, 0, 1, 2, 7, 9, 10]) == "0-2, 4, 7, 9-10"

"""The benchmark of what a cache costs in accuracy: what it compares, going on where it was, and its tables."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from kdcache.runtime.progress import silent
from support.small_job import MODEL, SAMPLES, SIZE, make_data, make_policy, make_teacher


@pytest.fixture
def script(project_root: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """accuracy.py and its parts."""
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    names = ("accuracy", "costs.arms", "costs.report", "costs.results", "costs.settings")
    return SimpleNamespace(**{name.rpartition(".")[2]: importlib.import_module(name) for name in names})


@pytest.fixture
def setting(script, tmp_path: Path) -> SimpleNamespace:
    """Fashion-MNIST in name only: a hundred images and an untrained teacher."""
    weights = make_teacher(tmp_path / "teacher")
    policy = make_policy(tmp_path / "policy.json", f'{{"crop_scale": [0.7, 1.0], "reference_size": {SIZE}}}')
    data = make_data(tmp_path / "data")
    material = script.settings.Material(data, data, MODEL, weights, policy)
    return SimpleNamespace(name="fashion-mnist", prepare=lambda folder, progress: material)


def compare(script, setting, out: Path, only: list[str], epochs: int = 1) -> list:
    results = script.results.Results(out / "results.jsonl")
    script.accuracy.compare([setting], out, [0], only, epochs, results, silent)
    return results.all()


def test_every_objective_meets_every_source_that_can_serve_it(script) -> None:
    arms = {str(arm) for arm in script.arms.all_arms([0, 1, 2])}
    for objective in ("kd", "dkd", "dist"):
        for source in ("live", "full", "topk", "top-3", "embedding"):
            assert {f"fashion-mnist/{objective}/{source}/{seed}" for seed in range(3)} <= arms
    assert {f"fonts/kd/{source}/2" for source in ("alone", "live", "full", "topk", "top-3", "embedding")} <= arms
    # A top-k puts the relation of columns far off, so that DIST's rows are compared by themselves, too.
    assert {"fashion-mnist/dist-rows/live/0", "fashion-mnist/dist-rows/topk/0"} <= arms


def test_full_scores_as_live_does_and_topk_tells_what_it_lost(script, setting, tmp_path: Path) -> None:
    live, full, topk = compare(
        script,
        setting,
        tmp_path / "out",
        ["fashion-mnist/kd/live/*", "fashion-mnist/kd/full/*", "fashion-mnist/dist-rows/topk/*"],
        epochs=2,
    )
    assert (live.arm, full.arm, topk.arm) == (
        "fashion-mnist/kd/live/0",
        "fashion-mnist/kd/full/0",
        "fashion-mnist/dist-rows/topk/0",
    )
    assert (full.top1, full.loss) == (live.top1, live.loss)
    assert live.kl is None
    assert live.bytes_per_view is None
    assert topk.kl >= 0
    # How many bytes these are depends on the teacher's last bits, and so on the processor: they are counted here.
    entry = tmp_path / "out" / "fashion-mnist" / "2-epochs" / "seed-0.zarr" / "teachers" / "topk"
    files = [file for file in entry.rglob("*") if file.is_file() and file.name != "zarr.json"]
    stored = [file for file in files if not file.is_relative_to(entry / "order")]
    assert topk.bytes_per_view == sum(file.stat().st_size for file in stored) / (2 * SAMPLES)


def test_all_arms_of_a_seed_see_the_same_views(script, setting, tmp_path: Path) -> None:
    compare(script, setting, tmp_path, ["fashion-mnist/kd/alone/0", "fashion-mnist/kd/topk/0"])
    folder = tmp_path / "fashion-mnist" / "1-epochs"
    alone, topk = ((folder / f"kd-{source}-0" / "run_identity.json").read_text("utf-8") for source in ("alone", "topk"))
    view_set = [text[text.index('"view_set"') :] for text in (alone, topk)]
    assert view_set[0] == view_set[1]


def test_what_is_done_is_kept_at_once_and_not_done_again(
    script, setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def run(arm, material, folder, epochs, progress):
        ran.append(str(arm))
        if len(ran) == 3:
            raise KeyboardInterrupt
        return script.results.Result(str(arm), epochs, 0.5, 1.0, 100, None, None, 1.0)

    monkeypatch.setattr(script.accuracy, "run", run)
    with pytest.raises(KeyboardInterrupt):
        compare(script, setting, tmp_path, ["fashion-mnist/kd/*/0"])
    done = compare(
        script, setting, tmp_path, ["fashion-mnist/kd/live/0", "fashion-mnist/kd/alone/0", "fashion-mnist/kd/full/0"]
    )
    assert ran == [f"fashion-mnist/kd/{source}/0" for source in ("alone", "live", "full", "full")]
    assert [result.arm for result in done] == [*ran[:2], ran[3]]


def test_other_epochs_are_other_results(script, setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(arm, material, folder, epochs, progress):
        return script.results.Result(str(arm), epochs, epochs / 10, 1.0, 100, None, None, 1.0)

    monkeypatch.setattr(script.accuracy, "run", run)
    compare(script, setting, tmp_path, ["fashion-mnist/kd/live/0"], epochs=1)
    both = compare(script, setting, tmp_path, ["fashion-mnist/kd/live/0"], epochs=2)
    assert [result.epochs for result in both] == [1, 2]
    assert "20.00" in script.report.tables(both, 2)
    assert "10.00" not in script.report.tables(both, 2)


def test_an_arm_whose_targets_are_not_there_is_left_out(
    script, setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script.arms, "KINDS", {"full": None})
    monkeypatch.setattr(script.arms, "KEPT", {**script.arms.KEPT, "embedding": {"targets": "embedding"}})
    assert compare(script, setting, tmp_path, ["fashion-mnist/kd/embedding/0"]) == []


def test_tables_have_means_sample_deviations_and_differences_by_seed(script) -> None:
    def result(source: str, seed: int, top1: float, size: float | None = None):
        return script.results.Result(f"fonts/kd/{source}/{seed}", 20, top1, 1.0, 1000, size, 0.002 if size else None, 1)

    results = [result("live", seed, top1) for seed, top1 in enumerate((0.90, 0.91, 0.92))]
    results += [result("topk", seed, top1, 2.25) for seed, top1 in enumerate((0.90, 0.92, 0.91))]
    results += [result("top-3", 1, 0.905, 3.5)]
    part, every = script.report.tables(results, 20).split("**All of these**")
    *_, live, topk, top3 = part.strip().splitlines()
    assert live == "| live teacher |  |  | 90.00 | 91.00 | 92.00 | 91.00 ± 1.00 |  |"
    assert topk == (
        "| adaptive top-k, the default | 2.2 | 0.002 | 90.00 | 92.00 | 91.00 | 91.00 ± 1.00 | +0.00 ± 1.00 |"
    )
    assert top3 == "| fixed top-3 | 3.5 | 0.002 |  | 90.50 |  | 90.50 | -0.50 |"
    *_, topk = every.strip().splitlines()
    assert topk == "| adaptive top-k, the default | 3 | +0.00 ± 0.58 | +0.0000 ± 0.0000 |"

"""Each option reaches the request that the library's job gets, under its own name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kdcache.dumping.options import DumpOptions
from kdcache.dumping.report import DumpReport
from kdcache.evaluation.evaluate import TableOptions
from kdcache.evaluation.report import ScoreTable
from kdcache.training.options import TrainOptions
from kdcache.training.train import TrainReport
from kdcache_cli.main import app


def report(kind: type) -> Any:
    """A report of a job that has done nothing, of the type that the job returns."""
    lines = ["first line", "second line"]
    return object.__new__(type("Report", (kind,), {"lines": lambda self: lines}))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The requests that jobs were called with, in place of doing them."""
    requests: list[Any] = []

    def job(kind: type) -> Callable[[Any, Any], Any]:
        def do(request: Any, progress: Any, **_: Any) -> Any:
            requests.append(request)
            return report(kind)

        return do

    def evaluate_table(request: TableOptions, progress: Any) -> ScoreTable:
        requests.append(request)
        return ScoreTable(())

    monkeypatch.setattr("kdcache.jobs.run_dump", job(DumpReport))
    monkeypatch.setattr("kdcache.jobs.run_train", job(TrainReport))
    monkeypatch.setattr("kdcache.jobs.evaluate_table", evaluate_table)
    return requests


def run(*arguments: str, **environment: str) -> str:
    result = CliRunner().invoke(app, arguments, env=environment, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_dump_logits_with_every_option(asked: list[Any]) -> None:
    out = run(
        *(
            "dump-logits",
            "--teacher",
            "resnet152",
            "--data",
            "shards",
            "--cache",
            "store",
            "--weights",
            "w.pth",
        ),
        *("--size", "160", "--name", "teacher", "--views", "7", "--k", "10", "--min-prob", "0.5", "--targets", "topk"),
        *("--label-space", "none", "--policy", "crop", "--seed", "4294967295", "--batch-size", "64"),
        *("--device", "cuda", "--precision", "bf16", "--renderer", "pillow", "--decode", "cpu", "--dry-run"),
        *("--import", "mine", "--import", "more.py"),
    )
    assert asked == [
        DumpOptions(
            teacher="resnet152",
            data="shards",
            cache="store",
            weights=Path("w.pth"),
            size=160,
            name="teacher",
            views=7,
            k=10,
            min_prob=0.5,
            targets="topk",
            label_space="none",
            policy="crop",
            seed=4294967295,
            batch_size=64,
            device="cuda",
            precision="bf16",
            renderer="pillow",
            decode="cpu",
            dry_run=True,
            imports=("mine", "more.py"),
        )
    ]
    assert out == "first line\nsecond line\n"


def test_dump_logits_with_options_that_exclude_those(asked: list[Any]) -> None:
    run("dump-logits", "--teacher", "t", "--targets", "full", "--dtype", "uint8")
    run("dump-logits", "--teacher", "t", "--for", "kd,dist")
    plain = DumpOptions(teacher="t", data="./data", cache="./cache")
    assert asked == [replace(plain, targets="full", dtype="uint8"), replace(plain, objectives="kd,dist")]


def test_dump_logits_as_it_stands(asked: list[Any]) -> None:
    run("dump-logits", "--teacher", "beitv2_b")
    assert asked == [DumpOptions(teacher="beitv2_b", data="./data", cache="./cache")]


def test_train_with_every_option(asked: list[Any]) -> None:
    run(
        *("train", "--student", "resnet50", "--data", "shards", "--cache", "store", "--val", "held-out"),
        *("--epochs", "3", "--recipe", "a2", "--config", "c.yaml", "--set", "a=1", "--set", "b.c=[1, 2]"),
        *("--out", "run", "--seed", "5", "--batch-size", "32", "--supervised", "--teacher", "big"),
        *("--teachers", "a=0.7,b=0.3"),
        *("--online-teacher", "live", "--teacher-weights", "t.safetensors", "--device", "cpu"),
        *("--kd-stop-epoch", "7", "--bce-sum", "--bce-target-thresh", "0.2"),
        *("--renderer", "pillow", "--decode", "gpu", "--fresh", "--approximate"),
        *("--import", "mine", "--log", "wandb", "--log", "mlflow", "--follow", "--report", "--dry-run"),
    )
    assert asked == [
        TrainOptions(
            student="resnet50",
            data="shards",
            cache="store",
            val="held-out",
            epochs=3,
            recipe="a2",
            config=Path("c.yaml"),
            overrides=("a=1", "b.c=[1, 2]"),
            out=Path("run"),
            seed=5,
            batch_size=32,
            supervised=True,
            teacher="big",
            teachers="a=0.7,b=0.3",
            approximate=True,
            online_teacher="live",
            teacher_weights=Path("t.safetensors"),
            kd_stop_epoch=7,
            bce_sum=True,
            bce_target_thresh=0.2,
            device="cpu",
            renderer="pillow",
            decode="gpu",
            fresh=True,
            log=("wandb", "mlflow"),
            follow=True,
            report=True,
            dry_run=True,
            imports=("mine",),
        )
    ]


def test_train_as_it_stands(asked: list[Any]) -> None:
    run("train", "--student", "resnet50")
    assert asked == [TrainOptions(student="resnet50", data="./data", cache="./cache")]


def test_data_and_cache_come_from_the_environment_where_no_option_says_otherwise(asked: list[Any]) -> None:
    places = {"KDCACHE_DATA": "my-data", "KDCACHE_CACHE": "my-cache"}
    run("dump-logits", "--teacher", "t", **places)
    run("train", "--student", "s", "--cache", "given", **places)
    assert [(request.data, request.cache) for request in asked] == [
        ("my-data", "my-cache"),
        ("my-data", "given"),
    ]


def test_evaluate(asked: list[Any]) -> None:
    run("evaluate", "run-folder", "--data", "held-out")
    run(
        *("evaluate", "resnet50", "--data", "d", "--weights", "w", "--device", "cpu", "--batch-size", "8"),
        *("--import", "m.py"),
    )
    run(
        *("evaluate", "a", "b", "--data", "d", "--data", "e", "--size", "160", "--crop-pct", "0.9", "--bins", "20"),
        *("--real-labels", "real.json", "--reference", "teacher", "--reference-weights", "t.pth", "--seed", "3"),
        *("--precision", "bf16", "--details"),
    )
    assert asked == [
        TableOptions(models=("run-folder",), data=("held-out",)),
        TableOptions(
            models=("resnet50",), data=("d",), weights=Path("w"), device="cpu", batch_size=8, imports=("m.py",)
        ),
        TableOptions(
            models=("a", "b"),
            data=("d", "e"),
            size=160,
            crop_pct=0.9,
            bins=20,
            real_labels=Path("real.json"),
            reference="teacher",
            reference_weights=Path("t.pth"),
            seed=3,
            precision="bf16",
        ),
    ]


def test_evaluate_does_not_take_the_training_images_unasked(asked: list[Any]) -> None:
    result = CliRunner().invoke(app, ["evaluate", "run-folder"], env={"KDCACHE_DATA": "train"})
    assert result.exit_code == 2
    assert not asked


@pytest.mark.parametrize(
    "arguments",
    [
        ("dump-logits",),
        ("dump-logits", "--teacher", "t", "--views", "0"),
        ("dump-logits", "--teacher", "t", "--min-prob", "1.5"),
        ("dump-logits", "--teacher", "t", "--targets", "some"),
        ("dump-logits", "--teacher", "t", "--seed", "4294967296"),
        ("dump-logits", "--teacher", "t", "--decode", "tpu"),
        ("dump-logits", "--teacher", "t", "--nonsense"),
        ("dump-logits", "--teacher", "t", "--for", "kd", "--k", "5"),
        ("dump-logits", "--teacher", "t", "--targets", "full", "--min-prob", "0.1"),
        ("train", "--student", "s", "--epochs", "many"),
        ("nonsense",),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(asked: list[Any], arguments: tuple[str, ...]) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == 2
    assert not asked

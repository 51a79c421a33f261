"""A model that a file of the user's registers, from the dump to the evaluation, and without that file."""

import json
import sys
from contextlib import suppress
from pathlib import Path

import pytest

import kdcache
from kdcache.cache.store import Cache
from kdcache.errors import ConfigError, KdcacheError, UnknownModelError, UsageError
from kdcache.models.students import create_student
from kdcache.runtime.imports import import_modules
from kdcache.training.export import export_model
from support.command_line import kdcache as command
from support.small_job import CLASSES, MODEL, SETTINGS, SIZE

CODE = """
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet

default_cfgs = generate_default_cfgs(
    {"own_net.none": {"input_size": (3, 32, 32), "num_classes": 4, "pool_size": (1, 1), "crop_pct": 0.9,
                      "interpolation": "bicubic", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5),
                      "first_conv": "conv1", "classifier": "fc"}}
)


@register_model
def own_net(pretrained=False, **kwargs):
    settings = dict(block=BasicBlock, layers=(1, 1, 1, 1), channels=(8, 8, 8, 8)) | kwargs
    return build_model_with_cfg(ResNet, "own_net", pretrained, **settings)
"""
HERE = {"device": "cpu", "renderer": "pillow"}


def forget() -> None:
    """As a new process would be, which has not imported the file."""
    from timm.models import _registry

    _registry._model_entrypoints.pop("own_net", None)
    for name in [name for name in sys.modules if name.startswith("own_models_")]:
        del sys.modules[name]


@pytest.fixture
def unknown():
    forget()
    yield
    forget()


@pytest.fixture(scope="module")
def made(job, tmp_path_factory):
    """File, weights, cache and run of a model that the file registers."""
    root = tmp_path_factory.mktemp("imports")
    file = root / "own_models.py"
    file.write_text(CODE)
    import_modules([str(file)])
    weights = export_model(root / "teacher", create_student("own_net", num_classes=CLASSES, size=SIZE, seed=3))
    forget()
    imports = {"imports": (str(file),)}
    kdcache.dump_logits("own_net", job.data, root / "cache", weights=weights, policy=job.policy, views=1, batch_size=16,
                        **HERE, **imports)  # fmt: skip
    forget()
    kdcache.train("own_net", job.data, root / "cache", out=root / "run", epochs=1, recipe="fashion-mnist",
                  overrides=SETTINGS, **HERE, **imports)  # fmt: skip
    forget()
    return file, weights, root / "cache", root / "run"


def refusal_of(job) -> str:
    with pytest.raises(UnknownModelError, match="There is no model called 'own_net'") as refused:
        job()
    return str(refused.value)


def test_it_is_recorded_in_the_entry_and_in_the_run(made):
    file, _, cache, run = made
    assert Cache.open(str(cache)).entry("own_net").record(0, 0).provenance["imports"] == str(file)
    assert json.loads((run / "invocation.json").read_text())["imports"] == [str(file)]
    assert any(f"imports {file}" in line for line in kdcache.inspect(cache).lines())


def test_commands_that_do_not_find_the_model_name_the_import(job, made, unknown):
    file, weights, cache, run = made
    again = f"was made with imports {file}, and kdcache imports nothing by itself: give it again"
    dump = lambda teacher, **choice: kdcache.dump_logits(teacher, job.data, cache, views=2, **HERE, **choice)  # noqa: E731
    assert f"The teacher own_net in {cache} {again}" in refusal_of(lambda: dump("own_net", weights=weights))
    assert f"The run {run} {again}" in refusal_of(lambda: dump(str(run), name="of_the_run"))
    assert f"The run {run} {again}" in refusal_of(lambda: dump("own_net", weights=run, name="with_its_weights"))
    live = lambda: kdcache.train(  # noqa: E731
        MODEL, job.data, None, out=run.parent / "live", recipe="fashion-mnist", online_teacher="own_net",
        teacher_weights=run, **HERE,
    )  # fmt: skip
    assert f"The run {run} {again}" in refusal_of(live)
    train = lambda out: kdcache.train("own_net", job.data, cache, out=out, recipe="fashion-mnist", **HERE)  # noqa: E731
    assert f"The run {run} {again}" in refusal_of(lambda: train(run))
    assert "was made with" not in refusal_of(lambda: train(run.parent / "another"))
    assert f"The run {run} {again}" in refusal_of(lambda: kdcache.evaluate(run, job.data, device="cpu"))
    verify = lambda: kdcache.verify(cache, data=job.data, teacher="own_net", weights=weights, **HERE)  # noqa: E731
    assert f"The teacher own_net in the cache {again}" in refusal_of(verify)


def test_with_the_import_they_find_it(job, made, unknown):
    file, weights, cache, run = made
    imports = {"imports": (str(file),)}
    assert kdcache.verify(cache, data=job.data, teacher="own_net", weights=weights, samples=16, **HERE, **imports).whole
    forget()
    report = kdcache.dump_logits("own_net", job.data, cache, weights=weights, views=1, batch_size=16, **HERE, **imports)
    assert report.written == 0
    forget()
    report = kdcache.train("own_net", job.data, cache, out=run, epochs=1, recipe="fashion-mnist", overrides=SETTINGS,
                           **HERE, **imports)  # fmt: skip
    assert report.epochs == 1


def test_on_the_command_line(job, made):
    file, _, cache, run = made
    ended = command("evaluate", run, "--data", job.data, "--device", "cpu", "--import", file)
    assert ended.returncode == 0, ended.stderr
    assert "top-1" in ended.stdout
    ended = command("verify", cache, "--import", file)
    assert ended.returncode == 2
    assert f"--import {file} belongs to --teacher and --data" in ended.stderr


def test_a_file_that_is_not_there_is_refused_before_anything_is_opened(tmp_path: Path):
    for job in (
        lambda: kdcache.dump_logits("own_net", tmp_path, tmp_path / "c", imports=("none.py",)),
        lambda: kdcache.train("own_net", tmp_path, tmp_path / "c", imports=("none.py",)),
    ):
        with pytest.raises(UsageError, match=r"There is no Python file none.py for imports:"):
            job()


@pytest.fixture
def trap(tmp_path):
    """A module that leaves a file wherever it is imported."""
    file = tmp_path / "trap.py"
    file.write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'sprung')!r}).touch()\n")
    yield file
    for name in [name for name in sys.modules if name.startswith("trap_")]:
        del sys.modules[name]


def sprung(trap: Path) -> bool:
    return (trap.parent / "sprung").exists()


def test_a_recipe_that_names_code_is_refused(job, trap, tmp_path):
    recipe = tmp_path / "own.yaml"
    for text in (f"imports: [{trap}]", f"student: {{imports: [{trap}]}}", f"import: {trap}"):
        recipe.write_text(text)
        with pytest.raises(ConfigError, match="import"):
            kdcache.train(MODEL, job.data, job.cache, out=tmp_path / "run", recipe=str(recipe), **HERE)
    recipe.write_text(f"x: !!python/module:{trap.stem} ''")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        kdcache.train(MODEL, job.data, job.cache, out=tmp_path / "run", recipe=str(recipe), **HERE)
    assert not sprung(trap)


def test_a_cache_that_names_code_imports_none(job, trap, tmp_path):
    cache = tmp_path / "cache"
    settings = {"weights": job.weights, "batch_size": 16, **HERE}
    kdcache.dump_logits(MODEL, job.data, cache, policy=job.policy, views=1, imports=(str(trap),), **settings)
    assert sprung(trap)  # the user named it
    (tmp_path / "sprung").unlink()
    for name in [name for name in sys.modules if name.startswith("trap_")]:
        del sys.modules[name]
    assert Cache.open(str(cache)).entry(MODEL).record(0, 0).provenance["imports"] == str(trap)
    kdcache.inspect(cache)
    kdcache.verify(cache, data=job.data, teacher=MODEL, weights=job.weights, samples=16, **HERE)
    kdcache.dump_logits(MODEL, job.data, cache, views=2, **settings)
    kdcache.open_cache(cache, data=job.data)
    kdcache.train(MODEL, job.data, cache, out=tmp_path / "run", epochs=1, recipe="fashion-mnist", overrides=SETTINGS,
                  **HERE)  # fmt: skip
    assert not sprung(trap)


def test_a_run_that_names_code_imports_none(job, trap, tmp_path):
    out = tmp_path / "run"
    settings = {"out": out, "epochs": 1, "recipe": "fashion-mnist", "overrides": SETTINGS, **HERE}
    kdcache.train(MODEL, job.data, job.cache, **settings)
    invocation = json.loads((out / "invocation.json").read_text())
    (out / "invocation.json").write_text(json.dumps(invocation | {"imports": [str(trap)]}))
    kdcache.evaluate(out, job.data, device="cpu")
    kdcache.export(out, out=tmp_path / "export")
    kdcache.train(MODEL, job.data, job.cache, **settings)
    (out / "invocation.json").write_text(json.dumps(invocation | {"imports": [str(trap)]}))
    kdcache.dump_logits(str(out), job.data, tmp_path / "cache", views=1, policy=job.policy, batch_size=16, **HERE)
    config = out / "config.yaml"
    config.write_text(f"{config.read_text()}imports: [{trap}]\n")
    for use in (
        lambda: kdcache.evaluate(out, job.data, device="cpu"),
        lambda: kdcache.train(MODEL, job.data, job.cache, **settings),
    ):
        with suppress(KdcacheError):  # refused or passed over
            use()
    assert not sprung(trap)

"""A shell completes names without importing torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kdcache_cli.completion import entry_names, objective_names, timm_names

#: Words of a line, of which the last is to be completed, and what has to be among the answers.
LINES = {
    "dump-logits --teacher beitv2_": {"beitv2_b", "beitv2_l", "beitv2_base_patch16_224"},
    "dump-logits --teacher resnet152.a1h": {"resnet152.a1h_in1k"},
    "dump-logits --policy a": {"a1", "a2"},
    "dump-logits --teacher t --for kd,dk": {"kd,dkd", "kd,dkd-cifar"},
    "train --student resnet5": {"resnet50", "resnet50d"},
    "train --student cifar_wrn_40": {"cifar_wrn_40_1", "cifar_wrn_40_2"},
    "train --student s --recipe a1-v": {"a1-vit-s", "a1-vit-t"},
    "train --student s --online-teacher convnext_x": {"convnext_xl", "convnext_xlarge"},
    "train --student s --cache CACHE --teacher f": {"first", "fourth"},
    "train --cache CACHE --teachers first=0.5,se": {"first=0.5,second"},
    "train --student s --set objective.name=dis": {"objective.name=dist", "objective.name=dist-cifar"},
    "cache copy CACHE there --teachers fo": {"fourth"},
    "cache verify CACHE --teacher s": {"second"},
    "recipes show fashion": {"fashion-mnist"},
    "policies cr": {"crop"},
    "evaluate test_resn": {"test_resnet"},
}

PROGRAM = """
import json, sys
from typer.main import get_command
from kdcache_cli.main import app

command, found = get_command(app), {}
for line in json.load(sys.stdin):
    *words, incomplete = line.split()
    here, rest = command, list(words)
    context = here.make_context("kdcache", [], resilient_parsing=True)
    while rest and hasattr(here, "commands") and rest[0] in here.commands:
        here = here.commands[rest.pop(0)]
        context = here.make_context(here.name, [], parent=context, resilient_parsing=True)
    option = rest.pop() if rest and rest[-1].startswith("--") else None
    context = here.make_context(here.name, rest, parent=context.parent, resilient_parsing=True)
    asked = next(
        each for each in here.params
        if (option in each.opts if option else each.param_type_name == "argument")
    )
    found[line] = [item.value for item in asked.shell_complete(context, incomplete)]
print(json.dumps({"found": found, "loaded": [name for name in ("torch", "timm", "zarr") if name in sys.modules]}))
"""


@pytest.fixture(scope="module")
def completed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What each line is completed to, in one process that has to stay without torch."""
    cache = tmp_path_factory.mktemp("cache")
    for name in ("first", "second", "fourth"):
        (cache / "teachers" / name).mkdir(parents=True)
    lines = {line: line.replace("CACHE", str(cache)) for line in LINES}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(list(lines.values())),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["loaded"] == []
    return {line: set(answer["found"][asked]) for line, asked in lines.items()}


@pytest.mark.parametrize("line", LINES)
def test_a_name_is_completed(line: str, completed: dict[str, set[str]]) -> None:
    assert LINES[line] <= completed[line]
    incomplete = line.split()[-1]
    assert all(name.startswith(incomplete) for name in completed[line])


def test_timm_s_source_names_the_models_that_timm_has() -> None:
    import timm

    # Other tests may have registered kdcache's own networks in this process.
    own = {name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("timm.")}
    assert timm_names(with_tags=False) == own
    tagged, pretrained = timm_names(with_tags=True), set(timm.list_models(pretrained=True))
    assert len(tagged & pretrained) > 0.9 * len(pretrained)


def test_the_table_s_source_names_the_objectives() -> None:
    from kdcache.objectives.registry import OBJECTIVES

    assert objective_names() == list(OBJECTIVES)


def test_entries_are_those_of_a_folder_and_a_url_is_not_asked(tmp_path: Path) -> None:
    (tmp_path / "teachers" / "one").mkdir(parents=True)
    (tmp_path / "teachers" / "file").touch()
    assert entry_names(str(tmp_path)) == ["one"]
    assert entry_names("s3://bucket/cache") == []

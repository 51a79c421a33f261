"""Help names every command and option, and what it calls a default is the library's."""

import re
import shlex

import pytest
from typer.testing import CliRunner

from kdcache_cli.commands import COMMANDS, Command
from kdcache_cli.main import app
from support.documented import parse

OPTIONS = {
    "import folder": "SRC OUT --seed --resize --quality --allow-empty",
    "import imagenet": "SRC OUT --devkit --labels --subset --seed --resize --quality",
    "import cifar": "SRC OUT --split --labels --seed --resize --quality",
    "import hf": "SRC OUT --split --image --label --classes --seed --resize --quality",
    "import webdataset": "DATA OUT --image --label --classes --unlabelled --seed --resize --quality",
    "import fashion-mnist": "OUT --split --source --limit --seed",
    "index": "DATA --json --unlabelled --check --drop-bad --mark-bad --fraction --stratified --out",
    "preview": "--data --policy --cache --teacher --out --images --views --sample --seed --size --renderer",
    "dump-logits": "--json --quiet --verbose --teacher --data --cache --weights --views --k --min-prob --targets "
    "--dtype --label-space --policy "
    "--seed --batch-size --device --precision --renderer --decode --dry-run",
    "train": "--json --student --data --cache --val --epochs --recipe --config --set --out --seed --batch-size "
    "--supervised "
    "--teacher --teachers --online-teacher --teacher-weights --device --renderer --decode --fresh --log --dry-run",
    "evaluate": "MODEL --data --weights --size --crop-pct --bins --real-labels --reference --reference-weights "
    "--seed --device --precision --batch-size --import --details --json",
    "export": "RUN --ema --no-ema --format --dtype --out --import --json",
    "report": "RUN --out --data --reference --reference-weights --cache --cache-data --teacher --device --renderer "
    "--import",
    "inspect": "CACHE --data --samples --html --json",
    "cache copy": "SRC DST --views --teachers --json",
    "cache inspect": "CACHE --data --samples --html --json",
    "cache verify": "CACHE --data --teacher --repair --json",
    "verify": "CACHE --data --teacher --weights --samples --max-kl --seed --repair --device --renderer --decode --json",
    "demo": "--out --seed --renderer",
    "doctor": "--data --cache --limit --json",
    "policies": "--json",
    "recipes": "list show copy diff",
    "recipes list": "--json",
    "recipes show": "NAME",
    "recipes copy": "NAME FILE",
    "recipes diff": "A B",
}


def help_of(command: str) -> str:
    result = CliRunner().invoke(app, [*command.split(), "--help"], terminal_width=300, env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    return result.output


def default_of(option: str, text: str) -> str:
    """What a line of the help calls the default of an option; words in parentheses come without them."""
    line = next(line for line in text.splitlines() if re.search(rf"{option}\b", line))
    found = re.search(r"\[default: \(?(.*?)\)?\]", line)
    assert found, f"{option} shows no default: {line}"
    return found[1]


def test_the_command_names_its_commands_in_the_order_of_their_use() -> None:
    panels = re.split(r"^╭─ (.+?) ─+╮$", help_of(""), flags=re.MULTILINE)[1:]
    rows = {
        title: re.findall(r"^│ ([a-z-]+) +[A-Z]", text, flags=re.MULTILINE)
        for title, text in zip(panels[::2], panels[1::2], strict=True)
    }
    assert {title: names for title, names in rows.items() if names} == {
        "Begin": ["doctor", "demo"],
        "Data and views": ["import", "index", "policies", "preview"],
        "Stage 1: the teacher's targets": ["dump-logits", "inspect", "verify", "cache"],
        "Stage 2: students": ["recipes", "train", "evaluate", "export", "report"],
    }


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_each_command_has_an_example_that_it_takes(command: Command) -> None:
    text = help_of(command.name)
    assert command.examples
    for example in command.examples:
        assert len(example) <= 78
        assert example in text
        words = shlex.split(example)
        assert words[: 1 + len(command.name.split())] == ["kdcache", *command.name.split()]
        assert parse(words[1:]) == command.name.split()[-1]


def test_the_group_of_caches_has_the_commands_that_are_also_beside_it() -> None:
    runs = {command.name: command.run for command in COMMANDS}
    assert runs["cache inspect"] is runs["inspect"]
    assert runs["cache verify"] is runs["verify"]
    assert "cache copy" in runs


def test_options_are_shown_in_groups() -> None:
    def groups(command: str) -> list[str]:
        return re.findall(r"^╭─ (.+?) ─+╮$", help_of(command), flags=re.MULTILINE)

    assert groups("dump-logits") == ["Options", "Model", "Views", "Targets", "Computing", "Output", "Messages"]
    assert groups("train") == ["Options", "Settings", "Output", "Targets", "Computing", "Model", "Messages"]
    assert groups("index") == ["Arguments", "Options", "Check", "A part of the data", "Output", "Messages"]


@pytest.mark.parametrize("command", OPTIONS)
def test_help_names_every_option_and_says_what_it_is(command: str) -> None:
    text = help_of(command)
    for option in OPTIONS[command].split():
        line = next((line for line in text.splitlines() if re.search(rf"(?<!\S){option}(?!\S)", line)), None)
        assert line, f"{command} does not name {option}"
        assert re.search(r"[A-Za-z;]+ [a-z]+ ", line.partition(option)[2]), f"{option} is not explained: {line}"


def test_defaults_shown_are_those_of_the_library() -> None:
    from kdcache.doctor.options import DoctorOptions
    from kdcache.dumping.options import DumpOptions
    from kdcache.evaluation.evaluate import EvaluateSettings
    from kdcache.loader.opening import DEFAULT_VIEWS
    from kdcache.loader.teacher_views import DEFAULT_BATCH
    from kdcache.targets.kinds import DEFAULT_KIND
    from kdcache.targets.topk_codec import TopKCodec
    from kdcache.training.recipes import DEFAULT_RECIPE
    from kdcache.views.policies import DEFAULT as DEFAULT_POLICY

    dump = help_of("dump-logits")
    assert default_of("--views", dump) == str(DEFAULT_VIEWS)
    assert default_of("--k", dump) == str(TopKCodec.k)
    assert default_of("--min-prob", dump) == str(TopKCodec.min_prob)
    assert default_of("--batch-size", dump) == f"{DEFAULT_BATCH}, fewer for small data"
    assert default_of("--targets", dump) == DEFAULT_KIND
    assert default_of("--label-space", dump) == DumpOptions.label_space
    assert default_of("--renderer", dump) == DumpOptions.renderer
    assert DEFAULT_POLICY in default_of("--policy", dump)
    assert default_of("--recipe", help_of("train")) == DEFAULT_RECIPE
    assert float(default_of("--limit", help_of("doctor"))) == DoctorOptions.limit
    assert default_of("--batch-size", help_of("evaluate")) == str(EvaluateSettings.batch_size)
    assert default_of("--bins", help_of("evaluate")) == str(EvaluateSettings.bins)


def test_policies_and_recipes_are_listed_with_the_defaults_marked() -> None:
    from kdcache.training.recipes import DEFAULT_RECIPE, list_recipes
    from kdcache.views.policies import DEFAULT, NAMED

    policies = CliRunner().invoke(app, ["policies"]).stdout
    recipes = CliRunner().invoke(app, ["recipes"]).stdout
    for text, names, default in (
        (policies, list(NAMED), DEFAULT),
        (recipes, [recipe.name for recipe in list_recipes()], DEFAULT_RECIPE),
    ):
        rows = [line for line in text.splitlines()[1:] if not line.startswith(" ")]
        assert [row.split()[0] for row in rows] == names
        assert [row.split()[0] for row in rows if "(default)" in row] == [default]

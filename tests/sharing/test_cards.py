"""Cards: what they tell, that nobody's README is lost, and that exports get to the hub with theirs."""

import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import kdcache
from kdcache.errors import RunError, UsageError
from kdcache.models.students import create_student
from kdcache.sharing.card import SOMEWHERE, cache_card
from kdcache.sharing.card_files import is_own, with_mark
from kdcache.sharing.facts import CacheFacts, TeacherFacts
from kdcache.sharing.jobs import write_card
from kdcache.training.export import export_model
from kdcache_cli.main import app
from support.documented import code_blocks, lines_of, parse
from support.hub_server import Fault, Hub
from support.hub_server import hub as hub
from support.small_cache import PROVENANCE, fill, kept, open_entry, tree
from support.small_job import CLASSES, MODEL, SIZE, Heard

IDENTITY = {
    "name": "big",
    "architecture": "beit | <b>",
    "weights": "0123",
    "size": 224,
    "precision": "bf16",
    "num_classes": 1000,
    "targets": {"kind": "topk", "k": 25},
}
TEACHER = TeacherFacts(IDENTITY, (0, 1, 3), (7,), 5000, 100, 0.0123, 3, 4)
FACTS = CacheFacts("f" * 64, 1_281_167, "a2, seed 3", {"mixup": 0.1}, 3, (TEACHER,), lost=2)


def front_matter(card: str) -> dict[str, object]:
    return yaml.safe_load(card.split("---\n")[1])


def test_a_card_tells_what_the_cache_is() -> None:
    card = cache_card(FACTS, "hf://datasets/me/cache", has_sheet=True)
    front = front_matter(card)
    assert front["license"] == "unknown"
    assert front["task_categories"] == ["image-classification"]
    assert front["size_categories"] == ["1M<n<10M"]
    assert "kdcache" in front["tags"]
    assert front["viewer"] is False
    for told in (
        *("1,281,167", "f" * 64, "a2, seed 3", "| seed | 3 |", "mixup=0.1", "![Views of some of the images]"),
        *(
            r"beit \| \<b\>",
            "`0123`",
            "224 pixels",
            "bf16",
            "kind=topk, k=25",
            "| views | 3 (0-1, 3), and parts of 7 |",
        ),
        *("5 KB, 50.0 a view of an image", "0.0123 nats", "of 3 of 4 blocks", "| lost images | 2, whose"),
        *("| the weights of big | to be filled in |", "| the images | to be filled in |"),
    ):
        assert told in card, told


def test_the_commands_of_a_card_are_taken_by_the_command_line() -> None:
    (block,) = code_blocks(cache_card(FACTS, "hf://datasets/me/cache", has_sheet=False), "sh")
    words = [line[1:] for line in lines_of(block, "kdcache")]
    assert [line[:2] for line in words] == [["cache", "pull"], ["train", "--student"]]
    assert words[0][2] == "hf://datasets/me/cache"
    for line in words:
        parse(line)


def test_what_a_card_does_not_know_it_leaves_out() -> None:
    unknown = TeacherFacts(IDENTITY, (), (), 0, 0, None, 0, 0)
    card = cache_card(CacheFacts("f", 5, "a2", {}, 0, (unknown,)), None, has_sheet=False)
    assert "nats" not in card
    assert "was not measured when they were stored" in card
    assert "![" not in card
    assert SOMEWHERE in card
    assert "to be filled in" in cache_card(CacheFacts("f", 5, "a2", {}, 0, ()), None, has_sheet=False)


def test_an_edited_card_is_known() -> None:
    card = with_mark("---\nlicense: unknown\n---\n\ntext")
    assert is_own(None)
    assert is_own(card.encode())
    for edited in (
        card.replace("unknown", "mit"),
        card + "more\n",
        "mine\n",
        "",
        "mine\n" + card.splitlines()[-1] + "\n",
    ):
        assert not is_own(edited.encode()), edited


def test_card_writes_beside_a_cache_and_keeps_an_edited_readme(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    entry = fill(open_entry(path), 1)
    before = tree(path)
    done = CliRunner().invoke(app, ["cache", "card", str(path), "--place", "hf://datasets/me/x"])
    assert done.exit_code == 0, done.output
    assert f"{path}/README.md: the card" in done.output
    assert {key: data for key, data in tree(path).items() if key in before} == before
    card = (path / "README.md").read_text()
    assert "kdcache cache pull hf://datasets/me/x cache" in card
    assert set(tree(path)) - set(before) == {"README.md", "files.json"}
    entry.write_block(1, 0, kept(entry.codec, 1, 0, 4), PROVENANCE)
    listing = (path / "files.json").read_bytes()
    assert write_card(path).kept is None
    assert "and parts of 1" in (path / "README.md").read_text()
    assert (path / "files.json").read_bytes() != listing
    (path / "README.md").write_text("mine")
    report = write_card(path)
    assert report.card is None
    assert report.kept == str(path / "README.md")
    assert "somebody has edited it" in report.lines()[0]
    assert (path / "README.md").read_text() == "mine"
    with pytest.raises(UsageError, match="write hf://datasets/OWNER/NAME"):
        write_card(path, place="me/x")


def test_a_card_of_data_has_a_picture_of_views(job, tmp_path: Path) -> None:
    path = shutil.copytree(job.cache, tmp_path / "cache")
    report = write_card(path, data=job.data)
    assert report.sheet == str(path / "contact_sheet.png")
    assert (path / "contact_sheet.png").read_bytes().startswith(b"\x89PNG")
    card = (path / "README.md").read_text()
    assert "](contact_sheet.png)" in card
    assert "| views | 10 (0-9) |" in card
    assert MODEL in card


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model, as a training exports it."""
    folder = tmp_path_factory.mktemp("model")
    export_model(folder, create_student(MODEL, num_classes=CLASSES, size=SIZE, seed=1))
    return folder


def test_an_export_gets_to_the_hub_with_its_card(hub: Hub, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["export", str(model), "--out", str(out), "--push-to-hub", "me/model"])
    assert done.exit_code == 0, done.output
    assert f"On the hub: {hub.url}/me/model" in done.output
    assert "private" in done.output
    repository = hub.repositories["models/me/model"]
    assert repository.private
    assert {"config.json", "model.safetensors", "README.md"} <= repository.files.keys()
    assert repository.files["model.safetensors"] == (out / "model.safetensors").read_bytes()
    card = repository.files["README.md"].decode()
    assert card.startswith((out / "README.md").read_text().rstrip())
    assert front_matter(card)["license"] == "unknown"


def test_an_edited_model_card_is_left_alone(hub: Hub, model: Path, tmp_path: Path) -> None:
    kdcache.export(model, out=tmp_path / "one", push_to_hub="me/model", progress=Heard())
    repository = hub.repositories["models/me/model"]
    mine = repository.files["README.md"].replace(b"license: unknown", b"license: mit")
    repository.commit({**repository.files, "README.md": mine})
    heard = Heard()
    kdcache.export(model, out=tmp_path / "two", dtype="float16", push_to_hub="me/model", progress=heard)
    assert repository.files["README.md"] == mine
    assert repository.files["model.safetensors"] == (tmp_path / "two" / "model.safetensors").read_bytes()
    assert any("somebody has edited it on the hub" in line for line in heard.warned)


def test_an_export_that_the_hub_refuses_is_whole(hub: Hub, model: Path, tmp_path: Path) -> None:
    hub.faults.append(Fault("POST", "/commit/", "403"))
    with pytest.raises(RunError, match=r"is whole, and could not be brought to the hub as me/model"):
        kdcache.export(model, out=tmp_path / "out", push_to_hub="me/model", progress=Heard())
    assert (tmp_path / "out" / "model.safetensors").is_file()
    with pytest.raises(UsageError, match="write OWNER/NAME"):
        kdcache.export(model, out=tmp_path / "other", push_to_hub="model", progress=Heard())
    assert not (tmp_path / "other").exists()

"""A user whom the user database does not know has all that libraries ask for."""

import os
import pwd
from pathlib import Path

import pytest

from kdcache.runtime.account import complete_environment
from support.other_users import run_as_unknown
from support.small_job import MODEL, make_data

UNKNOWN = 4_000_000_000  # no user has this number


@pytest.fixture
def home(tmp_path: Path) -> str:
    (tmp_path / "home").mkdir()
    return str(tmp_path / "home")


@pytest.fixture
def closed(tmp_path: Path) -> str:
    """A home folder that cannot be made, whoever tries: its place is below a file."""
    (tmp_path / "file").touch()
    return str(tmp_path / "file" / "home")


def test_an_account_with_everything_is_left_alone(home: str, tmp_path: Path) -> None:
    environment = {"HOME": home, "USER": "somebody"}
    assert complete_environment(environment, UNKNOWN, tmp_path) is None
    assert environment == {"HOME": home, "USER": "somebody"}


def test_a_user_of_the_database_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    entry = pwd.struct_passwd(("a", "x", 7, 7, "", home, "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda number: entry)
    environment: dict[str, str] = {}
    assert complete_environment(environment, 7, tmp_path) is None
    assert environment == {}


def test_only_the_name_is_missing(home: str, tmp_path: Path) -> None:
    environment = {"HOME": home}
    assert complete_environment(environment, UNKNOWN, tmp_path) is None
    assert environment == {"HOME": home, "USER": f"uid{UNKNOWN}"}


def test_everything_is_missing(tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    note = complete_environment(environment, UNKNOWN, tmp_path)
    cached = str(tmp_path / ".cache")
    assert note is not None
    assert note.startswith(f"User {UNKNOWN} has no home folder: ")
    assert cached in note
    assert environment["HOME"] == environment["XDG_CACHE_HOME"] == environment["TRITON_HOME"] == cached
    assert environment["USER"] == f"uid{UNKNOWN}"
    assert "HF_HOME" not in environment, "the hub follows XDG_CACHE_HOME"
    assert not (tmp_path / ".cache").exists(), "it is made by whoever writes there"
    assert complete_environment(environment, UNKNOWN, tmp_path) is None, "it is said once, not by child processes"


def test_a_home_that_cannot_be_written_stays_home(closed: str, tmp_path: Path) -> None:
    """Credentials are looked for there."""
    environment = {"HOME": closed, "USER": "somebody", "TRITON_HOME": "/mine"}
    note = complete_environment(environment, UNKNOWN, tmp_path)
    assert note is not None
    assert note.startswith(f"The home folder {closed} cannot be written: ")
    assert environment["HOME"] == closed
    assert environment["XDG_CACHE_HOME"] == str(tmp_path / ".cache")
    assert environment["TRITON_HOME"] == "/mine"


def test_weights_in_a_home_that_can_only_be_read_are_found(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = Path(home, ".cache")
    (cached / "huggingface").mkdir(parents=True)
    access = os.access
    # As for a user who may not write there; root, whom no mode stops, sees the same.
    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and Path(path) != cached)
    environment = {"HOME": home, "USER": "somebody"}
    assert complete_environment(environment, UNKNOWN, tmp_path) is not None
    assert environment["HF_HOME"] == f"{home}/.cache/huggingface"


def test_a_chosen_folder_is_taken_for_everything(closed: str, tmp_path: Path) -> None:
    environment = {"HOME": closed, "USER": "somebody", "XDG_CACHE_HOME": "/chosen"}
    assert complete_environment(environment, UNKNOWN, tmp_path) is None
    assert environment["XDG_CACHE_HOME"] == environment["TRITON_HOME"] == "/chosen"
    without = {"XDG_CACHE_HOME": "/chosen"}
    assert complete_environment(without, UNKNOWN, tmp_path) is None
    assert without["HOME"] == "/chosen"


def test_a_training_of_a_user_that_nobody_knows(tmp_path: Path) -> None:
    """PyTorch is imported, and the index of shards in a folder of root's goes to `.cache` in the working folder."""
    data = make_data(tmp_path / "data", images=32)
    work = tmp_path / "folder"
    work.mkdir()
    done = run_as_unknown(
        "kdcache_cli", "train", "--supervised", "--student", MODEL, "--data", data, "--recipe", "fashion-mnist",
        "--epochs", "1", "--device", "cpu", "--renderer", "pillow", "--batch-size", "16", cwd=work,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("has no home folder: ") == 1
    assert f"kept in {work}/.cache. " in done.stderr.splitlines()[0]
    assert {path.name for path in work.iterdir()} <= {".cache", "runs"}, "nothing is made in a folder called ~"
    if not os.access(data, os.W_OK) or os.getuid() == 0:
        assert list(work.glob(".cache/kdcache/*/kdcache-index"))


def test_the_doctor_tries_the_account(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    program = """
from kdcache.runtime import account
from kdcache.doctor.places import look_at_account
print(*[f"{finding.state}: {finding.text}" for finding in look_at_account(account.NOTE, 120.0)])
"""
    done = run_as_unknown("-c", program, cwd=tmp_path / "folder")
    assert done.stdout.startswith("note: User "), done.stderr
    assert f"kept in {tmp_path}/folder/.cache." in done.stdout

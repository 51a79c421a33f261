"""What goes wrong ends in one message and an exit code; only surprises have a traceback."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kdcache.errors import DataError, KdcacheError, UsageError
from kdcache_cli.failures import explained, stopped
from kdcache_cli.main import app
from support.command_line import kdcache
from support.shards import make_shards


class VerificationError(KdcacheError):
    exit_code = 3


@pytest.mark.parametrize(
    ("error", "code"),
    [(DataError("It is broken."), 1), (UsageError("No."), 2), (VerificationError("Bad."), 3)],
)
def test_an_error_on_purpose_is_printed_as_it_is_and_gives_its_exit_code(
    error: KdcacheError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end, explained():
        raise error
    assert end.value.code == code
    assert capsys.readouterr().err == f"error: {error}\n"


@pytest.mark.parametrize(
    ("command", "kept"),
    [("train", "go on"), ("cache copy", "go on"), ("import folder", "go on"), ("cache verify", "begin anew")],
)
def test_a_command_that_is_stopped_says_whether_it_goes_on(command: str, kept: str) -> None:
    assert stopped(command, signal.SIGTERM) == f"stopped by SIGTERM; run the same command again to {kept}"


def test_a_surprise_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), explained():
        raise ZeroDivisionError


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.ENOENT])
def test_what_the_system_refuses_is_said_with_the_path_and_a_remedy(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end, explained():
        raise OSError(number, os.strerror(number), "/some/[red]place")
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    cause, remedy = line.split(". ", 1)
    assert cause == f"error: /some/[red]place: {os.strerror(number)}"
    assert remedy.endswith(".")


def test_a_system_error_that_no_user_can_mend_keeps_its_traceback() -> None:
    with pytest.raises(OSError, match="descriptor"), explained():
        raise OSError(errno.EBADF, "Bad file descriptor")


def test_bad_data_ends_in_one_message_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "shard-000000.tar").write_bytes(b"no tar at all" * 1000)
    done = kdcache("index", tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "shard-000000.tar" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_option_exits_with_2_and_names_it() -> None:
    done = kdcache("index", "--unlabeled")
    assert done.returncode == 2
    assert "--unlabeled" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (
            ("--set", "optimizer.lr", "0.1"),
            "--set optimizer.lr has no equals sign, so that it sets nothing: write NAME=",
        ),
        (("--set", "=3"), "--set =3 has no name before its equals sign, so that it sets nothing: write NAME=VALUE"),
        (("--set", "optimizer.lr=[1"), "The value of optimizer.lr cannot be read as YAML, '[1': "),
        (("--set", "optimiser.lr=1"), "There is no setting optimiser. The nearest: optimizer.lr, "),
        (("--recipe", "a3"), "There is no recipe 'a3'"),
    ],
)
def test_settings_that_make_no_sense_exit_with_2_and_say_what_to_write(words: tuple[str, ...], cause: str) -> None:
    done = CliRunner().invoke(app, ["train", "--student", "test_resnet", "--supervised", *words])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {cause}")
    assert done.stderr.count("\n") == 1


def test_a_wrong_choice_is_refused_in_plain_words() -> None:
    done = kdcache("import", "fashion-mnist", "out", "--split", "foo")
    assert done.returncode == 2
    assert "Invalid value for '--split': 'foo' is not one of 'train', 'test'." in done.stderr


def test_no_command_prints_the_help() -> None:
    assert "dump-logits" in "".join((kdcache().stdout, kdcache().stderr))


def test_version() -> None:
    import kdcache as library

    assert kdcache("--version").stdout == f"kdcache {library.__version__}\n"


def test_an_index_is_built_and_described(tmp_path: Path) -> None:
    make_shards(tmp_path, images=10, classes=3, shards=2)
    done = kdcache("index", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "10 samples, 3 classes, 2 shards"
    assert str(tmp_path / "kdcache-index") in done.stdout


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = """
import sys
from kdcache_cli.failures import explained, stopped
with explained():
    sys.stdin.read()  # until the test has closed the other end of stdout
    print("unread")
"""
    with subprocess.Popen(
        python(code), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.close()
        err = process.stderr.read()
    assert process.returncode == 141
    assert err == ""

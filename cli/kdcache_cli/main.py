"""The command `kdcache`; `commands.py` has the table of its commands, each of which has a file beside this one."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Annotated, Any

import typer

import kdcache
from kdcache.errors import printable
from kdcache.runtime.open_files import raise_open_files_limit
from kdcache.runtime.signals import interruptible
from kdcache.runtime.warning_filters import ignore_pillows_warnings
from kdcache_cli.commands import GROUPS, InOrder, add_commands
from kdcache_cli.failures import explained, farewell
from kdcache_cli.log_lines import log_shown
from kdcache_cli.messages import Quiet, Verbose, choose_level


class Commands(InOrder):
    """A group of commands that reports errors as messages with a remedy."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        with _plain_usage_errors():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        with explained(_command()), log_shown(), _plain_usage_errors():
            return super().invoke(ctx)


@contextmanager
def _plain_usage_errors() -> Iterator[None]:
    """Escape the arguments that typer quotes in its messages about wrong options, so that they can be printed."""
    try:
        yield
    except Exception as error:
        message = getattr(error, "message", None)
        # A call without a command is no error: its message is the whole help text.
        if hasattr(error, "format_message") and message and type(error).__name__ != "NoArgsIsHelpError":
            # typer passes on pydantic's prefix for the type of the error; a user does not need it.
            error.message = printable(message.removeprefix("Value error, "))  # type: ignore[attr-defined]
        raise


app = typer.Typer(
    name="kdcache",
    cls=Commands,
    help="Run a large teacher once, store its targets, and train any number of students from them.",
    epilog="Exits with 0 (done), 1 (failed), 2 (usage), 3 (verification failed), or 128 + n where signal n ended it: "
    "130 for Ctrl-C, 143 for SIGTERM.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kdcache {kdcache.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    choose_level(quiet, verbose)


add_commands(app)


def _command() -> str:
    """Return the name of the command that runs, such as `train` or `cache copy`; empty if there is none."""
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    return " ".join(words[: 2 if words[:1] and words[0] in GROUPS else 1])


def main() -> None:
    """Run the command line.

    It exits with 0, 1 (failed), 2 (usage), 3 (verification failed), or 128 + n where signal n ended it: 130 for SIGINT,
    143 for SIGTERM.
    """
    # Waiting threads of PyTorch should sleep, not spin: decoding and other processes need the same cores. OpenMP
    # reads this when torch is imported, which comes later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    raise_open_files_limit()
    ignore_pillows_warnings()
    with interruptible(partial(farewell, _command())):
        try:
            app(prog_name="kdcache")
        except SystemExit as end:
            if not isinstance(end.code, int) or end.code <= 128:
                raise
            # All of our files and locks are closed. Python's own exit would wait for threads of libraries, and a
            # second signal, which torchrun and Slurm send, would then find no handler.
            with suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(end.code)

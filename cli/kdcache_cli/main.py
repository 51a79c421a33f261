"""The command `kdcache`; each of its commands has a file beside this one."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import kdcache
from kdcache.errors import printable
from kdcache.runtime.open_files import raise_open_files_limit
from kdcache.runtime.signals import interruptible
from kdcache.runtime.workers import ignore_pillows_warnings
from kdcache_cli.cache_copy import copy
from kdcache_cli.console import ConsoleProgress
from kdcache_cli.demo import demo
from kdcache_cli.doctor import doctor
from kdcache_cli.dump_logits import dump_logits
from kdcache_cli.evaluate import evaluate
from kdcache_cli.export import export
from kdcache_cli.failures import explained, farewell
from kdcache_cli.import_cifar import cifar
from kdcache_cli.import_fashion_mnist import fashion_mnist
from kdcache_cli.import_folder import folder
from kdcache_cli.import_hf import hf
from kdcache_cli.import_imagenet import imagenet
from kdcache_cli.import_webdataset import webdataset
from kdcache_cli.index import index
from kdcache_cli.inspect import inspect
from kdcache_cli.log_lines import log_shown
from kdcache_cli.policies import policies
from kdcache_cli.preview import preview
from kdcache_cli.recipes import recipes
from kdcache_cli.report import report
from kdcache_cli.train import train
from kdcache_cli.verify import verify

_ORDER = (
    "demo",
    "doctor",
    "import",
    "index",
    "preview",
    "dump-logits",
    "train",
    "evaluate",
    "export",
    "report",
    "inspect",
    "verify",
    "cache",
    "policies",
    "recipes",
)


class Commands(TyperGroup):
    """A group of commands that reports errors as messages with a remedy."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        with _plain_usage_errors():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        with explained(_command()), log_shown(), _plain_usage_errors():
            return super().invoke(ctx)

    def list_commands(self, ctx: Any) -> list[str]:
        # typer would put groups last; `import` comes before what needs its shards.
        return sorted(super().list_commands(ctx), key=_ORDER.index)


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
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    # The doctor reports it as a finding, and of several processes only rank 0 prints.
    is_reported = context.invoked_subcommand == "doctor" or os.environ.get("RANK", "0") != "0"
    if kdcache.runtime.account.NOTE is not None and not is_reported:
        ConsoleProgress().say(kdcache.runtime.account.NOTE)


app.command("demo")(demo)
app.command("doctor")(doctor)
imports = typer.Typer(help="Turn images into webdataset shards.", no_args_is_help=True)
imports.command("folder")(folder)
imports.command("imagenet")(imagenet)
imports.command("cifar")(cifar)
imports.command("hf")(hf)
imports.command("webdataset")(webdataset)
imports.command("fashion-mnist")(fashion_mnist)
app.add_typer(imports, name="import")
app.command("index")(index)
app.command("preview")(preview)
app.command("dump-logits")(dump_logits)
app.command("train")(train)
app.command("evaluate")(evaluate)
app.command("export")(export)
app.command("report")(report)
app.command("inspect")(inspect)
app.command("verify")(verify)
caches = typer.Typer(help="Copy whole caches.", no_args_is_help=True)
caches.command("copy")(copy)
app.add_typer(caches, name="cache")
app.command("policies")(policies)
app.add_typer(recipes, name="recipes")


def _command() -> str:
    """Return the name of the command that runs, such as `train`; empty if there is none."""
    return next((word for word in sys.argv[1:] if not word.startswith("-")), "")


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

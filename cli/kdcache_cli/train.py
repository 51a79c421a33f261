"""`kdcache train`."""

from dataclasses import dataclass

from kdcache.runtime.arguments import values_of
from kdcache.training.options import TrainOptions
from kdcache_cli.console import ConsoleProgress, print_json, print_lines, print_report
from kdcache_cli.declared import command_from
from kdcache_cli.options import AsJson


@dataclass(frozen=True)
class TrainCommand(TrainOptions):
    """The options of the job, and how its report is shown."""

    as_json: AsJson = False


def _train(options: TrainCommand) -> None:
    from kdcache import jobs
    from kdcache.runtime.ranks import Ranks

    report = jobs.train(**values_of(TrainOptions, options), progress=ConsoleProgress())
    if not Ranks.from_environment().is_main:
        return
    if options.as_json:
        print_json(report.to_json())
    elif report.plan is not None:
        print_lines(report.lines())  # settings as a file of them would have them, and a plot
    else:
        print_report(report.lines())


train = command_from(
    TrainCommand,
    _train,
    """Train a student from a cache, from labels alone, or with the teacher live.

    If the command is stopped, the same command resumes at the step of the last checkpoint. SIGINT (Ctrl-C), SIGTERM,
    SIGHUP, SIGUSR1 and SIGUSR2 write a checkpoint after the current step.
    """,
)

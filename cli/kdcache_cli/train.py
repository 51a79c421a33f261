"""`kdcache train`."""

from kdcache.training.options import TrainOptions
from kdcache_cli.console import ConsoleProgress, print_lines
from kdcache_cli.declared import command_from


def _train(options: TrainOptions) -> None:
    from kdcache import jobs
    from kdcache.runtime.ranks import Ranks

    report = jobs.train(**vars(options), progress=ConsoleProgress())
    if Ranks.from_environment().is_main:
        print_lines(report.lines())


train = command_from(
    TrainOptions,
    _train,
    """Train a student from a cache, from labels alone, or with the teacher live.

    If the command is stopped, the same command resumes at the step of the last checkpoint. SIGINT (Ctrl-C), SIGTERM,
    SIGHUP, SIGUSR1 and SIGUSR2 write a checkpoint after the current step.
    """,
)

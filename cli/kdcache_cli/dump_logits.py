"""`kdcache dump-logits`."""

from dataclasses import dataclass

from kdcache.dumping.options import DumpOptions, require_one_choice
from kdcache.runtime.arguments import values_of
from kdcache_cli.console import ConsoleProgress, print_json, print_report
from kdcache_cli.declared import command_from
from kdcache_cli.options import AsJson


@dataclass(frozen=True)
class DumpCommand(DumpOptions):
    """The options of the job, and how its report is shown."""

    as_json: AsJson = False


def _dump(options: DumpCommand) -> None:
    require_one_choice(  # before torch is imported
        options.objectives, targets=options.targets, k=options.k, min_prob=options.min_prob, dtype=options.dtype
    )
    from kdcache import jobs
    from kdcache.runtime.ranks import Ranks

    report = jobs.dump_logits(**values_of(DumpOptions, options), progress=ConsoleProgress())
    if not Ranks.from_environment().is_main:
        return
    if options.as_json:
        print_json(report.to_json())
    else:
        print_report(report.lines())


dump_logits = command_from(
    DumpCommand,
    _dump,
    """Run a teacher once over every view of the data and store its targets in a cache.

    If the command is stopped, the same command continues where it stopped, and the finished cache has the same bytes.
    Several processes on one cache share the work, whether torchrun starts them or you start each.
    """,
)

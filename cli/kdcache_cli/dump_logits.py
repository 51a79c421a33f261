"""`kdcache dump-logits`."""

from kdcache.dumping.options import DumpOptions, require_one_choice
from kdcache_cli.console import ConsoleProgress, print_lines
from kdcache_cli.declared import command_from


def _dump(options: DumpOptions) -> None:
    require_one_choice(  # before torch is imported
        options.objectives, targets=options.targets, k=options.k, min_prob=options.min_prob, dtype=options.dtype
    )
    from kdcache import jobs
    from kdcache.runtime.ranks import Ranks

    report = jobs.dump_logits(**vars(options), progress=ConsoleProgress())
    if Ranks.from_environment().is_main:
        print_lines(report.lines())


dump_logits = command_from(
    DumpOptions,
    _dump,
    """Run a teacher once over every view of the data and store its targets in a cache.

    If the command is stopped, the same command continues where it stopped, and the finished cache has the same bytes.
    Several processes on one cache share the work, whether torchrun starts them or you start each.
    """,
)

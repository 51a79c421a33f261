"""`kdcache demo`."""

from dataclasses import dataclass

from kdcache.demo.options import DemoOptions
from kdcache_cli.console import ConsoleProgress, print_json, print_lines, print_report, print_table
from kdcache_cli.declared import command_from
from kdcache_cli.options import AsJson


@dataclass(frozen=True)
class DemoCommand(DemoOptions):
    """The options of the job, and how its report is shown."""

    as_json: AsJson = False


def _demo(options: DemoCommand) -> None:
    from kdcache.demo.demo import EPOCHS, QUICK
    from kdcache.demo.demo import demo as run

    epochs, limit = QUICK if options.quick else (EPOCHS, None)
    report = run(
        options.out, ConsoleProgress(), seed=options.seed, renderer=options.renderer, epochs=epochs, limit=limit
    )
    if options.as_json:
        print_json(report.to_json() | {"epochs": epochs, "quick": options.quick})
        return
    print_lines([""])
    print_table(
        ("model", "top-1", "images/s", "bytes a view", "folder"),
        [
            (
                row.name,
                f"{row.top1:.2%}",
                "-" if row.images_per_s is None else f"{row.images_per_s:,.0f}",
                "-" if row.bytes_per_view is None else f"{row.bytes_per_view:.1f}",
                row.folder,
            )
            for row in report.rows
        ],
    )
    print_lines([""])
    print_table(("stage", "seconds"), [(stage, f"{seconds:.1f}") for stage, seconds in report.stages.items()])
    print_lines([""])
    if options.quick:
        print_report(
            [f"A quick run: scores after {epochs} epochs of {limit} images do not show what distillation gains."]
        )
    else:
        print_report(report.summary())


demo = command_from(
    DemoCommand,
    _demo,
    """Run the quick start on real images, on the CPU, in a few minutes: shards, teacher, cache, students, scores.""",
)

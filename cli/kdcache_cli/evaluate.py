"""`kdcache evaluate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from kdcache.evaluation.options import EvaluateSettings, TableOptions
from kdcache.runtime.arguments import values_of
from kdcache.runtime.option import OUTPUT, Option
from kdcache_cli.console import ConsoleProgress, print_json, print_lines, print_table
from kdcache_cli.declared import command_from
from kdcache_cli.options import AsJson


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand(TableOptions):
    """The options of the job, and how its report is shown."""

    details: Annotated[
        bool, Option("Print the reliability diagram and the accuracy of each class, too.", group=OUTPUT)
    ] = False
    html: Annotated[
        Path | None,
        Option("Also write the scores as an HTML page.", metavar="FILE", default_text="none", group=OUTPUT),
    ] = None
    as_json: AsJson = False


def _evaluate(options: EvaluateCommand) -> None:
    if options.html is not None:
        from kdcache.report.page import require_html

        require_html(options.html)  # before torch is imported

        from kdcache.report.charts import require_charts

        require_charts()

    from kdcache import jobs
    from kdcache.runtime.ranks import Ranks

    settings = values_of(EvaluateSettings, options)
    size = settings.pop("size")
    table = jobs.evaluate(options.models, options.data, image_size=size, **settings, progress=ConsoleProgress())
    if not Ranks.from_environment().is_main:
        return
    if options.html is not None:
        jobs.write_evaluation(table, options.html, options.reference, ConsoleProgress())
    if options.as_json:
        print_json(table.to_json())
        return
    header, *rows = table.cells()
    print_table(header, rows)
    if table.seeds:
        header, *rows = table.seed_cells()
        print_lines([""])
        print_table(header, rows)
    if options.details:
        print_lines(line for row in table.rows for line in ["", *row.details()])


evaluate = command_from(
    EvaluateCommand,
    _evaluate,
    """Print scores of runs or models on labelled images, with timm's evaluation transform: accuracy and calibration.

    Images are decoded with Pillow on the CPU, as in timm, on every device. Under torchrun the processes share the
    images. Runs that differ in their seeds alone are also summarised by mean and standard deviation.
    """,
)

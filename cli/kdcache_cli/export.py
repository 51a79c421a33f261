"""`kdcache export`."""

from dataclasses import dataclass

from kdcache.exporting.options import ExportOptions
from kdcache.runtime.arguments import values_of
from kdcache_cli.console import ConsoleProgress, print_json, print_report
from kdcache_cli.declared import command_from
from kdcache_cli.options import AsJson


@dataclass(frozen=True)
class ExportCommand(ExportOptions):
    """The options of the job, and how its report is shown."""

    as_json: AsJson = False


def _export(options: ExportCommand) -> None:
    from kdcache import jobs

    report = jobs.export(**values_of(ExportOptions, options), progress=ConsoleProgress())
    if options.as_json:
        print_json(report.to_json())
    else:
        print_report(report.lines())


export = command_from(
    ExportCommand,
    _export,
    """Write the model of a run for timm, torchvision, ONNX or TorchScript, with a model card.

    The written files are run on images of noise and compared with the model before they take their place.
    """,
)

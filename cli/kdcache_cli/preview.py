"""`kdcache preview`."""

from kdcache.inspection.options import PreviewOptions
from kdcache_cli.console import ConsoleProgress
from kdcache_cli.declared import command_from


def _preview(options: PreviewOptions) -> None:
    from kdcache.inspection.contact_sheet import require_format

    require_format(options.out)  # before torch is imported

    from kdcache.inspection.preview import preview as run

    run(options, ConsoleProgress())


preview = command_from(
    PreviewOptions,
    _preview,
    """Write a contact sheet of images and their views, mixed pairs side by side, with the plan of each view as text.
    """,
)

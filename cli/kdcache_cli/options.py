"""Options that only the command line has."""

from typing import Annotated

from kdcache.runtime.option import OUTPUT, Option

AsJson = Annotated[bool, Option("Print the report as JSON.", flag="--json", group=OUTPUT)]

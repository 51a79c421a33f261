"""The options of `demo`; nothing heavy is imported here, so that `kdcache demo --help` is quick."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from kdcache.runtime.option import Option
from kdcache.runtime.shared_options import Renderer, seed_option


@dataclass(frozen=True)
class DemoOptions:
    """The options of `demo`."""

    out: Annotated[Path, Option("Folder for the shards, the cache and the runs.", metavar="DIR")] = Path("demo-runs")
    seed: Annotated[int, seed_option("Seed of the views, the students and the order of the samples.")] = 0
    renderer: Renderer = "dali"
    quick: Annotated[bool, Option("Run every step on a few images, in seconds; the scores have no meaning.")] = False

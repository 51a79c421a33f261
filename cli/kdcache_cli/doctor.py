"""`kdcache doctor`."""

from dataclasses import asdict
from typing import Annotated

import typer

from kdcache_cli.console import print_json, print_lines

_WIDTH = 20


def doctor(
    data: Annotated[
        str | None,
        typer.Option(
            "--data", envvar="KDCACHE_DATA", metavar="DATA", help="Shards that a job will read.", show_default="./data"
        ),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            "--cache", envvar="KDCACHE_CACHE", metavar="PATH", help="Cache that a job will use.", show_default="./cache"
        ),
    ] = None,
    limit: Annotated[
        float, typer.Option("--limit", min=1, metavar="SECONDS", help="Seconds that each check may take.")
    ] = 120.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check whether kdcache can dump and train on this machine, and print a remedy for each fault.

    It checks versions, threads, driver, GPUs, DALI (which decodes a JPEG), shared memory, data, cache and disks. It
    exits with 1 if there is a fault. A missing GPU is no fault: everything runs on the CPU.
    """
    from kdcache.doctor.examine import examine

    findings = []
    for finding in examine(data, cache, limit):
        findings.append(finding)
        if not as_json:
            print_lines([f"{finding.state:5}  {finding.subject:{_WIDTH}}{finding.text}"])
            if finding.remedy:
                print_lines([f"{'':{7 + _WIDTH}}-> {finding.remedy}"])
    faults = [finding.subject for finding in findings if finding.state == "fault"]
    if as_json:
        print_json({"able": not faults, "findings": [asdict(finding) for finding in findings]})
    elif faults:
        print_lines(["", f"kdcache cannot run here: {', '.join(faults)}."])
    else:
        print_lines(["", "kdcache can run here."])
    if faults:
        raise typer.Exit(1)

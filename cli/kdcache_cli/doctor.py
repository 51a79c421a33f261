"""`kdcache doctor`."""

from dataclasses import asdict, dataclass

import typer

from kdcache.doctor.options import DoctorOptions
from kdcache_cli.console import print_json, print_lines
from kdcache_cli.declared import command_from
from kdcache_cli.options import AsJson

_WIDTH = 20


@dataclass(frozen=True)
class DoctorCommand(DoctorOptions):
    """The options of the job, and how its findings are shown."""

    as_json: AsJson = False


def _doctor(options: DoctorCommand) -> None:
    from kdcache.doctor.examine import examine

    findings = []
    for finding in examine(options.data, options.cache, options.limit):
        findings.append(finding)
        if not options.as_json:
            print_lines([f"{finding.state:5}  {finding.subject:{_WIDTH}}{finding.text}"])
            if finding.remedy:
                print_lines([f"{'':{7 + _WIDTH}}-> {finding.remedy}"])
    faults = [finding.subject for finding in findings if finding.state == "fault"]
    if options.as_json:
        print_json({"able": not faults, "findings": [asdict(finding) for finding in findings]})
    elif faults:
        print_lines(["", f"kdcache cannot run here: {', '.join(faults)}."])
    else:
        print_lines(["", "kdcache can run here."])
    if faults:
        raise typer.Exit(1)


doctor = command_from(
    DoctorCommand,
    _doctor,
    """Check whether kdcache can dump and train on this machine, and print a remedy for each fault.

    It checks versions, threads, driver, GPUs, DALI (which decodes a JPEG), shared memory, data, cache and disks. It
    exits with 1 if there is a fault. A missing GPU is no fault: everything runs on the CPU.
    """,
)

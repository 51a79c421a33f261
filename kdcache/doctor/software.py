"""Versions: Python's and the packages', against what kdcache requires and what it is tested with."""

import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata, resources

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import kdcache
from kdcache.doctor.findings import Finding, fault, note, ok

OLDEST_PYTHON = (3, 11)
PINS = "constraints.txt"


def look_at_software() -> Iterator[Finding]:
    """kdcache and Python; the packages that are missing, too old, or other than those tested."""
    running = f"kdcache {kdcache.__version__}, Python {platform.python_version()}"
    if sys.version_info < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        yield fault("versions", running, f"Install it under Python {oldest} or later.")
    else:
        yield ok("versions", running)
    installed: dict[str, str] = {
        canonicalize_name(found.name): found.version for found in metadata.distributions() if found.name
    }
    try:
        required = metadata.requires("kdcache") or []
    except metadata.PackageNotFoundError:
        yield note("packages", "kdcache is not installed as a package.", "Install it with pip, for its requirements.")
        return
    yield compare(required, (resources.files("kdcache") / PINS).read_text("utf-8").splitlines(), installed)


def compare(required: Sequence[str], pins: Sequence[str], installed: Mapping[str, str]) -> Finding:
    """What is to be said of the packages.

    Args:
        required: requirements, as a package's metadata hold them; those of extras are passed over.
        pins: lines `NAME==VERSION`; what is pinned and not installed is passed over.
        installed: versions by normalised name.
    """
    needed = [Requirement(line) for line in required]
    needed = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    missing = [one for one in needed if canonicalize_name(one.name) not in installed]
    wrong = [
        one
        for one in needed
        if one not in missing and not one.specifier.contains(installed[canonicalize_name(one.name)], prereleases=True)
    ]
    if missing or wrong:
        said = [f"{one.name} is missing" for one in missing]
        said += [f"{one.name} is {installed[canonicalize_name(one.name)]}, not {one.specifier}" for one in wrong]
        packages = " ".join(f"'{one.name}{one.specifier}'" for one in [*missing, *wrong])
        return fault("packages", f"{', '.join(said)}.", f"pip install {packages}")
    pinned = dict(line.strip().split("==", 1) for line in pins if "==" in line)
    others = [
        f"{name} {version} (tested: {pin})"
        for name, pin in pinned.items()
        if (version := installed.get(canonicalize_name(name)))
        and not SpecifierSet(f"=={pin}").contains(version, prereleases=True)
    ]
    if others:
        return note(
            "packages",
            f"Other versions than those kdcache is tested with: {', '.join(others)}.",
            "Should something go wrong, install those of constraints.txt: pip install --constraint constraints.txt .",
        )
    return ok("packages", f"{len(needed)} required, all in the versions that kdcache is tested with")

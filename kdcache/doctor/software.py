"""Checks of the versions of Python and packages against the required and the tested ones."""

import importlib.util
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Generator, Mapping, Sequence
from importlib import metadata, resources

from kdcache.doctor.findings import Finding, fault, note, ok
from kdcache.version import __version__

OLDEST_PYTHON = (3, 11)
PINS = "constraints.txt"


def look_at_software() -> Generator[Finding, None, None]:
    """Check the versions of kdcache, Python and the packages."""
    running = f"kdcache {__version__}, Python {platform.python_version()}"
    if sys.version_info < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        yield fault("versions", running, f"Install it under Python {oldest} or later.")
    else:
        yield ok("versions", running)
    installed = {_normal(found.name): found.version for found in metadata.distributions() if found.name}
    try:
        required = metadata.requires("kdcache") or []
    except metadata.PackageNotFoundError:
        yield note("packages", "kdcache is not installed as a package.", "Install it with pip, for its requirements.")
        return
    yield compare(required, (resources.files("kdcache") / PINS).read_text("utf-8").splitlines(), installed)


def install(*packages: str, again: bool = False) -> str:
    """Return the command that installs packages in the tested versions, or a sentence if there is no pip.

    Args:
        packages: names or requirements.
        again: whether they are installed, and shall be once more.
    """
    pins, wanted = shlex.quote(str(resources.files("kdcache") / PINS)), " ".join(map(shlex.quote, packages))
    if importlib.util.find_spec("pip") is None and shutil.which("pip") is None:
        return f"Build the image again; where there is none, install {wanted} in the versions of {pins}."
    return f"pip install {'--force-reinstall ' * again}--constraint {pins} {wanted}"


def _normal(name: str) -> str:
    """Return a package's name in the normal form of PyPA's specification."""
    return re.sub(r"[-_.]+", "-", name).lower()


def compare(required: Sequence[str], pins: Sequence[str], installed: Mapping[str, str]) -> Finding:
    """Return the finding for the packages.

    Args:
        required: requirements, as a package's metadata hold them; those of extras are passed over.
        pins: lines `NAME==VERSION`; what is pinned and not installed is passed over.
        installed: versions by normalised name.
    """
    try:
        from packaging.requirements import Requirement
        from packaging.specifiers import SpecifierSet
    except ImportError as error:
        return fault("packages", f"packaging, which compares versions, cannot be used: {error}.", install("packaging"))

    needed = [Requirement(line) for line in required]
    needed = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    missing = [one for one in needed if _normal(one.name) not in installed]
    wrong = [
        one
        for one in needed
        if one not in missing and not one.specifier.contains(installed[_normal(one.name)], prereleases=True)
    ]
    if missing or wrong:
        problems = [f"{one.name} is missing" for one in missing]
        problems += [f"{one.name} is {installed[_normal(one.name)]}, not {one.specifier}" for one in wrong]
        return fault(
            "packages",
            f"{', '.join(problems)}.",
            install(*(f"{one.name}{one.specifier}" for one in [*missing, *wrong])),
        )
    pinned = dict(line.strip().split("==", 1) for line in pins if "==" in line)
    others = {
        name: f"{name} {version} (tested: {pin})"
        for name, pin in pinned.items()
        if (version := installed.get(_normal(name)))
        and not SpecifierSet(f"=={pin}").contains(version, prereleases=True)
    }
    if others:
        return note(
            "packages",
            f"Other versions than those kdcache is tested with: {', '.join(others.values())}.",
            f"If something fails, install those. {install(*others)}",
        )
    return ok("packages", f"{len(needed)} required, all in the versions that kdcache is tested with")

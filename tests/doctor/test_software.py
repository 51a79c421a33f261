"""Packages are compared with what is required, which is a fault, and with what was tested, which is a note."""

import platform
from importlib import resources

import pytest

import kdcache
from kdcache.doctor.software import PINS, compare, look_at_software

REQUIRED = ["torch>=2.6", "zarr>=3.1.3", 'ruff>=0.12; extra == "test"', 'dali>=2; sys_platform == "never"']
PINNED = ["torch==2.12.1", "zarr==3.1.6", "Ruff==0.17.5"]


def test_all_as_tested_is_well() -> None:
    finding = compare(REQUIRED, PINNED, {"torch": "2.12.1", "zarr": "3.1.6"})
    assert (finding.state, finding.remedy) == ("ok", None)
    assert finding.says.startswith("2 required")


def test_a_build_for_another_device_is_the_same_version() -> None:
    assert compare(REQUIRED, PINNED, {"torch": "2.12.1+cpu", "zarr": "3.1.6"}).state == "ok"


@pytest.mark.parametrize(
    ("installed", "said", "remedy"),
    [
        ({"torch": "2.12.1"}, "zarr is missing", "pip install 'zarr>=3.1.3'"),
        ({"torch": "2.5", "zarr": "3.1.6"}, "torch is 2.5, not >=2.6", "pip install 'torch>=2.6'"),
        ({}, "torch is missing, zarr is missing", "pip install 'torch>=2.6' 'zarr>=3.1.3'"),
    ],
)
def test_what_is_missing_or_too_old_is_a_fault(installed: dict[str, str], said: str, remedy: str) -> None:
    finding = compare(REQUIRED, PINNED, installed)
    assert (finding.state, finding.says, finding.remedy) == ("fault", f"{said}.", remedy)


def test_another_version_than_the_tested_one_is_a_note() -> None:
    finding = compare(REQUIRED, PINNED, {"torch": "2.13.0rc1", "zarr": "3.1.6", "ruff": "0.1"})
    assert finding.state == "note"
    assert "torch 2.13.0rc1 (tested: 2.12.1), Ruff 0.1 (tested: 0.17.5)" in finding.says
    assert finding.remedy
    assert "constraints.txt" in finding.remedy


def test_this_environment_is_looked_at() -> None:
    versions, packages = look_at_software()
    assert versions.says == f"kdcache {kdcache.__version__}, Python {platform.python_version()}"
    assert packages.state != "fault"


def test_the_pinned_versions_go_with_the_package(project_root) -> None:
    assert (resources.files("kdcache") / PINS).read_text() == (project_root / PINS).read_text()

"""Packages are compared with what is required, which is a fault, and with what was tested, which is a note."""

import platform
import sys
from importlib import resources

import pytest

import kdcache
from kdcache.doctor import software
from kdcache.doctor.software import PINS, compare, look_at_software

REQUIRED = ["torch>=2.6", "zarr>=3.1.3", 'ruff>=0.12; extra == "test"', 'dali>=2; sys_platform == "never"']
CONSTRAINTS = resources.files("kdcache") / PINS
PINNED = ["torch==2.12.1", "zarr==3.1.6", "Ruff==0.17.5"]


@pytest.fixture(autouse=True)
def _pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software.shutil, "which", lambda name: f"/usr/bin/{name}")


@pytest.fixture
def no_pip(_pip: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software.shutil, "which", lambda name: None)
    monkeypatch.setattr(software.importlib.util, "find_spec", lambda name: None)


def test_all_as_tested_is_well() -> None:
    finding = compare(REQUIRED, PINNED, {"torch": "2.12.1", "zarr": "3.1.6"})
    assert (finding.state, finding.remedy) == ("ok", None)
    assert finding.text.startswith("2 required")


def test_a_build_for_another_device_is_the_same_version() -> None:
    assert compare(REQUIRED, PINNED, {"torch": "2.12.1+cpu", "zarr": "3.1.6"}).state == "ok"


@pytest.mark.parametrize(
    ("installed", "text", "remedy"),
    [
        ({"torch": "2.12.1"}, "zarr is missing", "'zarr>=3.1.3'"),
        ({"torch": "2.5", "zarr": "3.1.6"}, "torch is 2.5, not >=2.6", "'torch>=2.6'"),
        ({}, "torch is missing, zarr is missing", "'torch>=2.6' 'zarr>=3.1.3'"),
    ],
)
def test_what_is_missing_or_too_old_is_a_fault(installed: dict[str, str], text: str, remedy: str) -> None:
    finding = compare(REQUIRED, PINNED, installed)
    assert (finding.state, finding.text) == ("fault", f"{text}.")
    assert finding.remedy == f"pip install --constraint {CONSTRAINTS} {remedy}"


@pytest.mark.usefixtures("no_pip")
def test_where_there_is_no_pip_the_image_is_to_be_built_again() -> None:
    remedy = compare(REQUIRED, PINNED, {"torch": "2.12.1"}).remedy or ""
    assert remedy.startswith("Build the image again")
    assert f"'zarr>=3.1.3' in the versions of {CONSTRAINTS}" in remedy


def test_without_what_compares_versions_that_is_the_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("packaging", "packaging.requirements", "packaging.specifiers"):
        monkeypatch.setitem(sys.modules, name, None)
    _, finding = look_at_software()
    assert (finding.subject, finding.state) == ("packages", "fault")
    assert finding.remedy == f"pip install --constraint {CONSTRAINTS} packaging"


def test_another_version_than_the_tested_one_is_a_note() -> None:
    finding = compare(REQUIRED, PINNED, {"torch": "2.13.0rc1", "zarr": "3.1.6", "ruff": "0.1"})
    assert finding.state == "note"
    assert "torch 2.13.0rc1 (tested: 2.12.1), Ruff 0.1 (tested: 0.17.5)" in finding.text
    assert (finding.remedy or "").endswith(f"pip install --constraint {CONSTRAINTS} torch Ruff")


def test_this_environment_is_looked_at() -> None:
    versions, packages = look_at_software()
    assert versions.text == f"kdcache {kdcache.__version__}, Python {platform.python_version()}"
    assert packages.state != "fault"


def test_the_pinned_versions_go_with_the_package(project_root) -> None:
    assert (resources.files("kdcache") / PINS).read_text() == (project_root / PINS).read_text()

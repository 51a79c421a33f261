"""The package as users get it: built from an sdist, installed as a wheel, run where there is no checkout."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from email import message_from_string
from importlib.metadata import Distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import kdcache

PACKAGES = {"kdcache": Path("kdcache"), "kdcache_cli": Path("cli/kdcache_cli")}
BESIDE = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "constraints.txt", "MANIFEST.in")
HEAVY = {"torch", "torchvision", "timm", "zarr", "nvidia", "numpy", "webdataset"}


@pytest.fixture(scope="module")
def source(project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What building takes of the checkout, in a place of its own: setuptools leaves things behind where it works."""
    folder = tmp_path_factory.mktemp("source")
    for package in PACKAGES.values():
        shutil.copytree(
            project_root / package, folder / package, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in BESIDE:
        shutil.copy(project_root / name, folder / name)
    for name in ("tests", "docs", "benchmarks"):
        (folder / name).mkdir()
        (folder / name / "test_of_nothing.py").touch()
    return folder


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that was built from it."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, cwd=out)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel, and with what it requires and nothing else.

    Its requirements are links into this environment, which has them in the pinned versions already.
    """
    environment = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment)
    python = environment / "bin" / "python"
    run(
        sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", built[1], cwd=environment
    )
    (site,) = environment.glob("lib/python*/site-packages")
    (metadata,) = site.glob("kdcache-*.dist-info/METADATA")
    for distribution in required(message_from_string(metadata.read_text()).get_all("Requires-Dist") or []):
        for file in distribution.files or []:
            if ".." in file.parts or "__pycache__" in file.parts:
                continue
            link = site.joinpath(*file.parts)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():  # several of NVIDIA's name the files of their common package
                link.symlink_to(Path(str(distribution.locate_file(file))))
    return environment / "bin"


def required(lines: Iterable[str]) -> list[Distribution]:
    """The installed distributions that requirements name, and those that they require, on this machine."""
    found: dict[str, Distribution] = {}
    extras_done: set[tuple[str, str]] = set()
    left = [(Requirement(line), "") for line in lines]
    while left:
        requirement, extra = left.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        found.setdefault(name, Distribution.from_name(requirement.name))
        for wanted in {"", *requirement.extras}:
            if (name, wanted) not in extras_done:
                extras_done.add((name, wanted))
                left += [(Requirement(line), wanted) for line in found[name].requires or []]
    return list(found.values())


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**kept, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def package_files(root: Path) -> set[str]:
    """Every file of the packages, by the name it is imported or read with."""
    return {
        str(Path(name) / path.relative_to(root / package))
        for name, package in PACKAGES.items()
        for path in (root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_packages_files_and_no_others(built: tuple[Path, Path], project_root: Path) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
        pins = wheel.read("kdcache/constraints.txt").decode()
        metadata = wheel.read(f"kdcache-{kdcache.__version__}.dist-info/METADATA").decode()
    assert held == package_files(project_root)
    assert {"kdcache/py.typed", "kdcache_cli/py.typed", "kdcache/recipes/a2.yaml"} <= held
    assert "kdcache/data/sample/teacher.safetensors" in held
    assert pins == (project_root / "constraints.txt").read_text()
    assert f"\nVersion: {kdcache.__version__}\n" in metadata


def test_the_sdist_holds_what_building_takes_and_no_tests(built: tuple[Path, Path], project_root: Path) -> None:
    with tarfile.open(built[0]) as sdist:
        held = {name.partition("/")[2] for name in sdist.getnames() if not sdist.getmember(name).isdir()}
    sources = {name.replace("kdcache_cli/", "cli/kdcache_cli/", 1) for name in package_files(project_root)}
    made = {"PKG-INFO", "setup.cfg"}
    assert {name for name in held if ".egg-info/" not in name} == sources | set(BESIDE) | made


def test_the_version_stands_in_one_place_and_in_the_changelog(project_root: Path) -> None:
    assert f"\n## {kdcache.__version__} " in (project_root / "CHANGELOG.md").read_text(encoding="utf-8")
    for path in ("pyproject.toml", "Makefile", "docker/Dockerfile", "docker/Dockerfile.cpu", "docker/compose.yaml"):
        assert kdcache.__version__ not in (project_root / path).read_text(encoding="utf-8"), path


def test_help_is_quick_because_it_imports_nothing_heavy(installed: Path, tmp_path: Path) -> None:
    done = run(installed / "kdcache", "--help", cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    assert "dump-logits" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "kdcache_cli.main" in imported
    assert not {name.partition(".")[0] for name in imported} & HEAVY


def test_the_demo_runs_from_the_wheel_alone(installed: Path, tmp_path: Path) -> None:
    where = run(
        installed / "python",
        "-c",
        "import kdcache, kdcache_cli; print(kdcache.__file__, kdcache_cli.__file__)",
        cwd=tmp_path,
    )
    assert all(path.startswith(str(installed.parent)) for path in where.stdout.split())
    there = run(
        installed / "python",
        "-c",
        "from importlib.util import find_spec; print(*(find_spec(name) is not None for name in ('torch', 'pytest')))",
        cwd=tmp_path,
    )
    assert there.stdout.split() == ["True", "False"]
    done = run(installed / "kdcache", "demo", "--quick", cwd=tmp_path)
    assert "distilled from the cache" in done.stdout
    assert "do not show what distillation gains" in done.stdout
    assert (tmp_path / "demo-runs" / "runs" / "from-cache" / "export" / "model.safetensors").is_file()

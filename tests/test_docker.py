"""What can be said of the images without building them; docker/test.sh builds them and runs kdcache inside."""

import re
from pathlib import Path

import pytest
import yaml

FILES = ("docker/Dockerfile", "docker/Dockerfile.cpu")


def instructions(path: Path) -> list[str]:
    """The instructions of a Dockerfile, each in one line without its comments."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    return [" ".join(line.split()) for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines() if line.strip()]


@pytest.mark.parametrize("file", FILES)
def test_an_image_is_what_it_should_be(file: str, project_root: Path) -> None:
    lines = instructions(project_root / file)
    assert lines[0].startswith("ARG BASE_IMAGE=")
    last = len(lines) - 1 - [line.split()[0] for line in lines][::-1].index("FROM")
    final = lines[last:]
    assert final[0] == "FROM ${BASE_IMAGE}"
    assert "USER kdcache" in final
    assert 'ENTRYPOINT ["kdcache"]' in final
    assert any(re.fullmatch(r'HEALTHCHECK .* CMD \["kdcache", "doctor"\]', line) for line in final)
    assert not [line for line in final if re.search(r"\b(pip|gcc|build-essential|python3-(venv|dev))\b", line)]


@pytest.mark.parametrize("file", FILES)
def test_dependencies_are_installed_before_the_source_is_copied(file: str, project_root: Path) -> None:
    lines = instructions(project_root / file)
    install = next(number for number, line in enumerate(lines) if "--requirement requirements.txt" in line)
    assert "--constraint constraints.txt" in lines[install]
    assert install < lines.index("COPY . .")
    stage = lines[:install][::-1].index("FROM build AS dependencies")
    copied = [line for line in lines[install - stage : install] if line.startswith("COPY")]
    assert copied == ["COPY pyproject.toml constraints.txt ./"]


def test_the_two_images_differ_in_what_a_gpu_needs_alone(project_root: Path) -> None:
    gpu, cpu = (instructions(project_root / file) for file in FILES)
    differences = "\n".join([line for line in gpu + cpu if (line in gpu) != (line in cpu)])
    for known in (
        "ARG BASE_IMAGE=",
        "ARG PIP_EXTRA_INDEX_URL=",
        "--requirement requirements.txt",
        "NVIDIA_",
        "ENV PATH=",
    ):
        assert known in differences
    assert len(differences.splitlines()) == 7, differences


def test_the_build_is_given_what_it_needs_and_nothing_else(project_root: Path) -> None:
    rules = (project_root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in rules
    given = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert all((project_root / name).exists() for name in given)
    assert given == {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "kdcache", "cli"}


def test_the_services_share_what_they_write(project_root: Path) -> None:
    compose = yaml.safe_load((project_root / "docker" / "compose.yaml").read_text(encoding="utf-8"))
    services = compose["services"]
    for stage in ("dump", "train"):
        mounts = {mount.rpartition(":")[2]: mount.rpartition(":")[0] for mount in services[stage]["volumes"]}
        assert {"/workspace/data", "/workspace/cache", "/workspace/runs", "/hub"} <= mounts.keys()
        assert {name for name in mounts.values() if "/" not in name} <= compose["volumes"].keys()
    assert services["tensorboard"]["volumes"] == ["runs:/workspace/runs:ro"]
    assert services["train"]["depends_on"]["dump"]["condition"] == "service_completed_successfully"

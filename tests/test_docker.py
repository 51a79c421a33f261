"""What can be said of the images without building them; docker/test.sh builds them and runs kdcache inside."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.documented import lines_of, parse

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


@pytest.mark.parametrize("file", FILES)
def test_what_must_outlive_a_container_lies_in_folders_that_are_mounted_and_that_anybody_may_write(
    file: str, project_root: Path
) -> None:
    text = "\n".join(instructions(project_root / file))
    for variable, folder in (("XDG_CACHE_HOME", "/workspace/.cache"), ("HF_HOME", "/hub")):
        assert f"{variable}={folder} " in text
        assert re.search(rf"mkdir -p [^&]*{folder}\b", text)
        assert re.search(rf"chmod 1777 [^&]*{folder}\b", text)


class Loader(yaml.SafeLoader):
    """Reads Compose's own tag as well: what it stands before is taken out."""


Loader.add_constructor("!reset", lambda loader, node: None)


@pytest.fixture
def compose(project_root: Path) -> dict[str, Any]:
    return yaml.safe_load((project_root / "docker" / "compose.yaml").read_text(encoding="utf-8"))


def test_the_services_share_what_they_write(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for stage in ("dump", "train"):
        data, *others = services[stage]["volumes"]
        assert (data["type"], data["target"]) == ("bind", "/workspace/data")
        assert data["bind"]["create_host_path"] is False
        mounts = dict(mount.split(":")[::-1] for mount in others)
        assert mounts.keys() == {"/workspace/cache", "/workspace/runs", "/workspace/.cache", "/hub"}
        assert set(mounts.values()) == compose["volumes"].keys()
        assert services[stage]["stop_grace_period"] == "2m"
    assert services["tensorboard"]["volumes"] == ["runs:/workspace/runs:ro"]
    assert services["train"]["depends_on"]["dump"]["condition"] == "service_completed_successfully"


def test_one_service_builds_the_image_and_the_others_wait_for_it(compose: dict[str, Any]) -> None:
    services = compose["services"]
    (builder,) = (name for name, service in services.items() if "build" in service)
    for name, service in services.items():
        assert service["image"] == services[builder]["image"]
        if name == builder:
            continue
        assert service["pull_policy"] == "never"
        before = service["depends_on"]
        assert builder in before or builder in services[next(iter(before))]["depends_on"]


def test_on_a_cpu_no_service_asks_for_a_gpu_and_all_run_its_image(compose: dict[str, Any], project_root: Path) -> None:
    override = yaml.load((project_root / "docker" / "compose.cpu.yaml").read_text(encoding="utf-8"), Loader)["services"]
    assert override.keys() == compose["services"].keys()
    assert {service["image"] for service in override.values()} == {"kdcache:cpu"}
    assert override["image"]["build"] == {"dockerfile": "docker/Dockerfile.cpu"}
    for name, service in compose["services"].items():
        assert ("deploy" in service) == ("deploy" in override[name])


def test_what_the_compose_file_runs_and_tells_to_run_is_taken_by_the_command(
    compose: dict[str, Any], project_root: Path
) -> None:
    services = compose["services"]
    for stage, name in (("dump", "dump-logits"), ("train", "train")):
        command = [re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in services[stage]["command"]]
        assert parse(command) == name
    told = lines_of((project_root / "docker" / "compose.yaml").read_text(encoding="utf-8"), "docker compose")
    runs = [words[words.index("run") :] for words in told if "run" in words]
    assert runs
    for _, remove, service, *command in runs:
        assert remove == "--rm"
        assert service in services
        assert parse(command) == "dump-logits"
    for words in told:
        files = [words[number + 1] for number, word in enumerate(words) if word == "--file"]
        assert files
        assert all((project_root / file).is_file() for file in files)


def test_what_the_page_runs_in_a_container_is_taken_by_the_command(project_root: Path) -> None:
    runs = lines_of((project_root / "docs" / "docker.md").read_text(encoding="utf-8"), "docker run")
    commands = []
    for words in runs:
        after = words[words.index("kdcache") + 1 :]
        if "torchrun" in words:
            after = after[after.index("kdcache_cli") + 1 :]
        if after != ["$@"]:
            commands.append(parse(after))
    assert commands
    assert set(commands) <= {"dump-logits", "train", "doctor"}

"""Pack what a machine with PyTorch, torchvision and timm lacks for `sitting.py`, and try on the CPU that it works.

    python benchmarks/gpu/pack.py [--out FOLDER] [--python PYTHON] [--part-mib N] [--wheels FOLDER]

Wheels of kdcache's dependencies and of what its tests need are downloaded for Linux on x86_64 in the versions of
constraints.txt, as this environment has them all. They are unpacked into one folder; what no import needs is left out:
extensions for other versions of Python, headers, tests. The folder goes into an archive, cut into numbered parts with
a list of their sums. Then the parts are joined and unpacked again, and an interpreter that has these packages and those
of PyTorch, torchvision and timm alone imports each of them, decodes with DALI and renders views with kdcache.
"""

import argparse
import gzip
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent))

from packaging.markers import Environment, default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gpu.unpack import MANIFEST, Manifest, PackError, Part, environment_with, place_of, sha256_of, unpack

#: What the machine has.
THERE = ("torch", "torchvision", "timm")
#: What the sitting needs beside kdcache: the renderers' contract, the photographs, and annotated shapes.
FOR_TESTS = ("beartype", "hypothesis", "pytest", "scikit-image")
#: Packages that the machine has, perhaps in a version older than what is packed asks for.
NEWER = ("typing-extensions",)
#: Largest part in MiB: what a small transfer takes.
MAX_PART_MIB = 60
#: pip takes each platform literally: one does not stand for the older ones.
PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 26, 24, 17, 12, 5)),
    *("manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"),
)
#: Folders that no import reads.
_UNUSED_FOLDERS = {"include", "tests", "bin", "__pycache__"}
_UNUSED_SUFFIXES = (".a", ".h", ".hpp", ".pyi", ".pyx", ".pxd")
#: Folders of packages whose folder of that name is a part of what they do.
_KEPT = ("_pytest/", "pytest/", "tensorboard/", "skimage/data/")
#: Level of gzip: 12 to 22 % remain of DALI's largest library, and 16 to 27 % at level 1, which is three times as fast.
_LEVEL = 6
_CHUNK = 1 << 20


def environment_of(python: str) -> Environment:
    """The markers' variables on the machine that is packed for."""
    target = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    target |= {"platform_machine": "x86_64", "platform_system": "Linux", "implementation_name": "cpython"}
    return {**default_environment(), **target}  # type: ignore[typeddict-item]


def requirements_of(name: str, extras: frozenset[str], environment: Environment) -> set[tuple[str, frozenset[str]]]:
    """Return what an installed package asks for: names, and their extras."""
    found: set[tuple[str, frozenset[str]]] = set()
    for text in metadata.requires(name) or ():
        need = Requirement(text)
        markers: list[dict[str, str | AbstractSet[str]]] = [
            {**dict[str, Any](environment), "extra": extra} for extra in (extras or {""})
        ]
        if need.marker is None or any(need.marker.evaluate(each) for each in markers):
            found.add((canonicalize_name(need.name), frozenset(need.extras)))
    return found


def closure(names: Iterable[str], environment: Environment) -> set[str]:
    """Return the packages and all that they need, themselves included."""
    queue = [(str(canonicalize_name(name)), frozenset[str]()) for name in names]
    seen: set[tuple[str, frozenset[str]]] = set()
    while queue:
        if (one := queue.pop()) not in seen:
            seen.add(one)
            queue += [(str(name), extras) for name, extras in requirements_of(*one, environment)]
    return {name for name, _ in seen}


def missing_packages(environment: Environment) -> set[str]:
    """Return what kdcache and its tests need and the machine lacks.

    Of torchvision and timm only what they name themselves counts as being there: what this needs in turn depends on its
    version, which is another one on that machine.
    """
    there = closure(("torch",), environment) | set(THERE)
    there |= {name for one in THERE[1:] for name, _ in requirements_of(one, frozenset(), environment)}
    own = {name for name, _ in requirements_of("kdcache", frozenset(), environment)} - there
    return (closure({*own, *FOR_TESTS}, environment) - there) | set(NEWER)


def pinned(names: Iterable[str], constraints: Path) -> list[str]:
    """Return the packages as NAME==VERSION, from constraints.txt. Raises PackError where one is not there."""
    lines = [line.strip() for line in constraints.read_text(encoding="utf-8").splitlines() if "==" in line]
    pins = {str(canonicalize_name(line.partition("==")[0])): line for line in lines}
    unknown = sorted(set(names) - pins.keys())
    if unknown:
        raise PackError(f"{constraints} has no version of {', '.join(unknown)}: run `make constraints`.")
    return sorted(pins[name] for name in names)


def download(packages: Sequence[str], python: str, folder: Path) -> None:
    """Download wheels with pip, each for the Python and the platforms of the machine."""
    number = python.replace(".", "")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", python, "--implementation", "cp", "--dest", str(folder)]
    command += [word for abi in (f"cp{number}", "abi3", "none") for word in ("--abi", abi)]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    subprocess.run([*command, *packages], check=True)


def unpack_wheels(wheels: Iterable[Path], folder: Path, python: str) -> None:
    """Unpack what imports need of each wheel into one folder, as pip lays it out."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as opened:
            for member in opened.infolist():
                name = place_of(member.filename)
                if member.is_dir() or ".data/" in name or is_unused(name, python):
                    continue
                place = folder / name
                place.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as source, place.open("wb") as target:
                    shutil.copyfileobj(source, target, _CHUNK)
    join_nvidia(folder)


def is_unused(name: str, python: str) -> bool:
    """Whether no import on the machine reads a file of a wheel."""
    extension = re.search(r"\.cpython-(\d+t?)-", name)
    if extension is not None and extension[1] != python.replace(".", ""):
        return True
    if name.startswith(_KEPT) or ".dist-info/" in name:
        return False
    return not _UNUSED_FOLDERS.isdisjoint(name.split("/")[:-1]) or name.endswith(_UNUSED_SUFFIXES)


def join_nvidia(folder: Path) -> None:
    """Let `nvidia` be one package of all folders of that name: PyTorch's libraries lie in another one than DALI."""
    if (folder / "nvidia").is_dir():
        text = "from pkgutil import extend_path\n\n__path__ = extend_path(__path__, __name__)\n"
        (folder / "nvidia" / "__init__.py").write_text(text, encoding="utf-8")


class _Parts:
    """A file to write that is cut into parts of at most so many bytes."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size, self._free = folder, size, 0
        self._file: BinaryIO | None = None
        self.parts: list[Part] = []

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        while rest:
            if self._file is None:
                self._file = (self._folder / f"part-{len(self.parts):03}").open("wb")
                self._free = self._size
            piece = rest[: self._free]
            self._file.write(piece)
            self._free -= len(piece)
            rest = rest[len(piece) :]
            if not self._free:
                self.close()
        return len(data)

    def close(self) -> None:
        """End the present part."""
        if self._file is not None:
            self._file.close()
            path = Path(self._file.name)
            self.parts.append(Part(path.name, path.stat().st_size, sha256_of(path)))
            self._file = None


def write_parts(site: Path, out: Path, size: int) -> tuple[Part, ...]:
    """Write all files below `site` as an archive in parts of at most `size` bytes."""
    target = _Parts(out, size)
    with (
        gzip.GzipFile("", "wb", _LEVEL, target, mtime=0) as compressed,  # type: ignore[call-overload]
        tarfile.open(fileobj=compressed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in sorted(site.rglob("*")):
            if path.is_file():
                archive.add(path, str(path.relative_to(site)), recursive=False)
    target.close()
    return tuple(target.parts)


def link_bare(folder: Path, python: str, environment: Environment) -> Path:
    """Fill a folder with links to what PyTorch, torchvision and timm are and need in that interpreter; return it."""
    script = "import json, sys, importlib.metadata as m; print(json.dumps({n: [[str(f), str(f.locate())] for f in "
    script += "m.files(n) or ()] for n in sys.argv[1:]}))"
    names = sorted(closure(THERE, environment))
    done = subprocess.run([python, "-c", script, *names], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PackError(f"{python} lacks what the machine has ({', '.join(THERE)}): {done.stderr.strip()[-300:]}")
    for name, place in (file for files in json.loads(done.stdout).values() for file in files):
        link = folder / name
        if ".." not in name and "__pycache__" not in name and not link.exists() and Path(place).exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(place).resolve())
    return folder


def try_pack(out: Path, python: str, environment: Environment) -> str:
    """Unpack the parts elsewhere and try them in an interpreter without other packages; return what it prints.

    Raises:
        PackError: an import fails, or pixels are wrong.
    """
    with tempfile.TemporaryDirectory() as temporary:
        site = unpack(out, Path(temporary) / "site", version_of(python))
        bare = link_bare(Path(temporary) / "bare", python, environment)
        variables = environment_with(site, ROOT, ROOT / "cli", ROOT / "tests")
        variables["PYTHONPATH"] += f":{bare}"
        command = [python, "-s", "-S", str(HERE / "try_pack.py"), str(site)]
        return run_trial(command, variables)


def run_trial(command: Sequence[str], variables: dict[str, str]) -> str:
    """Run the trial of a pack and return what it prints. Raises PackError where it fails."""
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PackError(f"what was packed does not work: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout.strip()


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-pack", help="folder of the parts")
    parser.add_argument("--python", default=sys.executable, help="interpreter that tries the pack; it is packed for it")
    parser.add_argument("--part-mib", type=float, default=48, help=f"size of a part; at most {MAX_PART_MIB}")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to pack, instead of downloading")
    asked = parser.parse_args(arguments)
    if not 0 < asked.part_mib <= MAX_PART_MIB:
        parser.error(f"--part-mib {asked.part_mib:g} is not above 0 and at most {MAX_PART_MIB}")
    return asked


def version_of(python: str) -> str:
    """The version of an interpreter, such as "3.12"."""
    script = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def pack(asked: argparse.Namespace) -> Manifest:
    """Write the parts and their manifest. What lay in the folder before is replaced."""
    python = version_of(asked.python)
    environment = environment_of(python)
    with tempfile.TemporaryDirectory() as temporary:
        wheels = asked.wheels
        if wheels is None:
            wheels = Path(temporary) / "wheels"
            download(pinned(missing_packages(environment), ROOT / "constraints.txt"), python, wheels)
        files = sorted(wheels.glob("*.whl"))
        if not files:
            raise PackError(f"{wheels} has no wheels: name a folder that has some.")
        site = Path(temporary) / "site"
        unpack_wheels(files, site, python)
        asked.out.mkdir(parents=True, exist_ok=True)
        for old in (*asked.out.glob("part-*"), asked.out / MANIFEST):
            old.unlink(missing_ok=True)
        parts = write_parts(site, asked.out, int(asked.part_mib * (1 << 20)))
        manifest = Manifest(python, tuple("==".join(file.name.split("-")[:2]) for file in files), parts)
        manifest.write(asked.out)
    return manifest


def main() -> int:
    asked = parsed(sys.argv[1:])
    start = time.monotonic()
    try:
        manifest = pack(asked)
        size = sum(part.size for part in manifest.parts)
        print(
            f"{len(manifest.packages)} packages for Python {manifest.python} in {len(manifest.parts)} parts, "
            f"{size / (1 << 20):,.0f} MiB in all, below {asked.out}: {time.monotonic() - start:,.0f} s",
            flush=True,
        )
        print(try_pack(asked.out, asked.python, environment_of(manifest.python)))
    except (PackError, subprocess.CalledProcessError) as error:
        print(f"Not packed: {error}", file=sys.stderr)
        return 1
    print(f"Set KDCACHE_GPU_PACK to that folder where sitting.py runs. {time.monotonic() - start:,.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What a machine with a GPU lacks is packed into small parts, which are whole or refused; no network is needed."""

import importlib
import sys
import zipfile
from pathlib import Path

import pytest
import torch

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def gpu(project_root: Path, monkeypatch: pytest.MonkeyPatch):
    """Imports a module of benchmarks/gpu/ by its name."""
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    return lambda name: importlib.import_module(f"gpu.{name}")


def wheel(folder: Path, name: str, files: dict[str, bytes]) -> None:
    """Write a wheel of a package of that name, version 1.0, with these files."""
    info = f"{name}-1.0.dist-info"
    files = {**files, f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode()}
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in (*files, f"{info}/RECORD")).encode()
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as file:
        for place, data in files.items():
            file.writestr(place, data)


@pytest.fixture
def packed(gpu, tmp_path: Path):
    """Packs two small wheels in parts of 10 kB; returns the folder of the parts and the manifest."""
    noise = torch.randint(0, 256, (40_000,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wheels = tmp_path / "wheels"
    other = "cpython-310-x86_64-linux-gnu.so"
    files = {
        "small_one/__init__.py": b"VALUE = 1\n",
        "small_one/weights.bin": noise.numpy().tobytes(),
        "small_one/tests/test_it.py": b"",
        "small_one/include/one.h": b"",
        f"small_one/fast.{other}": b"for another version of Python",
        f"small_one/fast.cpython-{PYTHON.replace('.', '')}-x86_64-linux-gnu.so": b"for this one",
    }
    wheel(wheels, "small_one", files)
    wheel(wheels, "small_two", {"small_two-1.0.data/purelib/small_two.py": b"import small_one\n"})
    pack, out = gpu("pack"), tmp_path / "parts"
    arguments = ["--wheels", str(wheels), "--out", str(out), "--part-mib", str(10_000 / (1 << 20))]
    return out, pack.pack(pack.parsed(arguments))


def test_a_pack_is_cut_into_small_parts_and_unpacked_as_it_was(gpu, packed, tmp_path: Path) -> None:
    out, manifest = packed
    assert len(manifest.parts) >= 4
    assert {file.name for file in out.iterdir()} == {"manifest.json", *(part.name for part in manifest.parts)}
    assert all((out / part.name).stat().st_size <= 10_000 for part in manifest.parts)
    assert manifest.packages == ("small_one==1.0", "small_two==1.0")
    site = gpu("unpack").unpack(out, tmp_path / "site")
    assert (site / "small_one" / "weights.bin").stat().st_size == 40_000
    assert (site / "small_two.py").read_text(encoding="utf-8") == "import small_one\n"
    kept = {file.name for file in (site / "small_one").iterdir()}
    assert kept == {"__init__.py", "weights.bin", f"fast.cpython-{PYTHON.replace('.', '')}-x86_64-linux-gnu.so"}


def test_a_second_unpacking_keeps_what_lies_there_unless_it_is_another_pack(gpu, packed, tmp_path: Path) -> None:
    out, _ = packed
    unpack = gpu("unpack")
    site = unpack.unpack(out, tmp_path / "site")
    (site / "mark").touch()
    assert (unpack.unpack(out, tmp_path / "site") / "mark").exists()
    (site / unpack.STAMP).write_text("of another pack", encoding="utf-8")
    assert not (unpack.unpack(out, tmp_path / "site") / "mark").exists()


def test_a_pack_that_is_not_whole_or_not_for_this_python_is_refused(gpu, packed, tmp_path: Path) -> None:
    out, manifest = packed
    unpack = gpu("unpack")
    with pytest.raises(unpack.PackError, match=rf"packed for Python {PYTHON}, and this is 3\.9"):
        unpack.unpack(out, tmp_path / "site", "3.9")
    first, second = (out / part.name for part in manifest.parts[:2])
    second.write_bytes(second.read_bytes()[:-1] + b"?")
    with pytest.raises(unpack.PackError, match=r"part-001 is not as pack.py wrote it: bring it again"):
        unpack.unpack(out, tmp_path / "site")
    first.unlink()
    with pytest.raises(unpack.PackError, match=rf"lacks part-000 of {len(manifest.parts)} parts"):
        unpack.unpack(out, tmp_path / "site")
    (out / "manifest.json").write_text("[]", encoding="utf-8")
    with pytest.raises(unpack.PackError, match=r"manifest.json is not as pack.py wrote it"):
        unpack.unpack(out, tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_the_trial_imports_every_package_from_the_pack(
    gpu, packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, site = gpu("try_pack"), gpu("unpack").unpack(packed[0], tmp_path / "site")
    monkeypatch.syspath_prepend(str(site))
    assert trial.import_all(site) == (2, 2)
    wheel(tmp_path / "more", "small_three", {"small_three.py": b"import nothing_of_that_name\n"})
    gpu("pack").unpack_wheels((tmp_path / "more").iterdir(), site, PYTHON)
    importlib.invalidate_caches()
    with pytest.raises(SystemExit, match=r"small_three of small_three cannot be imported: .*nothing_of_that_name"):
        trial.import_all(site)


def test_the_trial_refuses_a_package_that_comes_from_elsewhere(gpu, tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "small_json", {"json/__init__.py": b""})
    gpu("pack").unpack_wheels((tmp_path / "wheels").iterdir(), tmp_path / "site", PYTHON)
    with pytest.raises(SystemExit, match="json of small_json was imported from"):
        gpu("try_pack").import_all(tmp_path / "site")


def test_the_trial_decodes_and_renders(gpu) -> None:
    assert gpu("try_pack").render() <= gpu("try_pack").MAX_DIFFERENCE


def test_what_is_packed_is_what_kdcache_needs_beside_pytorch_torchvision_and_timm(gpu, project_root: Path) -> None:
    pack = gpu("pack")
    names = pack.missing_packages(pack.environment_of("3.12"))
    assert {"nvidia-dali-cuda120", "zarr", "numcodecs", "google-crc32c", "webdataset", "pytest"} <= names
    assert names.isdisjoint({"torch", "torchvision", "timm", "numpy", "pillow", "nvidia-cublas", "triton", "kdcache"})
    pins = pack.pinned(names, project_root / "constraints.txt")
    assert len(pins) == len(names)
    with pytest.raises(pack.PackError, match="has no version of nothing-like-it: run `make constraints`"):
        pack.pinned({"zarr", "nothing-like-it"}, project_root / "constraints.txt")


def test_packing_ends_with_1_where_the_trial_fails(
    gpu, packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pack = gpu("pack")
    wheels = str(tmp_path / "wheels")
    monkeypatch.setattr(sys, "argv", ["pack.py", "--wheels", wheels, "--out", str(tmp_path / "again")])
    monkeypatch.setattr(pack, "link_bare", lambda folder, *_: folder)  # no PyTorch is there: kdcache cannot render
    assert pack.main() == 1
    said = capsys.readouterr()
    assert "2 packages for Python" in said.out
    assert "Not packed: what was packed does not work" in said.err


def test_parts_above_60_mib_and_folders_without_wheels_are_refused(
    gpu, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack = gpu("pack")
    with pytest.raises(SystemExit):
        pack.parsed(["--part-mib", "61"])
    assert "--part-mib 61 is not above 0 and at most 60" in capsys.readouterr().err
    with pytest.raises(pack.PackError, match="has no wheels"):
        pack.pack(pack.parsed(["--wheels", str(tmp_path), "--out", str(tmp_path / "out")]))

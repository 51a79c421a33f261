"""Energy that is counted, and energy that cannot be."""

from pathlib import Path

import pytest
import torch

from kdcache.runtime.energy import SECONDS_BETWEEN_READINGS, EnergyCounter, EnergyMeter, open_energy_meter
from kdcache.training.epoch import Clock

CPU = torch.device("cpu")


def package(folder: Path, number: int, microjoules: int, name: str = "package-0") -> Path:
    """Write a counter as Linux shows it; return its file."""
    zone = folder / f"intel-rapl:{number}"
    zone.mkdir(parents=True)
    (zone / "name").write_text(f"{name}\n")
    (zone / "max_energy_range_uj").write_text("1000000000\n")
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    return zone / "energy_uj"


def test_packages_are_added_up_and_their_parts_are_not(tmp_path):
    first, second = package(tmp_path, 0, 5_000_000), package(tmp_path, 1, 0, "package-1")
    parts = [package(tmp_path, 2, 0, "psys"), package(tmp_path, 3, 0, "dram")]
    meter = open_energy_meter(CPU, powercap=tmp_path)
    assert meter.names == ("package-0", "package-1")
    for file, microjoules in ((first, 7_500_000), (second, 1_000_000), *((part, 900_000_000) for part in parts)):
        file.write_text(str(microjoules))
    assert meter.joules() == pytest.approx(3.5)


def test_a_counter_that_begins_again_at_0_is_followed(tmp_path):
    file = package(tmp_path, 0, 990_000_000)
    meter = open_energy_meter(CPU, powercap=tmp_path)
    file.write_text("15000000")
    assert meter.joules() == pytest.approx(25)
    file.write_text("16000000")
    assert meter.joules() == pytest.approx(26)


def test_a_counter_is_read_again_before_it_begins_anew_twice():
    now, read = [0.0], []
    meter = EnergyMeter([EnergyCounter("one", lambda: float(len(read) or read.append(1) or 1))], clock=lambda: now[0])
    for now[0] in (1.0, SECONDS_BETWEEN_READINGS / 2):
        meter.keep_up()
    assert len(read) == 1
    values = iter((5.0, 9.0))
    meter = EnergyMeter([EnergyCounter("one", lambda: next(values), 100.0)], clock=lambda: now[0])
    now[0] += SECONDS_BETWEEN_READINGS
    meter.keep_up()
    assert next(values, None) is None


def test_what_cannot_be_read_is_unknown_and_not_0(tmp_path):
    assert open_energy_meter(CPU, powercap=tmp_path / "none").joules() is None
    package(tmp_path, 0, 0)
    gone = package(tmp_path, 1, 0, "package-1")
    assert open_energy_meter(CPU, counts_processors=False, powercap=tmp_path).joules() is None
    meter = open_energy_meter(CPU, powercap=tmp_path)
    gone.unlink()
    assert meter.joules() is None
    assert meter.joules() is None
    assert open_energy_meter(CPU, powercap=tmp_path).names == ()


def test_a_clock_counts_the_energy_of_steps_and_not_of_pauses():
    values = iter(float(value) for value in (0, 10, 13, 20, 26, 27))
    clock = Clock(EnergyMeter([EnergyCounter("one", lambda: next(values))]))
    start = clock.reading()
    clock.go_on()  # at 10
    clock.pause()  # at 13
    clock.go_on()  # at 20
    assert clock.reading().joules_since(start) == 3 + 6
    clock.pause()
    assert clock.reading().joules_since(start) == 3 + 7
    nothing = Clock()
    nothing.go_on()
    assert nothing.reading().joules_since(start) is None

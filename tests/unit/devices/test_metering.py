"""Devices are metered by their drivers, here by recorded tables and a library in NVML's form."""

from collections.abc import Callable
from pathlib import Path
from threading import Event
from time import monotonic, sleep

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed_pose.devices import discovery
from distributed_pose.devices.metering import Meter, Reading, Sample, Sampler, sum_up
from distributed_pose.devices.npu_meter import npu_meter
from distributed_pose.devices.nvml import NvmlMeter, nvml_meter
from tests.fakes.nvml import FakeNvml

# A table of the tool's version 26, of an A3 machine and of an A2 card.
TABLE = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 26.0.rc2                 Version: 26.0.rc2                                             |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip  Phy-ID              | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     Ascend910           | OK            | 162.6       34                0    / 0             |
| 0     0                   | 0000:9D:00.0  | 40          0    / 0          3419 / 65536         |
+------------------------------------------------------------------------------------------------+
| 0     Ascend910           | OK            | -           34                0    / 0             |
| 1     1                   | 0000:9F:00.0  | 5           0    / 0          2874 / 65536         |
+===========================+===============+====================================================+
| 1     310P3               | OK            | 12.8        45                0    / 0             |
| 0     2                   | 0000:01:00.0  | 75          577  / 21527                           |
+===========================+===============+====================================================+
"""
BOARD = """\
        NPU ID                         : 1
        Product Name                   : IT21PDDA01
        Software Version               : 26.0.rc2
        Firmware Version               : 7.1.0.3.220
        Compatibility                  : OK
"""


@pytest.fixture
def npus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with three chips, whose tool prints the table."""
    (tmp_path / "dev").mkdir()
    for number in range(3):
        (tmp_path / "dev" / f"davinci{number}").touch()
    (tmp_path / "info.txt").write_text(TABLE)
    (tmp_path / "board.txt").write_text(BOARD)
    tool = tmp_path / "npu-smi"
    show = 'while IFS= read -r line; do echo "$line"; done'
    tool.write_text(
        f'#!/bin/sh\ncase "$*" in *board*) {show} < {tmp_path}/board.txt;; '
        f"*) {show} < {tmp_path}/info.txt;; esac\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(discovery, "_DEV", tmp_path / "dev")
    return tmp_path


def found(device_id: str) -> Meter:
    meter = npu_meter(device_id)
    assert meter
    return meter


@pytest.mark.usefixtures("npus")
def test_a_chip_is_read_from_its_rows_of_the_table() -> None:
    assert found("2").read() == Reading(
        memory_used_bytes=577 * 2**20, utilisation=0.75, power_w=12.8
    )


@pytest.mark.usefixtures("npus")
@pytest.mark.parametrize(("device_id", "used_mib", "share"), [("0", 3419, 0.4), ("1", 2874, 0.05)])
def test_the_power_of_a_chip_that_shares_it_with_its_card_is_unknown(
    device_id: str, used_mib: int, share: float
) -> None:
    reading = found(device_id).read()
    assert reading == Reading(memory_used_bytes=used_mib * 2**20, utilisation=share)


@pytest.mark.usefixtures("npus")
def test_a_chip_has_the_versions_of_its_board() -> None:
    meter = found("2")
    assert (meter.driver, meter.firmware) == ("26.0.rc2", "7.1.0.3.220")


def test_a_tool_that_stops_answering_leaves_readings_without_values(npus: Path) -> None:
    meter = found("2")
    (npus / "npu-smi").unlink()
    assert meter.read() == Reading()


@pytest.mark.usefixtures("npus")
@pytest.mark.parametrize("device_id", ["3", "", "GPU-1"])
def test_a_chip_that_the_tool_does_not_list_has_no_meter(device_id: str) -> None:
    assert npu_meter(device_id) is None


def test_a_card_is_read_in_the_units_of_nvml() -> None:
    library = FakeNvml(power_mw=250_500, energy_mj=4_000_000, used_bytes=2**30, busy_percent=80)
    meter = NvmlMeter(library, "1")
    assert (meter.driver, meter.firmware) == ("580.105.08", "96.00.61.00.01")
    assert meter.read() == Reading(
        memory_used_bytes=2**30, utilisation=0.8, clock_mhz=1980, power_w=250.5, energy_j=4000.0
    )
    assert library.asked_for == "index 1"


def test_values_that_a_card_does_not_report_are_unknown() -> None:
    library = FakeNvml(used_bytes=0)
    meter = NvmlMeter(library, "GPU-5f2c")
    assert meter.read() == Reading(memory_used_bytes=0, clock_mhz=1980)
    assert library.asked_for == "GPU-5f2c"


def test_of_a_mig_instance_only_the_memory_is_known() -> None:
    library = FakeNvml(power_mw=250_500, energy_mj=4_000_000, used_bytes=7, busy_percent=80)
    meter = NvmlMeter(library, "MIG-5f2c")
    assert (meter.firmware, meter.read()) == ("", Reading(memory_used_bytes=7))


def test_without_a_driver_a_card_has_no_meter() -> None:
    pynvml = pytest.importorskip("pynvml")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        assert nvml_meter("0") is None
    else:
        pytest.skip("this machine has NVIDIA's driver")


def test_a_card_by_number_has_no_meter_if_cuda_numbers_cards_in_another_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    assert nvml_meter("0") is None


class Metered:
    """A meter that counts its readings.

    Args:
        fails: whether every reading but the first fails.
    """

    interval_s = 0.001
    driver = "1.2"
    firmware = "3.4"

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.readings = 0
        self.closed = Event()
        self.read_some = Event()

    def read(self) -> Reading:
        self.readings += 1
        if self.readings >= 3:
            self.read_some.set()
        if self.fails and self.readings > 1:
            raise OSError("the device fell off the bus")
        return Reading(power_w=10.0, energy_j=float(self.readings))

    def close(self) -> None:
        self.closed.set()


def test_a_sampler_reads_until_it_is_stopped() -> None:
    meter = Metered()
    images = iter(range(10**6))
    sampler = Sampler(lambda: meter, lambda: next(images))
    assert meter.read_some.wait(30)
    readings = sampler.stop()
    assert readings
    assert meter.closed.wait(30)
    # A thread that gets no processor for a second may still be reading.
    assert 3 <= readings.samples <= meter.readings
    assert readings.energy_j == readings.images == readings.samples - 1
    assert (readings.driver, readings.firmware, readings.energy_source) == ("1.2", "3.4", "counter")


def test_a_meter_that_fails_ends_the_readings_alone() -> None:
    meter = Metered(fails=True)
    sampler = Sampler(lambda: meter, lambda: 0)
    assert meter.closed.wait(30)
    readings = sampler.stop()
    assert readings
    assert (readings.samples, readings.energy_j) == (1, None)


def unusable() -> Meter:
    raise ImportError("no library")


@pytest.mark.parametrize("open_meter", [lambda: None, unusable])
def test_without_a_meter_there_are_no_readings(open_meter: Callable[[], Meter | None]) -> None:
    assert Sampler(open_meter, lambda: 0).stop() is None


def test_a_driver_that_does_not_answer_delays_the_end_by_its_time_limit_alone() -> None:
    stuck = Event()
    began = monotonic()

    def open_meter() -> None:
        stuck.wait(60)

    sampler = Sampler(open_meter, lambda: 0)
    sleep(0.01)
    assert sampler.stop() is None
    assert monotonic() - began < 30
    stuck.set()


def samples(*values: tuple[float, float | None, float | None]) -> list[Sample]:
    return [
        Sample(at_s=at_s, images=0, reading=Reading(power_w=power_w, energy_j=energy_j))
        for at_s, power_w, energy_j in values
    ]


def test_the_counter_of_a_device_is_better_than_its_power() -> None:
    found = sum_up(samples((0, 100, 50), (1, 100, 60)), "", "")
    assert found
    assert (found.energy_j, found.energy_source) == (10, "counter")


def test_without_a_counter_the_energy_is_the_power_over_time() -> None:
    found = sum_up(samples((0, 100, None), (2, 200, None), (3, 200, None)), "", "")
    assert found
    assert (found.energy_j, found.energy_source, found.power_w) == (500, "power", 500 / 3)


@pytest.mark.parametrize(
    "values",
    [
        [(0, 100, 50)],
        [(0, None, None), (1, None, None)],
        [(0, 100, None), (1, None, None), (2, 100, None)],
    ],
)
def test_energy_is_unknown_rather_than_guessed(
    values: list[tuple[float, float | None, float | None]],
) -> None:
    found = sum_up(samples(*values), "", "")
    assert found
    assert (found.energy_j, found.energy_source) == (None, "")


def test_a_counter_that_began_again_is_not_used() -> None:
    found = sum_up(samples((0, 100, 50), (1, 100, 3)), "", "")
    assert found
    assert (found.energy_j, found.energy_source) == (100, "power")


@given(st.floats(0, 1e4), st.lists(st.floats(0.01, 100), min_size=1, max_size=20))
def test_constant_power_gives_its_product_with_time(power_w: float, steps_s: list[float]) -> None:
    times_s = [sum(steps_s[:count]) for count in range(len(steps_s) + 1)]
    found = sum_up(samples(*((at_s, power_w, None) for at_s in times_s)), "", "")
    assert found
    assert found.energy_j == pytest.approx(power_w * times_s[-1])

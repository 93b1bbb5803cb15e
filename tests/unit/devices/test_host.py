"""The number of usable processors respects the limits of containers."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distributed_pose.devices.host import container_cpus, host_load, num_cpus


def limit(folder: Path, membership: str, files: dict[str, str]) -> float:
    """Returns the limit of a process whose control groups have the given files."""
    (folder / "membership").write_text(membership)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return container_cpus(folder, folder / "membership")


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {}, math.inf),
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2.5),
        # A group has a limit, and its parent a smaller one.
        ("0::/pod/app\n", {"pod/cpu.max": "100000 100000", "pod/app/cpu.max": "max 100000"}, 1),
        # The path is that on the host; the container sees the group at the mount.
        ("0::/kubepods/x\n", {"cpu.max": "400000 100000"}, 4),
        (
            "4:memory:/m\n3:cpu,cpuacct:/docker/x\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "300000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            3,
        ),
        (
            "1:cpu:/job\n",
            {"cpu/job/cpu.cfs_quota_us": "-1\n", "cpu/job/cpu.cfs_period_us": "100000\n"},
            math.inf,
        ),
        ("0::/\n", {"cpu.max": "nonsense"}, math.inf),
    ],
)
def test_the_smallest_quota_applies(
    tmp_path: Path, membership: str, files: dict[str, str], expected: float
) -> None:
    assert limit(tmp_path, membership, files) == expected


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert container_cpus(tmp_path, tmp_path / "nowhere") == math.inf


def test_no_more_processors_are_used_than_the_process_may_run_on() -> None:
    assert 1 <= num_cpus() <= len(os.sched_getaffinity(0))


def test_the_load_of_a_host_has_the_governors_of_its_processors(tmp_path: Path) -> None:
    for number, governor in enumerate(("powersave", "performance", "powersave")):
        folder = tmp_path / f"cpu{number}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{governor}\n")
    (tmp_path / "cpufreq").mkdir()
    load = host_load(tmp_path)
    assert load.governor == "performance+powersave"
    assert load.load is not None
    assert load.load >= 0


def test_without_frequency_scaling_the_governor_is_unknown(tmp_path: Path) -> None:
    assert host_load(tmp_path).governor == ""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has the peak apart")
def test_the_peak_memory_of_a_process_is_not_that_of_the_process_that_started_it() -> None:
    large = bytearray(b"x") * 2**29
    code = "from distributed_pose.devices.host import peak_rss_bytes; print(peak_rss_bytes())"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert 2**20 < int(output) < len(large)

"""Accelerators are listed from drivers' tools and files, within the limits of the environment."""

import os
from pathlib import Path

import pytest

from distributed_pose import parse_config
from distributed_pose.devices import discovery
from distributed_pose.devices.ascend import soc_version
from distributed_pose.devices.discovery import (
    hide_accelerators,
    local_accelerators,
    show_only,
)
from distributed_pose.devices.kinds import KINDS, accelerators
from distributed_pose.devices.planning import Accelerator

# The vendor's tool prints two lines per chip, the first of which has the number of the card.
TABLE_310P3 = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 23.0.0                   Version: 23.0.0                                               |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip  Device              | Bus-Id        | AICore(%)   Memory-Usage(MB)                       |
+===========================+===============+====================================================+
| 2     310P3               | OK            | NA          44                0    / 0             |
| 0     0                   | 0000:01:00.0  | 0           1559 / 21527                           |
+===========================+===============+====================================================+
| 5     310P3               | OK            | NA          45                0    / 0             |
| 0     1                   | 0000:81:00.0  | 0           1559 / 21527                           |
+===========================+===============+====================================================+
"""

VARIABLES = [KINDS[kind].variable for kind in accelerators()]


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in PATH, beside the folder `dev` with the only device files."""
    (tmp_path / "dev").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(discovery, "_DEV", tmp_path / "dev")
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def tool(folder: Path, name: str, text: str, ending: str = "exit 0") -> None:
    (folder / f"{name}.txt").write_text(text)
    script = f'#!/bin/sh\nwhile IFS= read -r line; do echo "$line"; done < {folder}/{name}.txt\n'
    (folder / name).write_text(f"{script}{ending}\n")
    (folder / name).chmod(0o755)


def davinci(folder: Path, *names: str) -> None:
    for name in names:
        (folder / "dev" / name).touch()


@pytest.mark.usefixtures("tools")
def test_without_drivers_no_device_is_found() -> None:
    assert local_accelerators() == ()


def test_gpus_are_those_that_nvidia_smi_lists(tools: Path) -> None:
    tool(tools, "nvidia-smi", "0, GPU-a, Tesla T4\n1, GPU-b, NVIDIA A10\n")
    assert local_accelerators() == (
        Accelerator("cuda", "0", "Tesla T4"),
        Accelerator("cuda", "1", "NVIDIA A10"),
    )


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ("NVIDIA-SMI has failed because it could not communicate with the driver.\n", "exit 9"),
        ("No devices were found\n", "exit 0"),
        ("0, GPU-a, Tesla T4\n", "exit 15"),
    ],
)
def test_a_tool_that_fails_finds_nothing(tools: Path, text: str, ending: str) -> None:
    tool(tools, "nvidia-smi", text, ending)
    assert local_accelerators() == ()


def test_a_tool_that_hangs_finds_nothing(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_TOOL_TIMEOUT_S", 0.2)
    tool(tools, "nvidia-smi", "0, GPU-a, Tesla T4\n", "while :; do :; done")
    assert local_accelerators() == ()


def test_npus_are_numbered_from_0_as_cann_does_and_not_as_their_files(tools: Path) -> None:
    davinci(tools, "davinci10", "davinci2", "davinci_manager", "davinci", "null")
    tool(tools, "npu-smi", TABLE_310P3)
    assert local_accelerators() == (
        Accelerator("npu", "0", "310P3", "2"),
        Accelerator("npu", "1", "310P3", "5"),
    )


def test_npus_without_the_tool_have_no_name(tools: Path) -> None:
    davinci(tools, "davinci0")
    assert local_accelerators() == (Accelerator("npu", "0", ""),)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("1", ["1"]),
        ("0,2", ["0", "2"]),
        ("2,0", ["0", "2"]),
        ("0,2,", ["0", "2"]),
        ("0, 2", ["0"]),
        (" 0", []),
        ("0,2,-1,1", ["0", "2"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("7", []),
    ],
)
def test_npus_that_the_environment_hides_are_not_listed(
    tools: Path, monkeypatch: pytest.MonkeyPatch, visible: str, expected: list[str]
) -> None:
    davinci(tools, "davinci0", "davinci1", "davinci2")
    tool(tools, "nvidia-smi", "0, GPU-a, A\n1, GPU-b, B\n2, GPU-c, C\n")
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", visible)
    found = local_accelerators()
    assert [d.device_id for d in found if d.kind == "npu"] == expected
    assert [d.device_id for d in found if d.kind == "cuda"] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("GPU-b", ["GPU-b"]),
        ("GPU-b, GPU-a", ["GPU-b", "GPU-a"]),
        ("1", ["1"]),
        ("GPU-x", []),
        ("GPU-", []),
    ],
)
def test_gpus_that_the_environment_names_by_their_uuids_are_found_by_these(
    tools: Path, monkeypatch: pytest.MonkeyPatch, visible: str, expected: list[str]
) -> None:
    tool(tools, "nvidia-smi", "0, GPU-a, A\n1, GPU-b, B\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [device.device_id for device in local_accelerators()] == expected


def test_hidden_accelerators_are_not_listed_afterwards(
    tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(tools, "nvidia-smi", "0, GPU-a, Tesla T4\n")
    for variable in VARIABLES:
        monkeypatch.setenv(variable, "0")
    assert local_accelerators()
    hide_accelerators()
    assert local_accelerators() == ()
    assert {os.environ[variable] for variable in VARIABLES} == {""}


MIG_LIST = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5f2c)
  MIG 3g.20gb     Device  0: (UUID: MIG-41b0)
  MIG 1g.5gb      Device  1: (UUID: MIG-GPU-5f2c/7/0)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-77aa)
"""


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("GPU-5f", [("GPU-5f", "NVIDIA A100-SXM4-40GB")]),
        ("MIG-41b0", [("MIG-41b0", "NVIDIA A100-SXM4-40GB MIG 3g.20gb")]),
        (
            "MIG-GPU-5f2c/7/0,1",
            [
                ("MIG-GPU-5f2c/7/0", "NVIDIA A100-SXM4-40GB MIG 1g.5gb"),
                ("1", "NVIDIA A100-SXM4-40GB"),
            ],
        ),
    ],
)
def test_prefixes_of_uuids_and_mig_instances_keep_the_names_of_the_environment(
    tools: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    visible: str,
    expected: list[tuple[str, str]],
) -> None:
    name = "NVIDIA A100-SXM4-40GB"
    tool(tools, "query", f"0, GPU-5f2c, {name}\n1, GPU-77aa, {name}\n")
    tool(tools, "list", MIG_LIST)
    answer = f'#!/bin/sh\ncase "$1" in -L) {tools}/list;; *) {tools}/query;; esac\n'
    (tools / "nvidia-smi").write_text(answer)
    (tools / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [(device.device_id, device.model) for device in local_accelerators()] == expected
    assert not caplog.text


@pytest.mark.parametrize(
    ("visible", "ids"), [("1,0", ["1", "0"]), ("1,7,0", ["1"]), ("1,-1,0", ["1"]), ("-1,1", [])]
)
def test_cards_listed_after_an_unknown_name_are_hidden_as_cuda_hides_them(
    tools: Path, monkeypatch: pytest.MonkeyPatch, visible: str, ids: list[str]
) -> None:
    tool(tools, "nvidia-smi", "0, GPU-a, A\n1, GPU-b, A\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [device.device_id for device in local_accelerators()] == ids


@pytest.mark.parametrize(
    ("visible", "is_logged"), [("GPU-x", True), ("0,MIG-no", True), ("-1", False), ("", False)]
)
def test_a_name_without_a_device_is_logged(
    tools: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    visible: str,
    *,
    is_logged: bool,
) -> None:
    tool(tools, "nvidia-smi", "0, GPU-a, A\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    local_accelerators()
    assert ("which is not a device of this machine" in caplog.text) is is_logged


@pytest.mark.parametrize(
    ("visible", "is_logged"), [("0,2", False), ("", False), ("2,0", True), ("0, 2", True)]
)
def test_a_list_of_npus_that_cann_reads_differently_is_logged(
    tools: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    visible: str,
    *,
    is_logged: bool,
) -> None:
    davinci(tools, "davinci0", "davinci1", "davinci2")
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", visible)
    local_accelerators()
    assert ("CANN reads ascending ids" in caplog.text) is is_logged


@pytest.mark.parametrize("name", ["310", "310P3", "310B4", "910B4-1", "910_9392", "910ProB"])
def test_chips_are_named_as_the_vendors_tool_prints_them(tools: Path, name: str) -> None:
    davinci(tools, "davinci0")
    tool(tools, "npu-smi", f"| 0     {name:<20}| OK  |\n| 0     0  | 0000:01:00.0 |\n")
    assert [device.model for device in local_accelerators()] == [name]
    assert soc_version(name) == f"Ascend{name}"
    assert parse_config({"npu": {"soc": name}}).npu.soc == name


def test_cuda_numbers_cards_as_nvidia_smi_does_unless_the_user_sets_the_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    show_only("cuda", "1")
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    local_accelerators()
    assert os.environ["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"


def test_a_single_device_can_be_left_visible(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool(tools, "nvidia-smi", "0, GPU-a, A\n1, GPU-b, B\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    show_only("cuda", "1")
    assert [device.device_id for device in local_accelerators()] == ["1"]

"""Chips are read from tables of `npu-smi`, as public logs of its versions have them."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from distributed_pose.devices import discovery
from distributed_pose.devices.ascend import soc_version
from distributed_pose.devices.discovery import local_accelerators
from distributed_pose.devices.kinds import KINDS, accelerators
from distributed_pose.devices.npu_smi import Chip, npu_chips
from distributed_pose.devices.planning import Accelerator

_WIDE = 51

VARIABLES = [KINDS[kind].variable for kind in accelerators()]


def table(
    version: str, chips: Sequence[tuple[str, str, str, str, str]], *, column: str = "Device"
) -> str:
    """Returns the output of `npu-smi info`.

    Args:
        version: version of the tool.
        chips: card, name, chip number, device number or an empty text, and bus id of each chip.
        column: heading of the second column of a chip's second line.
    """
    rule = f"+{'-' * 27}+{'-' * 15}+{'-' * 52}+"
    thick = rule.replace("-", "=")
    lines = [f"+{'-' * 96}+", f"| {f'npu-smi {version}':<35}Version: {version:<{_WIDE}}|", rule]
    lines += [
        f"| {'NPU   Name':<26}| Health        | {'Power(W)    Temp(C)':<{_WIDE}}|",
        f"| {f'Chip  {column}':<26}| Bus-Id        | {'AICore(%)   Memory-Usage(MB)':<{_WIDE}}|",
        thick,
    ]
    for card, name, chip, number, bus in chips:
        lines += [
            f"| {f'{card:<6}{name}':<26}| OK            | {'12.8        45':<{_WIDE}}|",
            f"| {f'{chip:<6}{number}':<26}| {bus:<14}| {'0           577  / 7759':<{_WIDE}}|",
            thick,
        ]
    # The lines of the processes begin with card and chip, too.
    lines += [
        f"| {'NPU     Chip':<26}| Process id    | {'Process name':<{_WIDE}}|",
        thick,
        f"| {'0       0':<26}| 310310        | {'python                   124':<{_WIDE}}|",
        f"| {'No running processes found in NPU 1':<95}|",
        thick,
    ]
    return "\n".join(lines) + "\n"


def board(**fields: str) -> str:
    """Returns the output of `npu-smi info -t board` for a chip; `_` in names becomes a blank."""
    values = {"NPU_ID": "0", "Chip_ID": "0", "Chip_Type": "Ascend", **fields}
    return "".join(f"\t{key.replace('_', ' '):<31}: {value}\n" for key, value in values.items())


ATLAS_300I = [
    (str(c), "310", str(n), str(4 * c + n), f"0000:0{c + 1}:0{n}.0")
    for c in (0, 1)
    for n in range(4)
]
A3 = [
    (str(c), "Ascend910", str(n), str(2 * c + n), "0000:9D:00.0") for c in range(2) for n in (0, 1)
]


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in PATH, beside the folder `dev` with the only device files."""
    (tmp_path / "dev").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(discovery, "_DEV", tmp_path / "dev")
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def npu_smi(folder: Path, info: str, board_text: str = "") -> None:
    """Puts a tool into a folder that prints a table or, with `-t board`, a board."""
    for name, text in (("info", info), ("board", board_text)):
        (folder / f"{name}.txt").write_text(text)
    show = 'while IFS= read -r line; do echo "$line"; done'
    script = (
        f'#!/bin/sh\necho "$*" >> {folder}/calls\n'
        f'case "$*" in *board*) {show} < {folder}/board.txt;; '
        f"*) {show} < {folder}/info.txt;; esac\n"
    )
    (folder / "npu-smi").write_text(script)
    (folder / "npu-smi").chmod(0o755)


def davinci(folder: Path, *numbers: int) -> None:
    for number in numbers:
        (folder / "dev" / f"davinci{number}").touch()


def test_the_four_chips_of_a_310_card_have_its_number(tools: Path) -> None:
    npu_smi(tools, table("23.0.0", ATLAS_300I))
    davinci(tools, *range(8))
    assert npu_chips()[5] == Chip("1", "1", 5, "310")
    assert [(d.device_id, d.model, d.card) for d in local_accelerators()] == [
        (str(n), "310", str(n // 4)) for n in range(8)
    ]


def test_the_two_chips_of_a_duo_card_have_the_number_of_its_slot(tools: Path) -> None:
    chips = [
        (card, "310P3", str(n), str(i), "0000:01:00.0")
        for i, (card, n) in enumerate([("1", 0), ("1", 1), ("2", 0), ("2", 1)])
    ]
    npu_smi(tools, table("24.1.rc2", chips))
    davinci(tools, *range(4))
    assert [d.card for d in local_accelerators()] == ["1", "1", "2", "2"]


def test_a_chip_without_a_bus_id_is_found(tools: Path) -> None:
    npu_smi(tools, table("21.0.3.1", [("0", "310", "0", "0", "NA")]))
    assert npu_chips() == [Chip("0", "0", 0, "310")]


def test_chips_of_910b_have_their_full_name_and_only_a_card_number(tools: Path) -> None:
    chips = [(str(c), "910B4-1", "0", "", f"0000:C{c}:00.0") for c in range(3)]
    npu_smi(tools, table("24.1.1", chips, column=""))
    davinci(tools, 0, 1, 2)
    assert [chip.physical for chip in npu_chips()] == [0, 1, 2]
    assert local_accelerators()[2] == Accelerator("npu", "2", "910B4-1", "2")
    assert "board" not in (tools / "calls").read_text()


@pytest.mark.parametrize(
    ("shown", "fields", "name"),
    [
        ("Ascend910", {"Chip_Name": "Ascend910", "NPU_Name": "9392"}, "910_9392"),
        ("Ascend910", {"Chip_Name": "Ascend910", "NPU_Name": "B3"}, "910B3"),
        ("910", {"Chip_Name": "910B1"}, "910B1"),
        ("910", {"Chip_Name": "Ascend910A", "NPU_Name": "NA"}, "910A"),
        ("Ascend910", {"Chip_Name": "Ascend910", "NPU_Name": "Ascend910_9362"}, "910_9362"),
        ("Ascend950PR", {"Chip_Name": "Ascend950PR", "NPU_Name": "9579"}, "950PR_9579"),
        ("Ascend910", {}, "910"),
        ("960X", {"Chip_Name": "NA", "NPU_Name": "-"}, "960X"),
    ],
)
def test_the_board_completes_the_name_of_a_family_in_the_table(
    tools: Path, shown: str, fields: dict[str, str], name: str
) -> None:
    npu_smi(tools, table("25.2.1", [("0", shown, "0", "0", "0000:9D:00.0")]), board(**fields))
    assert [chip.name for chip in npu_chips()] == [name]
    assert soc_version(name) == f"Ascend{name}"
    assert (tools / "calls").read_text().splitlines()[-1] == "info -t board -i 0 -c 0"


def test_the_board_is_read_once_for_all_chips_of_a_name(tools: Path) -> None:
    npu_smi(
        tools, table("25.2.1", A3, column="Phy-ID"), board(Chip_Name="Ascend910", NPU_Name="9392")
    )
    assert [chip.name for chip in npu_chips()] == ["910_9392"] * 4
    assert (tools / "calls").read_text().count("board") == 1


def test_in_a_container_with_the_hosts_table_the_device_files_determine_the_chips(
    tools: Path,
) -> None:
    npu_smi(tools, table("23.0.0", ATLAS_300I))
    davinci(tools, 3, 6)
    assert [(d.device_id, d.card) for d in local_accelerators()] == [("0", "0"), ("1", "1")]


def test_device_files_missing_from_the_table_have_the_name_that_it_lists(tools: Path) -> None:
    npu_smi(tools, table("23.0.0", ATLAS_300I[:1]))
    davinci(tools, 4, 5)
    assert [(d.model, d.card) for d in local_accelerators()] == [("310", "")] * 2

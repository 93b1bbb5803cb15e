"""The table of devices shows chips and cards that a run would use."""

from collections.abc import Sequence

from rich.console import Console

from distributed_pose import parse_config
from distributed_pose.records.devices import DevicePlan
from distributed_pose.report.tables import device_table


def shown(plans: Sequence[DevicePlan]) -> str:
    settings = parse_config({}).on("npu")
    console = Console(width=120)
    with console.capture() as captured:
        console.print(device_table([(plan, settings, "ascend") for plan in plans]))
    return captured.get()


def test_chips_are_shown_with_their_card_and_the_numbers_of_both() -> None:
    plans = [
        DevicePlan(
            name=f"npu:{n}",
            kind="npu",
            node="10.0.0.1",
            node_id="id",
            cpus=1,
            device_id=str(n),
            model="310",
            card=str(n // 4),
        )
        for n in range(8)
    ]
    text = shown(plans)
    assert text.count("310, card 0") == text.count("310, card 1") == 4
    assert "8 chips on 2 cards" in text


def test_devices_without_a_known_card_are_shown_without_one() -> None:
    text = shown(
        [
            DevicePlan(
                name="npu:0", kind="npu", node="", node_id="", cpus=1, device_id="0", model="310P3"
            )
        ]
    )
    assert "310P3" in text
    assert "card" not in text

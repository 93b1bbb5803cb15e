"""The results table: the guide's figures are kept, and ratios compare only comparable rows."""

import json
from dataclasses import replace

import pytest
from rich.console import Console

from distributed_pose.devices.published import PUBLISHED
from distributed_pose.guide.published_table import read_guide_table
from distributed_pose.guide.results_table import (
    ratio,
    results_json,
    results_markdown,
    results_table,
    table_bases,
)
from distributed_pose.guide.rows import Row, devices_per_card, published_rows

# The guide, section 6. The heading of the last column means "accuracy".
GUIDE = """\
## 6
| \u6a21\u578b | Ascend310\uff08samples/s\uff09 | Ascend710\uff08samples/s\uff09 | T4\uff08samples/s\uff09 | 710/310 | 710/T4 | \u7cbe\u5ea6 |
|---------------|-----|-----|------|---------|--------|-------|
| OpenPose_bs1  | 547.996   | 674.06    | 252.592       | 1.23    | 2.66   | 0.404 |
"""  # noqa: E501 - quoted without a change

ROW = Row(
    device="Ascend310P3",
    total_images_per_s=1400.0,
    clock="compute",
    origin="measured",
    source="run",
    devices=2,
    devices_per_card=1,
    batch=4,
)


def by_device(rows: list[Row]) -> dict[str, Row]:
    return {row.device: row for row in rows if row.batch == 1}


def test_the_guides_table_is_read_and_written_with_the_same_figures() -> None:
    rows = read_guide_table(GUIDE, "README.md")
    assert [row.device for row in rows] == ["Ascend310", "Ascend710", "T4"]
    assert [row.per_card for row in rows] == [547.996, 674.06, 252.592]
    assert [row.per_device for row in rows] == pytest.approx([136.999, 674.06, 252.592])
    assert {(row.ap, row.batch, row.clock, row.origin) for row in rows} == {
        (0.404, 1, "compute", "log")
    }
    text = results_markdown(rows, rows)
    assert "| Ascend310 | 4 | 136.999 | 547.996 | 1.00 | 0.81 | 2.17 | 0.404 |" in text
    # The guide truncates 2.669 to 2.66.
    assert "| Ascend710 | 1 | 674.06 | 674.06 | 1.23 | 1.00 | 2.67 | 0.404 |" in text


def test_english_headings_are_read_as_well() -> None:
    table = GUIDE.replace("\uff08", " (").replace("\uff09", ")").replace("\u7cbe\u5ea6", "AP")
    assert read_guide_table(table, "README.md") == read_guide_table(GUIDE, "README.md")


def test_text_without_the_table_has_no_rows() -> None:
    assert read_guide_table("| a | b | c |\n| 1 | 2 | 3 |\n", "README.md") == []


def test_the_published_rows_are_the_guides_and_are_marked_as_published() -> None:
    rows = published_rows()
    first = by_device(rows)
    assert {row.origin for row in rows} == {"published"}
    assert {row.clock for row in rows} == {"compute"}
    assert first["Ascend310"].per_device == 136.999
    assert first["Ascend310"].per_card == 547.996
    assert first["Ascend710"].per_card == 674.06
    assert first["T4"].per_card == 252.592
    assert (first["Ascend310"].ap, first["T4"].ap) == (0.404, None)
    sweep = {row.batch: row.per_card for row in rows if row.device == "Ascend310P3"}
    assert sweep == {1: 712.16, 4: 887.45, 8: 837.97, 16: 873.55, 32: 880.94, 64: 566.44}


def test_the_ratios_equal_those_of_the_guide() -> None:
    first = by_device(published_rows())
    assert ratio(first["Ascend710"], first["Ascend310"]) == pytest.approx(1.23, abs=0.005)
    assert ratio(first["Ascend710"], first["T4"]) == pytest.approx(2.67, abs=0.005)


def test_a_ratio_compares_cards_and_only_comparable_rows() -> None:
    card = by_device(published_rows())["Ascend310"]
    assert ratio(ROW, card) == pytest.approx(700 / 547.996)
    assert ratio(replace(ROW, clock="wall"), card) is None
    assert ratio(replace(ROW, devices_per_card=None), card) is None
    assert ratio(replace(ROW, is_uniform=False), card) is None
    assert ratio(replace(ROW, devices_per_card=None), ROW) == 1


def test_rows_are_compared_with_the_guides_devices_or_otherwise_with_the_first() -> None:
    rows = [replace(ROW, clock="wall"), ROW, *published_rows()]
    bases = table_bases(rows, published=True)
    assert [(base.device, base.batch) for base in bases] == [
        ("Ascend310", 1),
        ("Ascend710", 1),
        ("T4", 1),
    ]
    assert table_bases(rows[:2], published=False) == [ROW]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_table_keeps_all_figures_on_a_narrow_terminal(width: int) -> None:
    rows = [ROW, *published_rows()]
    console = Console(width=width, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(results_table(rows, table_bases(rows, published=True)))
    text = captured.get()
    assert "\u2026" not in text
    assert "not measured" in " ".join(text.split())


def test_the_guides_table_has_one_line_per_row_at_80_columns() -> None:
    rows = [replace(ROW, devices=16, total_images_per_s=12345.6), *published_rows()]
    console = Console(width=80, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(results_table(rows, table_bases(rows, published=True)))
    _, _, body = captured.get().partition("\u2500\n")
    origins = [line.split()[-2] for line in body.splitlines()[: len(rows)]]
    assert origins == [row.origin for row in rows]


def test_json_has_every_figure_and_its_ratios() -> None:
    rows = published_rows()
    entries = json.loads(results_json(rows, table_bases(rows, published=True)))
    assert len(entries) == sum(len(device.rates) for device in PUBLISHED.values())
    assert entries[0]["images_per_s_per_card"] == 547.996
    assert entries[1]["ratios"]["Ascend310"] == pytest.approx(1.23, abs=0.005)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("Ascend310", 4),
        ("310", 4),
        ("Ascend310P3", 1),
        ("Ascend 710", 1),
        ("Tesla T4", 1),
        ("Ascend310B", None),
        ("AMD EPYC", None),
    ],
)
def test_devices_per_card_is_known_only_for_known_names(name: str, number: int | None) -> None:
    assert devices_per_card(name) == number

"""The results table in section 6 of the guide, as its text has it.

The figure of a card stands under each device's name, and the model's name ends in the batch size:
`| OpenPose_bs1 | 547.996 | 674.06 | 252.592 | 1.23 | 2.66 | 0.404 |`.
"""

import re

from distributed_pose.report.rows import Row, devices_per_card

_RATE = re.compile(r"(.+?) ?[(\uff08] ?samples/s ?[)\uff09]")
_AP = re.compile(r"\u7cbe\u5ea6|AP|accuracy", re.IGNORECASE)
_BATCH = re.compile(r"bs(\d+)\b", re.IGNORECASE)


def read_guide_table(text: str, source: str) -> list[Row]:
    """Returns a row for each figure of the guide's table; none if the text has no such table.

    Ratios are not read: they follow from the figures.

    Args:
        text: with the table in markdown.
        source: to name it by.
    """
    lines = [_cells(line) for line in text.splitlines() if line.count("|") > 2]
    rows: list[Row] = []
    header: list[str] = []
    for cells in lines:
        if any(map(_RATE.fullmatch, cells)):
            header = cells
        elif header and len(cells) == len(header):
            rows += _rows(dict(zip(header, cells, strict=True)), source)
    return rows


def _rows(cells: dict[str, str], source: str) -> list[Row]:
    aps = [_number(value) for name, value in cells.items() if _AP.fullmatch(name)]
    batch = _BATCH.search(next(iter(cells.values())))
    rows = []
    for name, value in cells.items():
        device, rate = _RATE.fullmatch(name), _number(value)
        if device and rate is not None:
            chips = devices_per_card(device[1])
            rows.append(
                Row(
                    device[1],
                    rate,
                    "compute",
                    "log",
                    source,
                    devices=chips or 1,
                    devices_per_card=chips,
                    batch=int(batch[1]) if batch else None,
                    ap=aps[0] if aps else None,
                )
            )
    return rows


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None

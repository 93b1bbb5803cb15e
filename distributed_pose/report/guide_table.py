"""The results table in section 6 of the guide, as its text has it.

The figure of a card stands under each device's name, and the model's name ends in the batch size:
`| OpenPose_bs1 | 547.996 | 674.06 | 252.592 | 1.23 | 2.66 | 0.404 |`.
"""

import re
from collections.abc import Iterator
from itertools import islice

from distributed_pose.report.rows import Row, devices_per_card

# Guides have tens, and a terminal shows no more.
MAX_ROWS = 1000
_MAX_COLUMNS = 100

_RATE = re.compile(r"(.+?) ?[(\uff08] ?samples/s ?[)\uff09]")
_AP = re.compile(r"\u7cbe\u5ea6|AP|accuracy", re.IGNORECASE)
_BATCH = re.compile(r"bs(\d{1,9})\b", re.IGNORECASE)


def read_guide_table(text: str, source: str) -> list[Row]:
    """Returns a row for each figure of the guide's table; none if the text has no such table.

    Ratios are not read: they follow from the figures. Of a text with more than `MAX_ROWS` figures
    one more is returned.

    Args:
        text: with the table in markdown.
        source: to name it by.
    """
    return [*islice(_all_rows(text, source), MAX_ROWS + 1)]


def _all_rows(text: str, source: str) -> Iterator[Row]:
    header: list[str] = []
    for line in text.splitlines():
        # The guide's has 7 columns.
        cells = _cells(line) if 2 < line.count("|") < _MAX_COLUMNS else []
        if any(map(_RATE.fullmatch, cells)):
            header = cells
        elif header and len(cells) == len(header):
            yield from _rows(dict(zip(header, cells, strict=True)), source)


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

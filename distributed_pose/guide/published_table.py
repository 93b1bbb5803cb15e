"""Reads the results table in section 6 of the guide from its Markdown text.

Each device has a column with the figure of a card, and the model's name ends with the batch size:
`| OpenPose_bs1 | 547.996 | 674.06 | 252.592 | 1.23 | 2.66 | 0.404 |`.
"""

import re
from collections.abc import Iterator
from itertools import islice

from distributed_pose.guide.rows import Row, devices_per_card

# Guides have tens of figures, and a terminal cannot show more than a thousand.
MAX_ROWS = 1000
_MAX_COLUMNS = 100

_RATE = re.compile(r"(.+?) ?[(\uff08] ?samples/s ?[)\uff09]")
_AP = re.compile(r"\u7cbe\u5ea6|AP|accuracy", re.IGNORECASE)
_BATCH = re.compile(r"bs(\d{1,9})\b", re.IGNORECASE)


def read_guide_table(text: str, source: str) -> list[Row]:
    """Returns one row per figure of the guide's table, or an empty list without such a table.

    Ratios are not read, because they follow from the figures. At most `MAX_ROWS` + 1 rows are
    returned, so that the caller can detect a larger table.

    Args:
        text: text with the table in Markdown.
        source: name of the text.
    """
    return [*islice(_all_rows(text, source), MAX_ROWS + 1)]


def _all_rows(text: str, source: str) -> Iterator[Row]:
    header: list[str] = []
    for line in text.splitlines():
        # The guide's table has 7 columns.
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
                    device=device[1],
                    total_images_per_s=rate,
                    clock="compute",
                    origin="log",
                    source=source,
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

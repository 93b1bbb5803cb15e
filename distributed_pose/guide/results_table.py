"""Formats the results table: devices side by side, as in section 6 of the guide."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal

from rich import box
from rich.table import Table
from rich.text import Text

from distributed_pose.devices.published import PUBLISHED
from distributed_pose.errors import printable
from distributed_pose.guide.rows import Row

_TEXT_COLUMNS = {"device", "clock", "origin"}

_CAPTION = (
    "Samples/s; n: number of devices; wall: time from reading to results, compute: time in the "
    "model only; / is the ratio of compute per card; published: by the vendor's guides, not "
    "measured here."
)

# The devices that the guide compares at batch 1.
_COMPARED = ("ascend310", "ascend710", "t4")


def table_bases(rows: Sequence[Row], *, published: bool) -> list[Row]:
    """Returns the rows that others are compared with: the guide's three, otherwise the first.

    Args:
        rows: all rows of the table.
        published: whether these include the guide's rows.
    """
    compute = [row for row in rows if row.clock == "compute"]
    if not published:
        return compute[:1]
    names = [PUBLISHED[key].name for key in _COMPARED]
    by_name = {row.device: row for row in reversed(compute) if row.origin == "published"}
    return [by_name[name] for name in names]


def results_table(rows: Sequence[Row], bases: Sequence[Row]) -> Table:
    """Returns the rows with their ratios for the terminal; the caption lists sources by number."""
    (*names, _, _, _, _), *lines = _lines(rows, bases)
    sources = list(dict.fromkeys(row.source for row in rows))
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for name in (*names, "batch", "clock", "origin"):
        justify: Literal["left", "right"] = "left" if name in _TEXT_COLUMNS else "right"
        table.add_column(Text(name.replace("per ", "per\n")), justify=justify, overflow="fold")
    for row, line in zip(rows, lines, strict=True):
        *cells, precision, batch, clock, origin = line
        # In one column, so that the table fits into 80 characters.
        model = f"{batch} {precision}"
        table.add_row(*cells, model, clock, f"{origin} {sources.index(row.source) + 1}")
    legend = (f"{number}: {printable(source)}" for number, source in enumerate(sources, 1))
    table.caption = Text("\n".join((_CAPTION, *legend)))
    table.caption_justify = "left"
    return table


def results_markdown(rows: Sequence[Row], bases: Sequence[Row]) -> str:
    """Returns the rows with their ratios as a Markdown table."""
    header, *lines = _lines(rows, bases)
    sources = [row.source.replace("|", "\\|") for row in rows]
    shown = [[*header, "from"], ["---"] * (len(header) + 1)]
    shown += [[*line, source] for line, source in zip(lines, sources, strict=True)]
    return "".join(f"| {' | '.join(line)} |\n" for line in shown) + f"\n{_CAPTION}\n"


def results_json(rows: Sequence[Row], bases: Sequence[Row]) -> str:
    """Returns the rows with their ratios as JSON."""
    entries = [
        {
            **asdict(row),
            "images_per_s_per_device": row.per_device,
            "images_per_s_per_card": row.per_card,
            "ratios": {base.device: ratio(row, base) for base in bases},
        }
        for row in rows
    ]
    return json.dumps(entries, indent=2) + "\n"


def ratio(row: Row, base: Row) -> float | None:
    """Returns the rate of a row divided by that of another row, per card.

    Returns None if the clocks differ, because the time in a model is not the time of a run, and if
    a device without a known card would be compared with a card of several devices.
    """
    if row.clock != base.clock or row.per_device is None or base.per_device is None:
        return None
    if row.per_card is None and (base.devices_per_card or 1) > 1:
        return None
    return (row.per_card or row.per_device) / (base.per_card or base.per_device)


def _lines(rows: Sequence[Row], bases: Sequence[Row]) -> list[list[str]]:
    short = [f"/{base.device.removeprefix('Ascend')}" for base in bases]
    ratios = short if len(bases) > 1 else ["/ first"] * len(bases)
    header = ["device", "n", "per device", "per card", *ratios]
    header += ["AP", "prec.", "batch", "clock", "origin"]
    return [header, *([*_figures(row, bases), *_facts(row)] for row in rows)]


def _figures(row: Row, bases: Sequence[Row]) -> list[str]:
    # Six digits, as in the guides and their tools.
    rates = ("" if rate is None else f"{rate:.6g}" for rate in (row.per_device, row.per_card))
    ratios = (_number(ratio(row, base), 2) for base in bases)
    return [row.device, str(row.devices), *rates, *ratios]


def _facts(row: Row) -> list[str]:
    batch = str(row.batch) if row.batch else "?"
    return [_number(row.ap, 3), row.precision or "?", batch, row.clock, row.origin]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"

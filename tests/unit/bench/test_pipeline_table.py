"""The table of whole runs beside the bare model."""

from dataclasses import replace

import pytest
from rich.console import Console

from distributed_pose.bench.pipeline import PipelineReport
from distributed_pose.bench.tables import pipeline_table

REPORT = PipelineReport(
    processor="a processor",
    cores=2,
    precision="f32",
    batch_size=8,
    num_images=16,
    ap=None,
    bare_images_per_s=(10.0,),
    whole_images_per_s=(9.0,),
    ratio=0.9,
    compute_ms=100.0,
    other_ms={"read": 1.0},
    outside_compute_share=0.125,
)


@pytest.mark.parametrize(("share", "shown"), [(0.125, "12.5%"), (0.0, "0.0%"), (None, "n/a")])
def test_an_unknown_share_is_not_shown_as_zero(share: float | None, shown: str) -> None:
    console = Console(width=80, record=True)
    console.print(pipeline_table(replace(REPORT, outside_compute_share=share)))
    (line,) = (row for row in console.export_text().splitlines() if "outside execution" in row)
    assert shown in line

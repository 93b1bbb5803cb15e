"""What a table is made of: runs, logs of other tools, and records of such logs."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import FailFast

from distributed_pose.errors import SetupError
from distributed_pose.files import read_regular
from distributed_pose.json_records import read_record
from distributed_pose.records import DECODE_STAGES, DEVICE_STAGES
from distributed_pose.report.guide_table import MAX_ROWS, read_guide_table
from distributed_pose.report.logs import (
    AisLog,
    ComputeTimes,
    PerfFile,
    TrtexecLog,
    read_ais,
    read_perf,
    read_trtexec,
)
from distributed_pose.report.rows import Row, devices_per_card, run_rows
from distributed_pose.report.run_figures import RunFigures, read_run_figures

_REPORT = "report.json"

# Verbose logs of `trtexec` have some megabytes, images and models more.
_MAX_LOG_BYTES = 2**24

# Reports of five thousand failures have some two million characters.
_MAX_JSON = 2**22

# A record begins with its format.
_RECORD = re.compile(r'"format"|"rows"')
_RECORD_HEAD = 200

_PERF_NAME = re.compile(r"batchsize_(\d{1,9})_")

_UNKNOWN = "unknown device"


@dataclass(frozen=True)
class Source:
    """Figures of a run or a log.

    Attributes:
        format: `run`, `perf`, `trtexec`, `ais_bench` or `table`.
        rows: for the results table.
        perf: the guide's rows, where there are such.
        times: of batches in the model, where there are such.
        notes: what a reader of perf rows and times must know beside them.
    """

    format: Literal["run", "perf", "trtexec", "ais_bench", "table"]
    rows: Annotated[tuple[Row, ...], FailFast()]
    perf: PerfFile | None = None
    times: ComputeTimes | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Returns the source as indented JSON, from which `read_source` reads it again."""
        return json.dumps(asdict(self), indent=2) + "\n"


@dataclass(frozen=True)
class Given:
    """What the reader of a log knows and it does not tell; it goes before what the log tells.

    Attributes:
        device: its name.
        batch: images in a batch.
        precision: of the model.
        ap: of the model on COCO.
    """

    device: str = ""
    batch: int | None = None
    precision: str = ""
    ap: float | None = None


def read_source(path: Path, given: Given | None = None) -> Source:
    """Returns the figures of a run's folder, its report, a log, or a record of one.

    Args:
        path: of any of these.
        given: for logs.

    Raises:
        SetupError: if it is nothing of these.
    """
    content = _read(path / _REPORT if os.path.isdir(path) else path)  # noqa: PTH112 - never fails
    if not content.lstrip().startswith("{"):
        return _checked(_log(content, path, given or Given()), path)
    if len(content) > _MAX_JSON:
        raise SetupError(f"{path} has over {_MAX_JSON} characters, it is no report")
    try:
        if _RECORD.search(content, 0, _RECORD_HEAD):
            return _record(content)
        return _run(read_run_figures(content), path)
    except ValueError as error:
        raise SetupError(
            f"{path} is neither the report of a run nor a record of `report import`: {error}",
            "evaluate again with this version",
        ) from None


def _read(path: Path) -> str:
    try:
        content = read_regular(path, _MAX_LOG_BYTES)
    except OSError as error:
        raise SetupError(
            f"cannot read {path}: {error.strerror}", "give the output folder of a run, or a log"
        ) from None
    return content.decode(errors="replace")


def _log(text: str, path: Path, given: Given) -> Source:
    if perf := read_perf(text):
        return _of_perf(perf, path, given)
    if trtexec := read_trtexec(text):
        return _of_trtexec(trtexec, path, given)
    if summaries := read_ais(text):
        return _of_ais(summaries, path, given)
    if rows := read_guide_table(text, path.name):
        return Source("table", tuple(rows))
    raise SetupError(
        f"{path} has no figures that are known",
        "known are perf files of cann-benchmark, logs of trtexec and ais_bench, and the guide's "
        "results table",
    )


def _of_perf(perf: PerfFile, path: Path, given: Given) -> Source:
    name = _PERF_NAME.search(path.name)
    batch = given.batch or (int(name[1]) if name else None)
    compute = _row(
        path, given, "compute", perf.rows["inference"]["Interface throughputRate"], batch
    )
    wall = _row(path, given, "wall", perf.rows["e2e"]["throughputRate"], batch)
    return Source("perf", (compute, wall), perf)


def _of_trtexec(log: TrtexecLog, path: Path, given: Given) -> Source:
    batch = given.batch or log.batch
    notes = () if batch else ("the log does not tell the batch: taken for 1, see --batch",)
    told = Given(given.device or log.device, batch or 1, given.precision or log.precision, given.ap)
    rate = (batch or 1) * 1e3 / log.times.mean_ms
    return Source(
        "trtexec", (_row(path, told, "compute", rate, told.batch),), None, log.times, notes
    )


def _of_ais(summaries: Sequence[AisLog], path: Path, given: Given) -> Source:
    total = sum(summary.images_per_s for summary in summaries)
    batches = {summary.batch for summary in summaries}
    batch = given.batch or (batches.pop() if len(batches) == 1 else None)
    row = replace(_row(path, given, "compute", total, batch), devices=len(summaries))
    times = summaries[0].times if len(summaries) == 1 else None
    return Source("ais_bench", (row,), None, times)


def _row(
    path: Path, given: Given, clock: Literal["wall", "compute"], rate: float, batch: int | None
) -> Row:
    return Row(
        given.device or _UNKNOWN,
        rate,
        clock,
        "log",
        path.name,
        devices_per_card=devices_per_card(given.device),
        batch=batch,
        precision=given.precision,
        ap=given.ap,
    )


def _record(content: str) -> Source:
    source = read_record(Source, content)
    if source.perf and not source.perf.is_complete:
        raise ValueError("perf: a row is missing, or one of its values")
    if source.times and not source.times.mean_ms:
        raise ValueError("times: the mean is 0")
    return source


def _checked(source: Source, path: Path) -> Source:
    """Returns a source as a record of it would be read, figures that cannot be refused."""
    if len(source.rows) > MAX_ROWS:
        raise SetupError(f"{path} has over {MAX_ROWS} figures, it is no results table")
    try:
        return _record(source.to_json())
    except ValueError as error:
        raise SetupError(f"{path} has figures that cannot be: {error}") from None


def _run(run: RunFigures, path: Path) -> Source:
    folder = path if os.path.isdir(path) else path.parent  # noqa: PTH112 - never fails
    rows = tuple(run_rows(run, folder.resolve().name))
    if not run.throughput.compute_images_per_s:
        return Source("run", rows, notes=("it replays recorded maps, and no model ran in it",))
    notes = []
    if (count := len(run.devices)) > 1:
        notes.append(f"of all {count} devices of the run together")
    if batches := sorted({device.batch_size for device in run.devices} - {1}):
        notes.append(f"a time of the model is that of up to {'/'.join(map(str, batches))} images")
    return Source("run", rows, _run_perf(run), _run_times(run), tuple(notes))


def _run_perf(run: RunFigures) -> PerfFile | None:
    """Returns the guide's rows of a run.

    The tool's latencies are of an image, that of `e2e` in sum. What this system does between
    reading and the network is preprocessing, and after the network postprocessing.
    """
    images = sum(device.images for device in run.devices)
    if not images:
        return None

    def stage(*names: str) -> dict[str, float]:
        ms = sum(run.stages[name].total_ns for name in names) / 1e6 / images
        return {"throughputRate": 1e3 / ms if ms else 0.0, "moduleLatency": ms}

    wall = run.throughput.wall_images_per_s
    compute = run.throughput.compute_images_per_s["total"]
    return PerfFile(
        {
            "e2e": {"throughputRate": wall, "latency": run.throughput.wall_s * 1e3},
            "data read": stage("read"),
            "preprocess": stage("decode_jpeg", "preprocess"),
            # The tool's own rate of this row is that of the whole, its Interface rate the model's.
            "inference": {
                **stage(*DEVICE_STAGES),
                "throughputRate": wall,
                "Interface throughputRate": compute,
            },
            "postprocess": stage("check", "transfer", *DECODE_STAGES),
        }
    )


def _run_times(run: RunFigures) -> ComputeTimes | None:
    stage = run.stages["compute"]
    if not stage.count:
        return None
    mean_ns = stage.total_ns / stage.count
    times_ns = (stage.min_ns, stage.max_ns, mean_ns, stage.p50_ns, stage.p99_ns)
    return ComputeTimes(*(time_ns / 1e6 for time_ns in times_ns))

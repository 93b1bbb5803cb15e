"""Reads the figures of runs, of other tools' logs, and of records of such logs."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import FailFast

from distributed_pose.errors import SetupError
from distributed_pose.files.json_records import read_record
from distributed_pose.files.local import read_regular
from distributed_pose.guide.logs import (
    AisLog,
    ComputeTimes,
    PerfFile,
    TrtexecLog,
    read_ais,
    read_perf,
    read_trtexec,
)
from distributed_pose.guide.published_table import MAX_ROWS, read_guide_table
from distributed_pose.guide.rows import Row, devices_per_card, run_rows
from distributed_pose.records.stages import DECODE_STAGES, DEVICE_STAGES
from distributed_pose.report.report_format import check_format
from distributed_pose.report.run_figures import RunFigures, read_run_figures

_REPORT = "report.json"

# Verbose logs of `trtexec` have a few megabytes; larger files are not logs.
_MAX_LOG_BYTES = 2**24

# A report with five thousand failures has about two million characters.
_MAX_JSON = 2**22

# A record has one of these keys near its beginning.
_RECORD = re.compile(r'"format"|"rows"')
_RECORD_HEAD = 200

_PERF_NAME = re.compile(r"batchsize_(\d{1,9})_")

_UNKNOWN = "unknown device"


@dataclass(frozen=True)
class FigureSource:
    """The figures of a run or a log.

    Attributes:
        format: `run`, `perf`, `trtexec`, `ais_bench` or `table`.
        rows: rows for the results table.
        perf: rows of the guide's perf file; None if unknown.
        times: times of a batch in the model; None if unknown.
        notes: conditions under which `perf` and `times` hold.
    """

    format: Literal["run", "perf", "trtexec", "ais_bench", "table"]
    rows: Annotated[tuple[Row, ...], FailFast()]
    perf: PerfFile | None = None
    times: ComputeTimes | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Returns the source as indented JSON, which `read_source` can read."""
        return json.dumps(asdict(self), indent=2) + "\n"


@dataclass(frozen=True)
class LogFacts:
    """Facts about a log that the user states; they take precedence over those in the log.

    Attributes:
        device: name of the device.
        batch: batch size.
        precision: precision of the model.
        ap: AP of the model on COCO.
    """

    device: str = ""
    batch: int | None = None
    precision: str = ""
    ap: float | None = None


def read_source(path: Path, facts: LogFacts | None = None) -> FigureSource:
    """Returns the figures of a run's folder, a run's report, a log, or a record of a log.

    Args:
        path: path of the folder or file.
        facts: facts that the user states about a log.

    Raises:
        SetupError: if the path is none of these.
    """
    content = _read(path / _REPORT if os.path.isdir(path) else path)  # noqa: PTH112 - never fails
    if not content.lstrip().startswith("{"):
        return _checked(_log(content, path, facts or LogFacts()), path)
    if len(content) > _MAX_JSON:
        raise SetupError(f"{path} has over {_MAX_JSON} characters and is not a report")
    try:
        if _RECORD.search(content, 0, _RECORD_HEAD):
            return _record(content)
        check_format(content, path)
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


def _log(text: str, path: Path, facts: LogFacts) -> FigureSource:
    if perf := read_perf(text):
        return _perf_source(perf, path, facts)
    if trtexec := read_trtexec(text):
        return _trtexec_source(trtexec, path, facts)
    if summaries := read_ais(text):
        return _ais_source(summaries, path, facts)
    if rows := read_guide_table(text, path.name):
        return FigureSource("table", tuple(rows))
    raise SetupError(
        f"{path} has no figures in a known format",
        "known formats are perf files of cann-benchmark, logs of trtexec and ais_bench, and the "
        "guide's results table",
    )


def _perf_source(perf: PerfFile, path: Path, facts: LogFacts) -> FigureSource:
    name = _PERF_NAME.search(path.name)
    batch = facts.batch or (int(name[1]) if name else None)
    compute = _row(
        path, facts, "compute", perf.rows["inference"]["Interface throughputRate"], batch
    )
    wall = _row(path, facts, "wall", perf.rows["e2e"]["throughputRate"], batch)
    return FigureSource("perf", (compute, wall), perf)


def _trtexec_source(log: TrtexecLog, path: Path, facts: LogFacts) -> FigureSource:
    batch = facts.batch or log.batch
    notes = () if batch else ("the log does not state the batch size: 1 is assumed (set --batch)",)
    known = LogFacts(
        facts.device or log.device, batch or 1, facts.precision or log.precision, facts.ap
    )
    rate = (batch or 1) * 1e3 / log.times.mean_ms
    return FigureSource(
        "trtexec", (_row(path, known, "compute", rate, known.batch),), None, log.times, notes
    )


def _ais_source(summaries: Sequence[AisLog], path: Path, facts: LogFacts) -> FigureSource:
    total = sum(summary.images_per_s for summary in summaries)
    batches = {summary.batch for summary in summaries}
    batch = facts.batch or (batches.pop() if len(batches) == 1 else None)
    row = replace(_row(path, facts, "compute", total, batch), devices=len(summaries))
    times = summaries[0].times if len(summaries) == 1 else None
    return FigureSource("ais_bench", (row,), None, times)


def _row(
    path: Path, facts: LogFacts, clock: Literal["wall", "compute"], rate: float, batch: int | None
) -> Row:
    return Row(
        device=facts.device or _UNKNOWN,
        total_images_per_s=rate,
        clock=clock,
        origin="log",
        source=path.name,
        devices_per_card=devices_per_card(facts.device),
        batch=batch,
        precision=facts.precision,
        ap=facts.ap,
    )


def _record(content: str) -> FigureSource:
    source = read_record(FigureSource, content)
    if source.perf and not source.perf.is_complete:
        raise ValueError("perf: a row or one of its values is missing")
    if source.times and not source.times.mean_ms:
        raise ValueError("times: the mean is 0")
    return source


def _checked(source: FigureSource, path: Path) -> FigureSource:
    """Returns a source after the checks of a record, which refuse impossible figures."""
    if len(source.rows) > MAX_ROWS:
        raise SetupError(f"{path} has over {MAX_ROWS} figures and is not a results table")
    try:
        return _record(source.to_json())
    except ValueError as error:
        raise SetupError(f"{path} has impossible figures: {error}") from None


def _run(run: RunFigures, path: Path) -> FigureSource:
    folder = path if os.path.isdir(path) else path.parent  # noqa: PTH112 - never fails
    rows = tuple(run_rows(run, folder.resolve().name))
    if not run.throughput.compute_images_per_s:
        return FigureSource(
            "run", rows, notes=("the run replays recorded maps and executes no model",)
        )
    notes = []
    if (count := len(run.devices)) > 1:
        notes.append(f"the figures are for all {count} devices of the run together")
    if batches := sorted({device.batch_size for device in run.devices} - {1}):
        sizes = "/".join(map(str, batches))
        notes.append(f"a time of the model is for a batch of up to {sizes} images")
    return FigureSource("run", rows, _run_perf(run), _run_times(run), tuple(notes))


def _run_perf(run: RunFigures) -> PerfFile | None:
    """Returns the rows of the guide's perf file for a run, or None if it has no images.

    The tool's latencies are per image, except that of `e2e`, which is the total. All stages between
    reading and the network count as preprocessing, and all after the network as postprocessing.
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
        rows={
            "e2e": {"throughputRate": wall, "latency": run.throughput.wall_s * 1e3},
            "data read": stage("read"),
            "preprocess": stage("decode_jpeg", "preprocess"),
            # The tool's rate in this row is that of the run; its Interface rate is the model's.
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
    return ComputeTimes(
        min_ms=stage.min_ns / 1e6,
        max_ms=stage.max_ns / 1e6,
        mean_ms=stage.total_ns / stage.count / 1e6,
        median_ms=stage.p50_ns / 1e6,
        p99_ms=stage.p99_ns / 1e6,
    )

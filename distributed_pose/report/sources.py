"""What a table is made of: runs, logs of other tools, and records of such logs."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from distributed_pose.errors import SetupError
from distributed_pose.files import read_regular
from distributed_pose.records import DECODE_STAGES
from distributed_pose.report.guide_table import read_guide_table
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

_REPORT = "report.json"

# Logs of hours are shorter, images and models longer.
_MAX_LOG_BYTES = 2**26

_PERF_NAME = re.compile(r"batchsize_(\d+)_")

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
    rows: tuple[Row, ...]
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
    content = _read(path / _REPORT if path.is_dir() else path)
    if not content.lstrip().startswith("{"):
        return _log(content, path, given or Given())
    try:
        values = json.loads(content)
        return _record(values) if "rows" in values else _run(values, path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SetupError(
            f"{path} is neither the report of a run nor a record of `report import`: {error!r}",
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


def _record(values: Mapping[str, Any]) -> Source:
    perf, times = values["perf"], values["times"]
    return Source(
        values["format"],
        tuple(Row(**row) for row in values["rows"]),
        PerfFile(**perf) if perf else None,
        ComputeTimes(**times) if times else None,
        tuple(values["notes"]),
    )


def _run(report: Mapping[str, Any], path: Path) -> Source:
    folder = path if path.is_dir() else path.parent
    rows = tuple(run_rows(report, folder.resolve().name))
    if not report["throughput"]["compute_images_per_s"]:
        return Source("run", rows, notes=("it replays recorded maps, and no model ran in it",))
    notes = []
    if (count := len(report["devices"])) > 1:
        notes.append(f"of all {count} devices of the run together")
    if batches := sorted({device["batch_size"] for device in report["devices"]} - {1}):
        notes.append(f"a time of the model is that of up to {'/'.join(map(str, batches))} images")
    return Source("run", rows, _run_perf(report), _run_times(report), tuple(notes))


def _run_perf(report: Mapping[str, Any]) -> PerfFile | None:
    """Returns the guide's rows of a run.

    The tool's latencies are of an image, that of `e2e` in sum. What this system does between
    reading and the network is preprocessing, and after the network postprocessing.
    """
    images = sum(device["images"] for device in report["devices"])
    if not images:
        return None
    throughput, stages = report["throughput"], report["stages"]

    def stage(*names: str) -> dict[str, float]:
        ms = sum(stages[name]["total_ns"] for name in names) / 1e6 / images
        return {"throughputRate": 1e3 / ms if ms else 0.0, "moduleLatency": ms}

    wall = throughput["wall_images_per_s"]
    compute = throughput["compute_images_per_s"]["total"]
    return PerfFile(
        {
            "e2e": {"throughputRate": wall, "latency": throughput["wall_s"] * 1e3},
            "data read": stage("read"),
            "preprocess": stage("decode_jpeg", "preprocess"),
            # The tool's own rate of this row is that of the whole, its Interface rate the model's.
            "inference": {
                **stage("inference"),
                "throughputRate": wall,
                "Interface throughputRate": compute,
            },
            "postprocess": stage("transfer", *DECODE_STAGES),
        }
    )


def _run_times(report: Mapping[str, Any]) -> ComputeTimes | None:
    stage = report["stages"]["inference"]
    if not stage["count"]:
        return None
    mean_ns = stage["total_ns"] / stage["count"]
    times_ns = (stage["min_ns"], stage["max_ns"], mean_ns, stage["p50_ns"], stage["p99_ns"])
    return ComputeTimes(*(time_ns / 1e6 for time_ns in times_ns))

"""Reads and writes the lines in which the guide's tools print their figures.

`cann-benchmark` writes a perf file of five rows, `trtexec` and `ais_bench` a log with a summary.
Rates are in images per second and times in milliseconds, both with six digits.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from distributed_pose.files.json_records import Figure

# Every repetition below is bounded, or starts where no other can start. Otherwise the search would
# take quadratic time in a log that repeats parts of these lines.
_NUMBER = r"([-+]?\d{1,40}(?:\.\d{1,40})?(?:[eE][-+]?\d{1,4})?)"

# The names of the rows in the guide and in other versions of the tool.
_ROWS = {
    "e2e": "e2e",
    "data read": "data read",
    "preprocess": "preprocess",
    "inference": "inference",
    "infer": "inference",
    "postprocess": "postprocess",
    "post": "postprocess",
}
_PERF_ROW = re.compile(r"\[(" + "|".join(_ROWS) + r")\] ([^\[\n]{0,400})")
_PERF_VALUE = re.compile(rf"(?<!\w)(Interface throughputRate|\w{{1,40}}): {_NUMBER}")
_PERF_KEYS = {
    "e2e": ("throughputRate", "latency"),
    "data read": ("throughputRate", "moduleLatency"),
    "preprocess": ("throughputRate", "moduleLatency"),
    "inference": ("throughputRate", "Interface throughputRate", "moduleLatency"),
    "postprocess": ("throughputRate", "moduleLatency"),
}

# The guide prints each value of `trtexec` on its own line.
_TRTEXEC = re.compile(
    rf"(?<!Total )GPU Compute Time:\s{{0,40}}((?:\S{{1,40}} = {_NUMBER} ms,?\s{{0,40}}){{1,20}})"
)
_AIS = re.compile(
    rf"NPU_compute_time \(ms\):\s{{0,40}}((?:\S{{1,40}} = {_NUMBER},?\s{{0,40}}){{1,20}})"
)
_TIME = re.compile(rf"(min|max|mean|median|percentile\(99%\)) = {_NUMBER}")

_AIS_RATE = re.compile(
    r"throughput 1000\*batchsize(?:\.mean)?\((\d{1,9})(?:\.0{1,9})?\)"
    rf"/NPU_compute_time[^:\n]{{0,80}}: {_NUMBER}",
    re.IGNORECASE,
)

_TRTEXEC_DEVICE = re.compile(r"Selected Device: (.{1,100})")
_TRTEXEC_PRECISION = re.compile(r"\] Precision: (\S{1,40})")
_TRTEXEC_BATCH = re.compile(
    r"(?:--shapes=[^\s:]{1,200}:|Input inference shape ?: ?[^\s=]{1,200}=)(\d{1,9})x"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PerfFile:
    """The rows of a perf file.

    Attributes:
        rows: values by name of the row and key, both in the guide's spelling.
    """

    rows: Mapping[str, Mapping[str, Figure]]

    @property
    def is_complete(self) -> bool:
        """Whether all rows have all of their values."""
        return all(set(keys) <= self.rows.get(name, {}).keys() for name, keys in _PERF_KEYS.items())


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputeTimes:
    """Times to execute a batch in the model, in milliseconds.

    Attributes:
        min_ms: shortest time.
        max_ms: longest time.
        mean_ms: mean time.
        median_ms: median time.
        p99_ms: 99th percentile; None if the log has no percentiles.
    """

    min_ms: Figure
    max_ms: Figure
    mean_ms: Figure
    median_ms: Figure
    p99_ms: Figure | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrtexecLog:
    """The figures of a log of `trtexec`; only a complete log has device, precision and batch.

    Attributes:
        times: times of a query, which is one batch.
        device: name of the device; empty if unknown.
        precision: `f32`, `f16`, `bf16` or `int8`; empty if unknown.
        batch: batch size; None if unknown.
    """

    times: ComputeTimes
    device: str
    precision: str
    batch: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class AisLog:
    """The summary of `ais_bench` for one device.

    Attributes:
        times: times of a batch.
        batch: batch size.
        images_per_s: compute-only throughput.
    """

    times: ComputeTimes
    batch: int
    images_per_s: float


def perf_text(perf: PerfFile) -> str:
    """Returns the five rows in the format of the guide."""
    lines = []
    for name, keys in _PERF_KEYS.items():
        values = ", ".join(f"{key}: {perf.rows[name][key]:g}" for key in keys)
        lines.append(f"[{name}] {values}\n")
    return "".join(lines)


def read_perf(text: str) -> PerfFile | None:
    """Returns the rows in a text, or None if a row or one of its values is missing."""
    rows = {
        _ROWS[match[1]]: {key: float(value) for key, value in _PERF_VALUE.findall(match[2])}
        for match in _PERF_ROW.finditer(text)
    }
    perf = PerfFile(rows=rows)
    return perf if perf.is_complete else None


def trtexec_text(times: ComputeTimes) -> str:
    """Returns the line of GPU compute time in the format of `trtexec`."""
    values = {
        "min": times.min_ms,
        "max": times.max_ms,
        "mean": times.mean_ms,
        "median": times.median_ms,
        "percentile(99%)": times.p99_ms,
    }
    parts = (f"{name} = {value:g} ms" for name, value in values.items() if value is not None)
    return f"[I] GPU Compute Time: {', '.join(parts)}\n"


def read_trtexec(text: str) -> TrtexecLog | None:
    """Returns the figures of a log, or None if it has no line of GPU compute time."""
    match = _TRTEXEC.search(text)
    times = _times(match[1]) if match else None
    if times is None:
        return None
    device, precision, batch = (
        pattern.search(text) for pattern in (_TRTEXEC_DEVICE, _TRTEXEC_PRECISION, _TRTEXEC_BATCH)
    )
    return TrtexecLog(
        times=times,
        device=device[1].strip() if device else "",
        precision=_precision(precision[1] if precision else "", text),
        batch=int(batch[1]) if batch else None,
    )


def read_ais(text: str) -> list[AisLog]:
    """Returns one summary per device in a log of `ais_bench`, or an empty list."""
    times = [_times(match[1]) for match in _AIS.finditer(text)]
    rates = _AIS_RATE.findall(text)
    return [
        AisLog(times=of_device, batch=int(batch), images_per_s=float(rate))
        for of_device, (batch, rate) in zip(times, rates, strict=False)
        if of_device
    ]


def _times(text: str) -> ComputeTimes | None:
    values = {name: float(value) for name, value in _TIME.findall(text)}
    if not {"min", "max", "mean", "median"} <= values.keys() or values["mean"] <= 0:
        return None
    return ComputeTimes(
        min_ms=values["min"],
        max_ms=values["max"],
        mean_ms=values["mean"],
        median_ms=values["median"],
        p99_ms=values.get("percentile(99%)"),
    )


def _precision(stated: str, text: str) -> str:
    """Returns the lowest precision that the build allowed; `trtexec` states all of them."""
    for name in ("int8", "bf16", "fp16"):
        if name.upper() in stated.split("+") or f"--{name}" in text:
            return name.replace("fp", "f")
    return "f32" if stated.startswith("FP32") else ""

"""Hostile texts: configurations, logs, records, costs, labels and recorded maps."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from distributed_pose.recordings.pads import pads_content
from distributed_pose.records.images import Geometry
from tests.hostile.cases import (
    HOSTILE_NAMES,
    SIZE,
    Case,
    annotations,
    damaged,
    dataset_settings,
    write_dataset,
)

_PERF = (
    "[e2e] throughputRate: 0.08, latency: 6.2e+07\n"
    "[data read] throughputRate: 40.3, moduleLatency: 24.7\n"
    "[preprocess] throughputRate: 39.4, moduleLatency: 25.3\n"
    "[inference] throughputRate: 32.3, Interface throughputRate: 755.1, moduleLatency: 30.6\n"
    "[postprocess] throughputRate: 0.08, moduleLatency: 12400.8\n"
)
_TRTEXEC = "GPU Compute Time: min = 1 ms, max = 2 ms, mean = {} ms, median = 1 ms\n"
_AIS = (
    "NPU_compute_time (ms): min = 1, max = 2, mean = 1, median = 1\n"
    "throughput 1000*batchsize({})/NPU_compute_time.mean(1): {}\n"
)
_TABLE = "| model | a (samples/s) | AP |\n| --- | --- | --- |\n"

_PIECES = (
    *("[e2e] ", "[inference] throughputRate: ", "GPU Compute Time: ", "min = 1 ms, ", "a", "|"),
    *("NPU_compute_time (ms): ", "throughput 1000*batchsize(1)/NPU_compute_time", "--shapes="),
    *("| a (samples/s) ", "\n", "\t \n", "(", "[", "{", '{"rows":[', "\x00", "\u2028|", "1:1"),
)

_NUMBERS = ("1e999", "-1", "nan", "inf", "9" * 5000, "1e-320", "0", "1_0", "\u0663")

_LOGS: dict[str, Callable[[Random], bytes]] = {
    "damaged log": lambda r: damaged(_PERF.encode(), r),
    "pieces of a log": lambda r: (r.choice(_PIECES) * 2**20).encode()[: 2**24],
    "rows of a log": lambda r: (
        r.choice((_PERF, _TRTEXEC.format(1), _AIS.format(1, 1))) * 50_000
    ).encode(),
    "rows of a table": lambda _: (_TABLE + "| m | 1 | 0.4 |\n" * 500_000).encode(),
    "absurd number": lambda r: (
        r.choice((_TRTEXEC, _AIS.replace("({})", "(1)"), _PERF.replace("755.1", "{}")))
        .format(r.choice(_NUMBERS))
        .encode()
    ),
    "absurd batch": lambda r: _AIS.format(r.choice(_NUMBERS), 5).encode(),
    "table of hostile names": lambda r: (
        f"| m | {r.choice(HOSTILE_NAMES[:1] + HOSTILE_NAMES[3:])} (samples/s) | AP |\n"
        "| m | 5 | 0.4 |\n"
    ).encode(errors="replace"),
    "record of zeros": lambda _: b'{"format":"perf","rows":[' + b"0," * 2**20 + b"0]}",
    "nested record": lambda _: b'{"rows":' + b"[" * 2**20,
    "record of nothing": lambda r: r.choice(
        (b"{}", b'{"rows":null}', b'{"format":[],"rows":[{}]}')
    ),
}

_SCALARS: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**70, 0.5, "", "a", "\x1b[31m", [], {}, [[]], {"a": {}}, "../..", 1e308),
)


def _report() -> dict[str, Any]:
    stage = {
        "count": 1,
        "total_ns": 5,
        "min_ns": 5,
        "max_ns": 5,
        "p50_ns": 5,
        "p90_ns": 5,
        "p99_ns": 5,
    }
    names = (
        "read",
        "decode_jpeg",
        "preprocess",
        "copy_in",
        "compute",
        "copy_out",
        "check",
        "transfer",
        "peaks",
        "limbs",
        "assemble",
    )
    device = {"description": "CPU", "backend": "oracle", "precision": "f32", "batch_size": 1}
    return {
        "data": {"images": "in/images", "annotations": "in/labels.json"},
        "num_images": 1,
        "partial_by_choice": False,
        "ap": {"AP": 0.5},
        "devices": [{**device, "images": 1, "compute_images_per_s": 2.0}],
        "throughput": {
            "wall_images_per_s": 1.0,
            "wall_s": 1.0,
            "compute_images_per_s": {"total": 2.0},
        },
        "stages": dict.fromkeys(names, stage),
    }


def _replaced(value: Any, random: Random) -> Any:
    """Returns nested values with one of them replaced."""
    if isinstance(value, dict | list) and value and random.random() < 0.85:
        key = random.choice([*value] if isinstance(value, dict) else range(len(value)))
        copy = value.copy()
        if random.random() < 0.15:
            copy.pop(key)
        else:
            copy[key] = _replaced(copy[key], random)
        return copy
    return random.choice(_SCALARS)


def _report_command(folder: Path, random: Random) -> Sequence[str]:
    (folder / "run").mkdir()
    report = json.dumps(_replaced(_report(), random)).encode()
    people = [{"image_id": 1, "keypoints": [5.0] * 51, "score": 1.0, "category_id": 1}]
    detections = json.dumps(_replaced(people, random) if random.random() < 0.5 else people).encode()
    if random.random() < 0.3:
        report = damaged(report, random)
    (folder / "run" / "report.json").write_bytes(report)
    (folder / "run" / "detections.json").write_bytes(detections)
    write_dataset(folder, {"a.png": b""})
    command = ["report", "in/run", "--as", random.choice(("guide", "trtexec"))]
    return random.choice(
        (command, ["report", "table", "in/run"], ["picture", "in/run", "out/a.jpg"])
    )


def _log(content: Callable[[Random], bytes]) -> Callable[[Path, Random], Sequence[str]]:
    def write(folder: Path, random: Random) -> Sequence[str]:
        (folder / "a.log").write_bytes(content(random))
        return ["report", random.choice(("import", "table")), "in/a.log"]

    return write


def _configuration(folder: Path, random: Random) -> Sequence[str]:
    settings = write_dataset(folder, {})
    pairs = dict(word.split("=") for word in settings if "=" in word)
    lines = [f"{key.split('.')[-1]}: {value}" for key, value in pairs.items() if "data." in key]
    text = (
        "data:\n" + "".join(f"  {line}\n" for line in lines) + "engine: inline\nbackend: oracle\n"
    )
    piece = random.choice(
        (
            "1:",
            "[",
            "- ",
            "&a [*a, ",
            "{a: ",
            "? ",
            "\t",
            '"',
            "# x\n",
            "a: b\n",
            "<<: {",
            "!!binary a\n",
        )
    )
    hostile = random.choice(
        (damaged(text.encode(), random), (text + "batch_size: " + piece * 50_000).encode())
    )
    (folder / "run.yaml").write_bytes(hostile)
    return ["evaluate", "--config", "in/run.yaml", "--output", "out/run"]


def _costs(folder: Path, random: Random) -> Sequence[str]:
    costs = {
        "cores": 4,
        "ceiling_images_per_s": 100.0,
        "device_share": 0.9,
        "cpu_us": {"driver": 5.0},
        "object_store_bytes": 5.0,
        "gather": "maps",
        "read": "driver",
        "batch_size": 1,
    }
    content = json.dumps(_replaced(costs, random)).encode()
    (folder / "costs.json").write_bytes(
        content if random.random() < 0.7 else damaged(content, random)
    )
    return ["plan", "--devices", "300=4", "--costs", "in/costs.json"]


def _labels(folder: Path, random: Random) -> Sequence[str]:
    settings = write_dataset(folder, {"a.png": b"x"})
    content = annotations({"a.png": SIZE, "good.png": SIZE})
    for _ in range(random.randint(1, 3)):
        changed = _replaced(content, random)
        content = changed if isinstance(changed, dict) else content
    text = json.dumps(content).encode()
    (folder / "labels.json").write_bytes(text if random.random() < 0.7 else damaged(text, random))
    return settings


def _maps(folder: Path, random: Random) -> Sequence[str]:
    """Lists recorded maps of images with the largest sizes of annotations."""
    size = random.choice((SIZE, (11000, 11000), (30000, 30000), (2**31 - 1, 2**31 - 1), (1, 2**27)))
    (folder / "maps").mkdir()
    rng = np.random.default_rng(random.randrange(2**32))
    for number, channels in enumerate((19, 38)):
        maps = rng.random((channels, 46, 80), np.float32).tobytes()
        content = damaged(maps, random) if random.random() < 0.3 else maps
        (folder / "maps" / f"a_{number}.bin").write_bytes(content)
    (folder / "labels.json").write_text(json.dumps(annotations({"a.png": size})))
    (folder / "images").mkdir()
    if random.random() < 0.5:
        settings = dataset_settings("images", backend="recorded", **{"model.path": "in/maps"})
        return [word.replace("in/images", "in/maps") for word in settings]
    geometry = Geometry(*size, 0, 0, *random.choice(((0, 0), (0, 160), (5, 2**20))))
    (folder / "pad.txt").write_bytes(pads_content([("a.png", geometry)]))
    files = {
        "--result-dir": "in/maps",
        "--pad-txt-path": "in/pad.txt",
        "--labels": "in/labels.json",
    }
    options = [word for pair in files.items() for word in pair]
    return ["guide", "postprocess", *options, "--detections-save-path", "out/a.json"]


def text_cases(_random: Random) -> list[Case]:
    """Returns one case of each kind of log, and several random ones."""
    drawn = {
        "report": _report_command,
        "configuration": _configuration,
        "costs": _costs,
        "labels": _labels,
        "recorded maps": _maps,
    }
    cases = [Case("text", name, _log(content)) for name, content in _LOGS.items()]
    return [*cases, *(Case("text", name, write) for name, write in drawn.items() for _ in range(4))]

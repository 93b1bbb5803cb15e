"""The report of a run, and its files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import yaml

from distributed_pose.data.entries import ListedId
from distributed_pose.files.storage import Folder
from distributed_pose.metrics.throughput import StageFigures
from distributed_pose.records import Damage, Faults, HostUse, Memory

# The files of a run.
DETECTIONS, CONFIG, REPORT = "detections.json", "config.yaml", "report.json"

# Libraries whose version can change a figure.
_LIBRARIES = (
    "distributed-pose",
    "opencv-python-headless",
    "simplejpeg",
    "onnxruntime",
    "openvino",
    "numpy",
    "pycocotools",
    "ray",
)

_DAMAGED_SHOWN = 3


@dataclass(frozen=True)
class DataReport:
    """The dataset.

    Attributes:
        images: folder of the images, a path or a URI.
        annotations: annotation file, a path or a URI.
        repeat: how often the images are gone through.
        category: id in that file of the people that are scored.
        notes: what of that file was ignored, replaced or assumed, a sentence each.
    """

    images: str
    annotations: str
    repeat: int = 1
    category: ListedId = 1
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelReport:
    """The model.

    Attributes:
        path: of the file that the user named.
        sha256: of its content.
        refinement_stages: that the network of a checkpoint got; None for any other model.
        unused: names of what else a checkpoint holds, such as further stages.
        notes: what else there is to know about how the file was read.
    """

    path: str
    sha256: str
    refinement_stages: int | None = None
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class NamedImage:
    """An image that is to be told of, by its id in the annotation file, and the reason."""

    image_id: ListedId
    file_name: str
    reason: str


@dataclass(frozen=True)
class DeviceReport:
    """One device.

    Attributes:
        name: unique in the run.
        kind: `cpu`, `cuda` or `npu`.
        id: number of the device among those of its kind.
        physical_id: by which its node knows it; empty for CPUs.
        node: address of its node.
        description: the device's own name.
        backend: that ran the model.
        precision: that the compiled model computes in.
        threads: CPU threads of its worker.
        batch_size: most images that it infers at once.
        images: settled by it.
        busy_share: share of the timed phase in which it executed its model; None where none ran.
        compute_images_per_s: images a second of that time, compute only; None likewise.
        host: name of the machine that its worker ran on.
        versions: version of each thing that computed there, by name, as its worker found them.
        passed_over: why it did not take the backends that `auto` prefers, a line each.
    """

    name: str
    kind: str
    id: int
    physical_id: str
    node: str
    description: str
    backend: str
    precision: str
    threads: int
    batch_size: int
    images: int
    busy_share: float | None
    compute_images_per_s: float | None
    host: str
    versions: Mapping[str, str]
    passed_over: tuple[str, ...] = ()


@dataclass(frozen=True)
class Throughput:
    """Two figures with two names, and what lies between them.

    Attributes:
        wall_images_per_s: images over the wall time from the first dispatch to the last result,
            all devices ready before; over the sum of these times if there were several sessions.
        compute_images_per_s: images over the time in which the model was executed, without copies
            and checks, by device and in sum; empty where maps were replayed and no model ran.
        wall_s: that wall time.
        outside_compute_share: share of the devices' wall time in which their model was not
            executed; None where none ran.
        straggler_share: share of it after the last result of each, while others were at work.
    """

    wall_images_per_s: float
    compute_images_per_s: Mapping[str, float]
    wall_s: float
    outside_compute_share: float | None
    straggler_share: float


@dataclass(frozen=True)
class RunReport:
    """All that a run found. `ap` is None if more images failed than may, or nothing is labelled.

    Attributes:
        note: what the reader must know before any figure; empty where there is nothing.
        complete: every image has a result.
        partial_by_choice: a limit left images out, and AP is over the rest.
        num_images: images of the run.
        failures: images without a result, and why.
        damaged: images with a result whose file is damaged, and what its decoder says.
        failures_allowed: how many there may be, to count as images without detections.
        ap: the ten COCO figures by name; -1 where COCO leaves one undefined.
        unscored: why `ap` is None; empty where it is not.
        gather: `maps` or `poses`, what the workers answered with.
        sessions: stretches of work that the run was done in; its wall time is their sum.
        warmup_s: time to start the workers, compile, load and warm up the model on every device;
            it, memory, faults and host_use are those of the last session.
        compile_s: the part of it that went into compiling.
        faults: what went wrong with devices and reducers, and was dealt with.
        host_use: processor time and object-store traffic of the timed phase.
    """

    note: str
    complete: bool
    partial_by_choice: bool
    num_images: int
    num_detections: int
    failures: tuple[NamedImage, ...]
    damaged: tuple[NamedImage, ...]
    failures_allowed: int
    ap: Mapping[str, float] | None
    unscored: str
    profile: str
    precision: str
    backend: str
    engine: str
    gather: str
    data: DataReport
    model: ModelReport
    throughput: Throughput
    stages: Mapping[str, StageFigures]
    sessions: int
    warmup_s: float
    compile_s: float
    memory: Memory
    faults: Faults
    host_use: HostUse
    devices: tuple[DeviceReport, ...]
    versions: Mapping[str, str]

    @property
    def is_usable(self) -> bool:
        """Whether the run came to its end, and no more images failed than may."""
        settled = self.complete or bool(self.failures)
        return settled and len(self.failures) <= self.failures_allowed

    def to_json(self) -> str:
        """Returns the report as indented JSON."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"


def damage_summary(damaged: Sequence[NamedImage | Damage]) -> str:
    """Returns a line about images whose file is damaged: how many, and the first of them."""
    shown = ", ".join(f"{one.file_name} ({one.reason})" for one in damaged[:_DAMAGED_SHOWN])
    hidden = len(damaged) - _DAMAGED_SHOWN
    more = f" and {hidden} more" if hidden > 0 else ""
    images = "1 image is" if len(damaged) == 1 else f"{len(damaged)} images are"
    return f"{images} damaged and used all the same: {shown}{more}"


def library_versions() -> dict[str, str]:
    """Returns the installed versions of the libraries that can change a figure."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def detections_json(detections: Sequence[Mapping[str, Any]]) -> str:
    """Returns COCO results as JSON, a line a detection."""
    rows = ",\n".join(json.dumps(detection, allow_nan=False) for detection in detections)
    return f"[\n{rows}\n]\n" if rows else "[]\n"


def write_run(
    folder: Folder,
    report: RunReport,
    detections: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    config_name: str = CONFIG,
) -> None:
    """Writes `detections.json`, the resolved configuration and, last, `report.json`.

    Raises:
        ExecutionError: if a file cannot be written.
    """
    folder.write(DETECTIONS, detections_json(detections))
    folder.write(config_name, yaml.safe_dump(dict(config), sort_keys=False))
    folder.write(REPORT, report.to_json())

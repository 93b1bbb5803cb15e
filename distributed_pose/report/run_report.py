"""The report of a run, and its files."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import yaml

from distributed_pose.data.entries import ListedId
from distributed_pose.errors import SetupError
from distributed_pose.files.json_records import read_record
from distributed_pose.files.storage import Folder, read_location
from distributed_pose.keypoints.reading import check_keypoint_set, coco_body
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.locations import Location
from distributed_pose.metrics.throughput import StageFigures
from distributed_pose.records.facts import DeviceReadings, Faults, HostUse, Memory
from distributed_pose.records.images import Damage, scales_note
from distributed_pose.report.audit_record import AuditReport
from distributed_pose.report.detections_json import detections_json_parts
from distributed_pose.report.report_format import check_format

# The files of a run.
DETECTIONS, CONFIG, REPORT = "detections.json", "config.yaml", "report.json"

# A report names every failed image, of which a run has at most a million.
MAX_REPORT_BYTES = 2**28

# Libraries whose version can change a figure.
_LIBRARIES = (
    "distributed-pose",
    "opencv-python-headless",
    "simplejpeg",
    "onnxruntime",
    "openvino",
    "numpy",
    "pycocotools",
    "hotcoco",
    "ray",
)

_DAMAGED_SHOWN = 3

_RUN_HINT = "give the output folder of an evaluation"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataReport:
    """The dataset of a run.

    Attributes:
        images: location of the images, a path or a URI.
        annotations: location of the annotation file, a path or a URI.
        repeat: number of times that the images were evaluated.
        category: id of the person category in the annotation file.
        notes: one sentence per kind of entry in the annotation file that was ignored, replaced or
            assumed.
    """

    images: str
    annotations: str
    repeat: int = 1
    category: ListedId = 1
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelReport:
    """The model of a run.

    Attributes:
        path: path of the model file, as the user named it.
        sha256: SHA-256 of the file's content.
        refinement_stages: number of refinement stages of a checkpoint's network; null for other
            models.
        unused: names of parts of a checkpoint that the network does not use, such as further
            stages.
        notes: further sentences on how the file was read.
    """

    path: str
    sha256: str
    refinement_stages: int | None = None
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedImage:
    """An image that the report names, with the reason.

    Attributes:
        image_id: id in the annotation file.
        file_name: file name in the annotation file.
        reason: reason, on one line.
    """

    image_id: ListedId
    file_name: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceReport:
    """One device, or one worker of a device that has several.

    Attributes:
        name: unique name in the run, such as `cuda:0`.
        kind: kind of the device, such as `cuda`, or one that another package registers.
        id: number of the device among those of its kind, over all nodes.
        physical_id: id by which its node knows the device; empty for CPUs.
        node: address of its node.
        description: the device's own name.
        backend: backend that ran the model.
        precision: precision that the compiled model computes in.
        threads: number of CPU threads of its worker.
        batch_size: largest number of images that it infers at once.
        images: number of images that it evaluated.
        busy_share: share of the timed phase in which it executed its model; null where no model
            ran.
        compute_images_per_s: images per second of execution time, compute only; null where no model
            ran.
        host: name of the machine that its worker ran on.
        versions: versions of the driver, runtime and libraries in its worker's process, by name.
        passed_over: one line per backend that `auto` prefers and the device could not take, with
            the reason.
        feeders: number of images that its worker prepared at once; null where unknown.
        feeder_processes: number of processes that prepared images for its worker; 0 where the
            worker prepared them itself, null where unknown.
        readings: readings of its driver in the last session; null for CPUs, and where the driver
            cannot be asked.
        images_per_joule: images per joule in the last session; workers that share a device have
            the one of all their images. Null where the energy is unknown.
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
    feeders: int | None = None
    feeder_processes: int | None = None
    readings: DeviceReadings | None = None
    images_per_joule: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Throughput:
    """The two throughputs of a run, and the shares of time by which they differ.

    Attributes:
        wall_images_per_s: images per second from the first dispatch to the last result, with all
            devices ready before; a run of several sessions counts the sum of their times.
        compute_images_per_s: images per second of execution time, by device and in `total`, without
            checks, and without copies where the backend reports them apart; empty where maps were
            replayed and no model ran.
        wall_s: seconds from the first dispatch to the last result, summed over the sessions.
        outside_compute_share: share of the devices' wall time in which they did not execute their
            model; null where no model ran.
        straggler_share: share of the devices' wall time after their last result, while other
            devices still worked.
    """

    wall_images_per_s: float
    compute_images_per_s: Mapping[str, float]
    wall_s: float
    outside_compute_share: float | None
    straggler_share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RunReport:
    """The report of a run.

    `ap` is null if more images failed than are allowed, or if nothing is labelled. The report of an
    older version is without the fields that the version did not know; they have their defaults.

    Attributes:
        note: sentences that the reader must know before any figure; empty if there are none.
        complete: whether every image has a result.
        partial_by_choice: whether `data.limit` left images out, so that AP is over the rest.
        num_images: number of images of the run.
        num_detections: number of detected people.
        failures: images without a result, with the reason.
        damaged: images with a result whose file is damaged, with the message of the image decoder.
        failures_allowed: number of images that may fail and count as images without detections.
        ap: the ten COCO figures by name; -1 where COCO leaves one undefined.
        unscored: reason why `ap` is null; empty if `ap` has figures.
        profile: preprocessing profile.
        input: size of the network inputs, `HEIGHTxWIDTH` in pixels; with profile `upstream` the
            least width. Empty where unknown.
        keypoints: keypoint set of the run; the body of COCO where the file has none.
        scales: scale factors whose maps were averaged.
        precision: precision of all devices, joined by `+` where they differ.
        backend: backend of all devices, joined by `+` where they differ.
        engine: `ray` or `inline`.
        gather: `maps` or `poses`, which the workers returned; `auto` in a resumed run that had
            nothing left to evaluate.
        read: `driver` or `worker`, which read the images; `auto` as for `gather`, empty where
            unknown.
        reducers: number of reducers; 0 where the workers grouped their maps, null where unknown.
        data: dataset of the run.
        model: model of the run.
        throughput: throughput by wall clock and compute only.
        stages: durations by stage, in the order of processing.
        sessions: number of sessions of the run.
        warmup_s: seconds to start the workers, compile, load and warm up the model on every device,
            in the last session.
        compile_s: part of `warmup_s` that compiling took.
        memory: memory of the last session.
        faults: faults of devices and reducers in the last session, which the run recovered from.
        host_use: processor time and object-store traffic of the timed phase in the last session.
        devices: the devices, in the order of their names.
        versions: versions of the libraries in the driver, by name.
        scorer: library that computed `ap`, with its version and how it was checked; empty where
            `ap` is null or the library is unknown.
        audit: where, when, by which command and on which data the run was made.
        report_format: number of the format of `report.json`; 1 where the file has none.
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
    input: str = ""
    keypoints: KeypointSet = field(default_factory=coco_body)
    scales: tuple[float, ...] = (1.0,)
    precision: str
    backend: str
    engine: str
    gather: str
    read: str = ""
    reducers: int | None = None
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
    scorer: str = ""
    audit: AuditReport = field(default_factory=AuditReport)
    report_format: int = 1

    @property
    def preprocessing(self) -> str:
        """Profile, input size, scales other than 1, and keypoint set other than the body of COCO.

        Such as `profile modelzoo at 368x640`.
        """
        size = f" at {self.input}" if self.input else ""
        keypoints = "" if self.keypoints == coco_body() else f" · keypoints {self.keypoints.name}"
        return f"profile {self.profile}{size}{scales_note(self.scales)}{keypoints}"

    @property
    def is_usable(self) -> bool:
        """Whether the run is complete, and no more images failed than are allowed."""
        settled = self.complete or bool(self.failures)
        return settled and len(self.failures) <= self.failures_allowed

    def to_json(self) -> str:
        """Returns the report as indented JSON."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"

    @classmethod
    def load(cls, folder: Path | str | Location) -> Self:
        """Returns the report in the output folder of a run, of this version or an older one.

        Args:
            folder: output folder of an evaluation, a path or a URI.

        Raises:
            SetupError: if the folder has no report, or one in the format of a newer version.
        """
        location = Location(folder).within(REPORT)
        content = read_location(location, _RUN_HINT.removeprefix("give "), MAX_REPORT_BYTES)
        try:
            check_format(content, location)
            report = read_record(cls, content)
            check_keypoint_set(report.keypoints)
        except ValueError as error:
            raise SetupError(f"{location} is not a report: {error}", _RUN_HINT) from None
        return report


def damage_summary(damaged: Sequence[NamedImage | Damage]) -> str:
    """Returns a line about images whose file is damaged: their number, and the first ones."""
    shown = ", ".join(f"{one.file_name} ({one.reason})" for one in damaged[:_DAMAGED_SHOWN])
    hidden = len(damaged) - _DAMAGED_SHOWN
    more = f" and {hidden} more" if hidden > 0 else ""
    images = "1 image is" if len(damaged) == 1 else f"{len(damaged)} images are"
    return f"{images} damaged and evaluated nevertheless: {shown}{more}"


def library_versions() -> dict[str, str]:
    """Returns the installed versions of the libraries that can change a figure."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_run(
    folder: Folder,
    report: RunReport,
    detections: Iterable[Mapping[str, Any]],
    config: Mapping[str, Any],
    config_name: str = CONFIG,
) -> None:
    """Writes `detections.json`, the resolved configuration and, last, `report.json`.

    Raises:
        ExecutionError: if a file cannot be written.
    """
    folder.write_parts(DETECTIONS, detections_json_parts(detections))
    folder.write(config_name, yaml.safe_dump(dict(config), sort_keys=False))
    folder.write(REPORT, report.to_json())

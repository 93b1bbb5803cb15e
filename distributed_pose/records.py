"""Frozen records that cross a boundary between rooms or processes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from distributed_pose.locations import Location

# Durations in nanoseconds by stage, one entry a measurement. They stay raw until the end of the
# run, because percentiles of merged runs cannot be had from percentiles of their parts.
Durations = Mapping[str, tuple[int, ...]]

# The parts of a batch's time on its device, in order.
DEVICE_STAGES = ("copy_in", "compute", "copy_out")

# The parts of decoding, in order.
DECODE_STAGES = ("peaks", "limbs", "assemble")

# The stages that a report lists, in the order in which an image meets them.
STAGES = (
    "read",
    "decode_jpeg",
    "preprocess",
    *DEVICE_STAGES,
    "check",
    "transfer",
    *DECODE_STAGES,
    "score",
)


@dataclass(frozen=True)
class ImageRecord:
    """An image of the dataset, as its annotation file describes it; sizes in pixels."""

    image_id: int
    file_name: str
    height: int
    width: int


@dataclass(frozen=True)
class Geometry:
    """How an image lies in its network input: resized, then padded; all in pixels.

    Padding is in input pixels, height and width are those of the original image.
    """

    image_height: int
    image_width: int
    pad_top: int
    pad_left: int
    pad_bottom: int
    pad_right: int


@dataclass(frozen=True)
class Failure:
    """An image that has no result, and why."""

    image_id: int
    file_name: str
    reason: str


@dataclass(frozen=True)
class Damage:
    """An image whose file is damaged and was evaluated all the same, and what its decoder says."""

    image_id: int
    file_name: str
    reason: str


@dataclass(frozen=True)
class DevicePlan:
    """A device, or its share of one, that gets one worker.

    Attributes:
        name: unique in the run, such as `cpu:0`; devices of a kind are numbered over all nodes.
            Where a device has several workers, those after its first are `cuda:0.1` and so on.
        kind: `cpu`, `cuda` or `npu`.
        node: address of its node; empty where there is only one.
        node_id: the cluster's identifier of that node; empty where there is only one.
        cpus: CPUs that the worker reserves; its threads are at most as many.
        device_id: by which its node knows it among those of its kind; empty for CPUs.
        model: its maker's name of it, such as `310P3`; empty for CPUs and where nobody tells.
        card: number of its card among those of its node; empty where it is unknown.
        share: of the device that the worker has; 1 for CPUs.
    """

    name: str
    kind: str
    node: str
    node_id: str
    cpus: float
    device_id: str = ""
    model: str = ""
    card: str = ""
    share: float = 1.0

    @property
    def number(self) -> int:
        """Number of the device among those of its kind."""
        return int(self.name.rpartition(":")[2].partition(".")[0])

    @property
    def threads(self) -> int:
        """Threads that the worker may use."""
        return max(1, int(self.cpus))


@dataclass(frozen=True)
class ModelPort:
    """An input or output of a model.

    Attributes:
        name: in the model.
        shape: the dimensions that are not fixed are None.
        dtype: NumPy's name of the type that the runtime takes or gives, where it has one.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class CompileSpec:
    """What is to be compiled.

    Attributes:
        backend: name in the registry.
        precision: to compile for; `auto` where the device decides when it loads.
        profile: of preprocessing, which decides on type and size of the inputs.
        batch_sizes: that the device must take; compilers of fixed shapes need to know.
        target: soc or GPU that only this artifact runs on; empty for portable ones.
        index: of a device to make it on, among those that the process sees; any like it will do.
    """

    backend: str
    precision: str
    profile: str
    batch_sizes: tuple[int, ...] = (1,)
    target: str = ""
    index: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Simulation:
    """How a simulated device differs from the published one that it stands for.

    Attributes:
        images_per_s: 0 for the published rates.
        overhead_s: that a batch of any size takes on top.
        jitter: half the range of a batch's time, as a share of it.
        copy_in_s: per image, for the copy of its input to the card.
        copy_out_s: per image, for the copy of its maps from the card.
        slots: batches that the card has under way at once.
    """

    images_per_s: float = 0.0
    overhead_s: float = 0.0
    jitter: float = 0.02
    copy_in_s: float = 0.0
    copy_out_s: float = 0.0
    slots: int = 2


@dataclass(frozen=True)
class ImagesToRead:
    """Images that workers read themselves.

    Attributes:
        location: of the images.
        sample: file name of an image that the driver finds there, and each worker must be able to
            read; empty if it finds none.
    """

    location: Location
    sample: str = ""


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker is; travels by value into its constructor.

    Attributes:
        plan: the device.
        backend: name in the registry.
        precision: requested precision.
        profile: name of the preprocessing profile.
        batch_sizes: most images in a batch; of several, a sweep on the device finds the best.
        maps_dtype: `f32` or `f16`, of maps before they are grouped.
        gather: `maps` or `poses`, what the worker answers with.
        index: of the device among those of its kind that the worker's process sees.
        best_batch_size: that an earlier process of the device has found; 0 if none has.
        images: that the worker reads; None where shards bring them.
        simulation: of a simulated device.
        dump_folder: where it writes the maps too; empty for nowhere.
        damaged: `keep` or `fail`, what becomes of damaged images that decode to something.
    """

    plan: DevicePlan
    backend: str
    precision: str
    profile: str
    batch_sizes: tuple[int, ...]
    maps_dtype: str
    gather: str
    index: int = 0
    best_batch_size: int = 0
    images: ImagesToRead | None = None
    simulation: Simulation = field(default_factory=Simulation)
    dump_folder: str = ""
    damaged: str = "keep"


@dataclass(frozen=True)
class DeviceReady:
    """A device whose worker has loaded and warmed up its model.

    Attributes:
        plan: the device.
        backend: name in the registry.
        precision: that the compiled model computes in.
        description: the device's own name.
        batch_size: 1 for a model that mixes the images of a batch, whatever was asked for.
        warmup_ns: time to load and warm up.
        batch_ns: the part of it that the last batch took.
        shard_size: images that are sent to it at once.
        slots: batches that it has under way at once; see `Backend`.
        host: name of the machine that its worker runs on.
        versions: name and version of each thing that computes there, by name.
        passed_over: why it does not take the backends that `auto` prefers, a line each.
    """

    plan: DevicePlan
    backend: str
    precision: str
    description: str
    batch_size: int
    warmup_ns: int
    batch_ns: int = 0
    shard_size: int = 1
    slots: int = 1
    host: str = ""
    versions: tuple[tuple[str, str], ...] = ()
    passed_over: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShardResult:
    """All that a run learns of one shard.

    Attributes:
        device: name of the device that ran the model.
        image_ids: images that have a result, those with no detections included.
        detections: serialised Arrow record batch, schema `data.shards.DETECTIONS`.
        failures: images that have none.
        durations: raw stage durations.
        encoded_bytes: file size of each image that has a result.
        damaged: those of them whose file is damaged.
        digests: of the bytes of each image that has a result; see `files.content_digest`.
        stamps: of each of these images before it was read; see `ImageSource.stamps`. An image
            without one has an empty one, and where none is known there are none.
    """

    device: str
    image_ids: tuple[int, ...]
    detections: bytes
    failures: tuple[Failure, ...] = ()
    durations: Durations = field(default_factory=dict)
    encoded_bytes: tuple[int, ...] = ()
    damaged: tuple[Damage, ...] = ()
    digests: tuple[str, ...] = ()
    stamps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Memory:
    """What a run takes.

    Attributes:
        peak_rss_bytes: most resident memory by process, shared pages of the object store included.
        peak_object_store_bytes: most bytes of shards and maps in the object store at once, as the
            driver counts them; 0 without Ray.
    """

    peak_rss_bytes: Mapping[str, int]
    peak_object_store_bytes: int


@dataclass(frozen=True)
class HostUse:
    """What the host did while devices were at work.

    Attributes:
        cpu_s: processor time by process: the driver, workers, reducers, and `ray` for Ray's own on
            the driver's machine. Of a process that was started anew it is the last one's.
        object_store_bytes: of shards and maps that were sent; 0 without Ray.
        cores: processors of all nodes.
        images: that the devices were given.
    """

    cpu_s: Mapping[str, float] = field(default_factory=dict)
    object_store_bytes: int = 0
    cores: int = 0
    images: int = 0


@dataclass(frozen=True)
class Faults:
    """What went wrong with the actors of a run that went on nevertheless.

    Attributes:
        reasons: by name of the device or reducer, in order.
        taken_out: names of those that were given up.
    """

    reasons: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    taken_out: tuple[str, ...] = ()

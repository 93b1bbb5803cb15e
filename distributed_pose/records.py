"""Frozen records that cross a boundary between rooms or processes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from distributed_pose.locations import Location

# Durations in nanoseconds by stage, one entry per measurement. They stay raw until the end of the
# run, because percentiles of merged runs cannot be had from percentiles of their parts.
Durations = Mapping[str, tuple[int, ...]]

# Side of a cell of heatmaps and PAFs in input pixels.
STRIDE = 8

# A network takes `(byte - MEAN_BYTE) / BYTE_RANGE` of each pixel's channels.
MEAN_BYTE, BYTE_RANGE = 128, 256

# NumPy's name of the floating-point types that a configuration names.
FLOATS = {"f32": "float32", "f16": "float16"}

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


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image of the dataset, as its annotation file describes it; sizes in pixels."""

    image_id: int
    file_name: str
    height: int
    width: int


class InputSize(NamedTuple):
    """The size of a network input in pixels; its text is `HEIGHTxWIDTH`, such as `368x640`."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Returns the size that a text of two numbers names.

        Raises:
            ValueError: if the text is not of this form.
        """
        height, width = text.split("x")
        return cls(int(height), int(width))


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


@dataclass(frozen=True, kw_only=True, slots=True)
class DevicePlan:
    """A device, or a share of one, that gets one worker.

    Attributes:
        name: unique name in the run, such as `cpu:0`; devices of a kind are numbered over all
            nodes. Further workers of a device are `cuda:0.1` and so on.
        kind: kind of the device, such as `cuda`; see `devices.kinds`.
        node: address of its node; empty where there is only one.
        node_id: the cluster's identifier of its node; empty where there is only one.
        cpus: CPUs that the worker reserves, which bound its threads.
        device_id: id by which its node knows the device; empty for CPUs.
        model: maker's name of the device, such as `310P3`; empty for CPUs and where it is unknown.
        card: number of its card on its node; empty where it is unknown.
        share: share of the device that the worker has; 1 for CPUs.
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
        name: name in the model.
        shape: dimensions; None for those that are not fixed.
        dtype: NumPy's name of the type that the runtime takes or returns, if it has one.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"


@dataclass(frozen=True, kw_only=True, slots=True)
class CompileSpec:
    """The key facts of an artifact that is to be compiled.

    Attributes:
        backend: name in the registry.
        precision: precision to compile for; `auto` where the device decides when it loads the
            artifact.
        profile: preprocessing profile, which fixes the type of the inputs.
        batch_sizes: batch sizes that the device must take; compilers of fixed shapes need them.
        target: chip or GPU that only this artifact runs on; empty for portable artifacts.
        compiler: location of the `model.makers.Compiler` of the artifact; empty for a
            backend that loads its source unchanged.
        model_formats: formats of a user's model that the backend takes.
        input_size: size of the inputs; None for the size of the profile.
        index: index of a device to compile on, among those that the process sees; any device of the
            same type will do.
    """

    backend: str
    precision: str
    profile: str
    batch_sizes: tuple[int, ...] = (1,)
    target: str = ""
    compiler: str = ""
    model_formats: tuple[str, ...] = ("pth", "onnx")
    input_size: InputSize | None = None
    index: int = field(default=0, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedHost:
    """Simulated cores of a node, which stand in for real ones in some stages.

    Attributes:
        cores: number of simulated cores per node.
        decode_s: seconds to decode an image.
        preprocess_s: seconds to preprocess an image.
        group_s: seconds to group the maps of an image into people.
    """

    cores: int
    decode_s: float = 0.0
    preprocess_s: float = 0.0
    group_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulation:
    """How a simulated device differs from the published one that it stands for.

    Attributes:
        images_per_s: images per second; 0 for the published rates.
        overhead_s: seconds per batch of any size, in addition.
        jitter: half the range of a batch's time, as a fraction of it.
        copy_in_s: seconds per image to copy its input to the device.
        copy_out_s: seconds per image to copy its maps from the device.
        slots: number of batches that the device has in flight at once.
        host: simulated cores of its node; None where the stages on the host are real.
    """

    images_per_s: float = 0.0
    overhead_s: float = 0.0
    jitter: float = 0.02
    copy_in_s: float = 0.0
    copy_out_s: float = 0.0
    slots: int = 2
    host: SimulatedHost | None = None


@dataclass(frozen=True)
class ImagesToRead:
    """Images that workers read themselves.

    Attributes:
        location: location of the images, a path or a URI.
        sample: file name of an image that the driver sees and each worker must be able to read;
            empty if the driver sees none.
        is_required: whether a worker that cannot read them cannot be used.
    """

    location: Location
    sample: str = ""
    is_required: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSpec:
    """All settings of a worker; it travels by value into its constructor.

    Attributes:
        plan: device of the worker.
        backend: name in the registry.
        precision: requested precision.
        profile: name of the preprocessing profile.
        batch_sizes: largest number of images in a batch; of several, a sweep on the device finds
            the best.
        maps_dtype: `f32` or `f16`, type of the maps before they are grouped.
        gather: `maps` or `poses`, which the worker returns; `auto` until the devices are ready.
        index: index of the device among those of its kind that the worker's process sees.
        best_batch_size: batch size that an earlier process of the device found to be the best; 0 if
            none did.
        images: images that the worker reads; None where shards carry them.
        simulation: settings of a simulated device.
        dump_folder: folder that the worker writes the maps to; empty for none.
        damaged: `keep` or `fail`, treatment of damaged images that still decode.
        feeders: number of images that the worker prepares at once; 0 for as many as the rate of the
            device asks for.
        input_size: size of the network inputs; None for the size of the profile.
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
    feeders: int = 0
    input_size: InputSize | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceReady:
    """A device whose worker has loaded and warmed up its model.

    Attributes:
        plan: the device.
        backend: name in the registry.
        precision: precision that the compiled model computes in.
        description: the device's own name.
        batch_size: number of images per batch; 1 for a model that mixes the images of a batch,
            whatever was requested.
        warmup_ns: nanoseconds to load and warm up.
        batch_ns: nanoseconds of the last warm-up batch.
        shard_size: number of images that are sent to the worker at once.
        slots: number of batches that the device has in flight at once.
        host: name of the machine that its worker runs on.
        versions: name and version of the driver, runtime and libraries that the worker found.
        passed_over: one line per backend that `auto` prefers and the device could not take, with
            the reason.
        compute_ns: nanoseconds that the device executed the last warm-up batch.
        feeders: number of images that its worker prepares at once.
        feeder_processes: number of processes that prepare images for its worker; 0 where the worker
            prepares them itself.
        batches_in_flight: number of batches that its worker prepares, runs or groups at once.
        reads_images: whether its worker can read the images itself.
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
    # These differ between sessions, in which the device is the same.
    compute_ns: int = field(default=0, compare=False)
    feeders: int = field(default=1, compare=False)
    feeder_processes: int = field(default=0, compare=False)
    batches_in_flight: int = field(default=2, compare=False)
    reads_images: bool = field(default=False, compare=False)

    @property
    def images_per_s(self) -> float:
        """Compute-only images per second of the last warm-up batch; 0 if it was not timed."""
        return self.batch_size * 1e9 / self.compute_ns if self.compute_ns else 0.0

    @property
    def summary(self) -> str:
        """Line for logs that says what runs on the device, and how it is fed."""
        seconds = self.warmup_ns / 1e9
        return (
            f"{self.plan.name} is ready after {seconds:.1f} s: {self.backend}, {self.precision}, "
            f"batch {self.batch_size}, {self.images_per_s:.1f} images/s compute only, "
            f"{self.feeders} feeders in {self.feeder_processes} further processes"
        )


class BatchTimes(NamedTuple):
    """When one batch was at which step, in nanoseconds of the monotonic clock of its worker's node.

    Attributes:
        images: number of images.
        prepare_ns: start of preparing its images, alone or together with those of other batches.
        prepared_ns: end of preparing, and start of waiting for the device.
        started_ns: time at which the device was given the batch.
        answered_ns: time at which the device's answer was collected.
        finish_ns: start of packing the maps, or of grouping them.
        finished_ns: end of packing or grouping.
    """

    images: int
    prepare_ns: int
    prepared_ns: int
    started_ns: int
    answered_ns: int
    finish_ns: int
    finished_ns: int


class ShardTimes(NamedTuple):
    """When one shard was at which step, in seconds of the driver's monotonic clock.

    Attributes:
        sent_s: time at which the shard was sent to its worker.
        answered_s: time at which the answer of the worker was there.
        reducer: name of the reducer; empty where the worker grouped the maps.
        reduce_s: time at which the maps were given to the reducer; 0 without one.
        reduced_s: time at which the answer of the reducer was there; 0 without one.
        batches: fields of a `BatchTimes` for each batch, by the clock of the worker's node. They
            travel as plain tuples, which the driver unpickles in a sixth of the time.
    """

    sent_s: float
    answered_s: float
    reducer: str = ""
    reduce_s: float = 0.0
    reduced_s: float = 0.0
    batches: tuple[tuple[int, ...], ...] = ()

    @property
    def batch_times(self) -> tuple[BatchTimes, ...]:
        """Times of each batch by the clock of the worker's node."""
        return tuple(map(BatchTimes._make, self.batches))


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardResult:
    """The result of one shard.

    Attributes:
        device: name of the device that ran the model.
        image_ids: ids of the images that have a result, including those without detections.
        detections: serialised Arrow record batch, schema `data.shards.DETECTIONS`.
        failures: images without a result.
        durations: raw durations by stage.
        encoded_bytes: file size of each image that has a result.
        damaged: images with a result whose file is damaged.
        digests: digest of the bytes of each image that has a result; see
            `data.digests.content_digest`.
        stamps: stamp of each of these images before it was read (see `ImageSource.stamps`), empty
            for an image without one; an empty tuple where none is known.
        times: times of the steps, which the ledger's files do not keep; None if they are not known.
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
    times: ShardTimes | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Memory that a run took.

    Attributes:
        peak_rss_bytes: highest resident memory by process, including shared pages of the object
            store.
        peak_object_store_bytes: highest number of bytes of shards and maps in the object store at
            once, as the driver counts them; 0 without Ray.
    """

    peak_rss_bytes: Mapping[str, int]
    peak_object_store_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class HostUse:
    """Work of the hosts while the devices ran.

    Attributes:
        cpu_s: processor time by process: the driver, workers, reducers, and `ray` for Ray's own
            processes on the driver's machine. A process that was started again counts from its last
            start.
        object_store_bytes: bytes of shards and maps that were sent; 0 without Ray.
        cores: number of CPUs of all nodes.
        images: number of images that the devices were given.
    """

    cpu_s: Mapping[str, float] = field(default_factory=dict)
    object_store_bytes: int = 0
    cores: int = 0
    images: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Faults:
    """Faults of the actors of a run, which the run recovered from.

    Attributes:
        reasons: reasons in order, by name of the device or reducer.
        taken_out: names of the devices and reducers that were excluded.
    """

    reasons: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    taken_out: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFlow:
    """How images and maps flow between the processes of a run.

    Attributes:
        gather: `maps` if reducers group the maps, or `poses` if workers do.
        read: `driver` or `worker`, which reads the images.
        reducers: number of reducers; 0 where workers group.
    """

    gather: str = "maps"
    read: str = "driver"
    reducers: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class HostLoad:
    """The state of a machine at one moment.

    Attributes:
        load: number of processes that run or wait for a processor, on average over the last
            minute, as the whole machine sees it; null where unknown.
        governor: frequency governors of the processors, joined by `+`; empty where unknown.
    """

    load: float | None = None
    governor: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceReadings:
    """Readings of an accelerator's driver while a worker inferred images on it.

    They are of the whole device, whichever processes use it. What the driver does not report is
    unknown: null, or empty.

    Attributes:
        samples: number of readings.
        images: number of images that the worker inferred between the first and the last reading.
        driver: version of the driver.
        firmware: version of the firmware.
        memory_used_bytes: largest number of bytes of device memory in use.
        utilisation: mean share of the time in which the device executed anything.
        clock_mhz: mean clock of the processors of the device in MHz.
        power_w: mean power in watts.
        energy_j: energy between the first and the last reading in joules.
        energy_source: `counter` if the device counts its energy, `power` if the energy is the sum
            of power over time.
    """

    samples: int = 0
    images: int = 0
    driver: str = ""
    firmware: str = ""
    memory_used_bytes: int | None = None
    utilisation: float | None = None
    clock_mhz: float | None = None
    power_w: float | None = None
    energy_j: float | None = None
    energy_source: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerReadings:
    """Readings of the device and the machine of a worker.

    Attributes:
        device: readings of the device; None for CPUs, and where its driver cannot be asked.
        before: state of the machine when the worker was made.
        after: state of the machine when the worker was asked for its readings.
    """

    device: DeviceReadings | None
    before: HostLoad
    after: HostLoad


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineFacts:
    """What an engine has measured in one session; see `Engine.facts`.

    Attributes:
        compile_s: seconds of the warm-up in which the model was compiled for the devices.
        memory: memory that the processes of the session used.
        faults: faults of the devices and reducers.
        host_use: host resources that the processes used while the devices ran.
        flow: how images and maps flowed between the processes; None if no device was ready.
        readings: readings of each worker's device and machine, by the name of the device.
    """

    compile_s: float = 0.0
    memory: Memory = field(
        default_factory=lambda: Memory(peak_rss_bytes={}, peak_object_store_bytes=0)
    )
    faults: Faults = field(default_factory=Faults)
    host_use: HostUse = field(default_factory=HostUse)
    flow: DataFlow | None = None
    readings: Mapping[str, WorkerReadings] = field(default_factory=dict)

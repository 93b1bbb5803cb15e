"""Devices, and the workers on them."""

from dataclasses import dataclass, field

from distributed_pose.keypoints.reading import coco_body
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.locations import Location
from distributed_pose.records.images import InputSize


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
        scales: scale factors whose maps are averaged.
        keypoints: keypoints and limbs of the network, and keypoints of the dataset.
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
    scales: tuple[float, ...] = (1.0,)
    keypoints: KeypointSet = field(default_factory=coco_body)


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

"""The configuration of a run: frozen, validated, read from YAML and `--set dotted.key=value`.

Relative paths are relative to the working directory of the command.
"""

from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    create_model,
    model_validator,
)

from distributed_pose.config.names import BackendName, check_chip, check_devices
from distributed_pose.config.values import (
    BatchSize,
    CategoryId,
    Count,
    DataLocation,
    Feeders,
    InputSizeText,
    MountedPath,
    Reducers,
    Scales,
    as_list,
)
from distributed_pose.devices.kinds import CPU, CUDA, KINDS, NPU
from distributed_pose.records.devices import SimulatedHost, Simulation
from distributed_pose.records.images import InputSize

ProfileName = Literal["modelzoo", "upstream", "uint8"]
Precision = Literal["auto", "f32", "bf16", "f16", "int8"]
EngineName = Literal["ray", "inline"]
Gather = Literal["auto", "maps", "poses"]
MapsDtype = Literal["f32", "f16"]
Reader = Literal["auto", "driver", "worker"]
Damaged = Literal["keep", "fail"]


class _Section(BaseModel):
    # The text under each field is its description in `distributed-pose config keys`.
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True
    )


class DataConfig(_Section):
    """The dataset. A run that names neither data nor a model is the demo."""

    images: DataLocation | None = None
    """Folder of the images, plain or packed by `distributed-pose pack`: a path, or a URI that
    pyarrow opens, such as `s3://bucket/val2017`."""

    annotations: DataLocation | None = None
    """COCO person-keypoint annotation file, plain or gzipped: a path or a URI."""

    category: CategoryId = None
    """Id or name of the person category in the annotation file. Needed only where several
    categories have the keypoints of the set, or where none names its keypoints."""

    limit: Count | None = None
    """Number of images to evaluate, those with the smallest ids. The report says that the run was
    limited. The demo renders more than its 64 images if the limit is higher."""

    repeat: Count = 1
    """Number of times that the images are evaluated, each time under other ids. It makes long
    throughput runs out of few images."""

    read: Reader = "auto"
    """Process that reads the image files. `driver` reads and sends them, so that only its node
    needs the images; `worker` sends names alone, and every node must see the images. `auto` is
    `worker` if the devices are too fast for the driver and all workers can read the images: from an
    object store, or on the driver's own machine."""

    damaged: Damaged = "keep"
    """Treatment of image files that are damaged and still decode. `keep` evaluates them and names
    them in the report; `fail` records them as failed images."""


class ModelConfig(_Section):
    """The model."""

    path: MountedPath | None = None
    """Model file, recognised by its content: a checkpoint of Lightweight OpenPose, an ONNX file
    with its external data beside it, or a compiled `.om`. For `backend: recorded` it is a folder of
    recorded maps."""

    refinement_stages: Annotated[int, Field(strict=True, ge=1, le=3)] = 1
    """Number of refinement stages of a checkpoint's network. The published figures are those of
    one stage."""


class KindConfig(_Section):
    """Settings of one kind of device, which take precedence over those of the whole run."""

    backend: BackendName | None = None
    """Backend of the devices of this kind, where it differs from `backend`."""

    precision: Precision | None = None
    """Precision on the devices of this kind, where it differs from `precision`."""

    batch_size: BatchSize | None = None
    """Batch size on the devices of this kind, where it differs from `batch_size`."""


class CpuConfig(KindConfig):
    """Settings of CPU workers."""

    cpus: Count | None = None
    """Number of CPUs that each CPU worker takes; by default its share of those of its node."""


class CudaConfig(KindConfig):
    """Settings of NVIDIA cards, and of MIG instances of them."""

    workers_per_device: Annotated[int, Field(strict=True, ge=1, le=16)] = 1
    """Number of workers per card. One worker overlaps copies and execution by itself; several help
    where batches are too small to fill the card."""


class NpuConfig(KindConfig):
    """Settings of Ascend NPUs."""

    soc: Annotated[str, AfterValidator(check_chip)] | None = None
    """Chip to compile for, such as `310P3`; by default the one that the node reports."""


class SimulatedHostConfig(_Section):
    """Simulated cores of each node, which prepare and group the images of simulated devices.

    A stage waits for its time instead of using a core of the machine, so that fast devices can be
    fed on a machine with few cores. Dispatch, transfer, answers and ledger are real.
    """

    cores: Annotated[int, Field(strict=True, ge=1, le=1024)] | None = None
    """Number of simulated cores per node: as many simulated stages run at once. None runs the
    stages on the real cores."""

    decode_ms: Annotated[float, Field(strict=True, ge=0, le=6e4)] = 2.5
    """Milliseconds that a simulated core takes to decode an image."""

    preprocess_ms: Annotated[float, Field(strict=True, ge=0, le=6e4)] = 1.4
    """Milliseconds that a simulated core takes to preprocess an image."""

    group_ms: Annotated[float, Field(strict=True, ge=0, le=6e4)] = 0.5
    """Milliseconds that a simulated core takes to group the maps of an image into people."""

    @model_validator(mode="after")
    def _check_cores(self) -> Self:
        # A configuration that was written by a run has the default times.
        if self.cores is None and any(
            getattr(self, name) != type(self).model_fields[name].default
            for name in ("decode_ms", "preprocess_ms", "group_ms")
        ):
            raise ValueError("the times need the number of cores; set simulated.host.cores")
        return self

    @property
    def simulation(self) -> SimulatedHost | None:
        """The simulated host with its times in seconds; None if its stages are real."""
        if self.cores is None:
            return None
        return SimulatedHost(
            cores=self.cores,
            decode_s=self.decode_ms / 1e3,
            preprocess_s=self.preprocess_ms / 1e3,
            group_s=self.group_ms / 1e3,
        )


class SimulatedConfig(_Section):
    """Simulated devices, which answer from the ground truth in the time of a published card."""

    rate: Annotated[float, Field(strict=True, gt=0, le=1e6)] | None = None
    """Images per second of a simulated device at any batch and input size; by default those of the
    published card that `backend` names, scaled by the number of input pixels."""

    overhead_ms: Annotated[float, Field(strict=True, ge=0, le=6e4)] = 0.0
    """Milliseconds that a simulated device takes per batch in addition to its rate."""

    jitter: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.02
    """Half the range in which the time of a simulated batch varies, as a fraction of that time."""

    copy_in_ms: Annotated[float, Field(strict=True, ge=0, le=6e4)] = 0.0
    """Milliseconds per image that copying the inputs to a simulated device takes."""

    copy_out_ms: Annotated[float, Field(strict=True, ge=0, le=6e4)] = 0.0
    """Milliseconds per image that copying the outputs from a simulated device takes."""

    slots: Annotated[int, Field(strict=True, ge=1, le=4)] = 2
    """Number of batches that a simulated device has in flight at once. With 2 or more it copies one
    batch while it executes another."""

    host: SimulatedHostConfig = SimulatedHostConfig()

    @property
    def simulation(self) -> Simulation:
        """The same in seconds, as it travels to the devices."""
        return Simulation(
            images_per_s=self.rate or 0.0,
            overhead_s=self.overhead_ms / 1e3,
            jitter=self.jitter,
            copy_in_s=self.copy_in_ms / 1e3,
            copy_out_s=self.copy_out_ms / 1e3,
            slots=self.slots,
            host=self.host.simulation,
        )


if TYPE_CHECKING:
    _RegisteredKinds = _Section
else:
    # A section for each kind of device that has no keys of its own.
    _RegisteredKinds = create_model(
        "_RegisteredKinds",
        __base__=_Section,
        **{kind: (KindConfig, KindConfig()) for kind in KINDS if kind not in {CPU, CUDA, NPU}},
    )


class RunConfig(_RegisteredKinds):
    """One evaluation run. Every key has a default."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()

    profile: ProfileName = "modelzoo"
    """Preprocessing of an image. `modelzoo` is the vendor guide's: 368x640, linear resize.
    `upstream` is the reference implementation's: height 368, cubic resize, in double. `uint8` is
    `modelzoo` on bytes, with the normalisation inside the model."""

    input: InputSizeText = "auto"
    """Size of the network input as HEIGHTxWIDTH in pixels, such as `256x456`, both multiples of 8.
    With `upstream` the height is exact and the width is the least one. `auto` is the size that the
    model fixes, otherwise that of the profile."""

    scales: Scales = (1.0,)
    """Factors by which each image is larger than its input asks for. The maps of all scales are
    averaged at the size of the image before people are found, as the reference implementation's
    multi-scale mode does with `[0.5, 1, 1.5, 2]`. Only `upstream` takes other scales than 1."""

    keypoints: MountedPath | None = None
    """YAML file of the keypoints and limbs of the network and the keypoints of the dataset; none is
    the body of COCO."""

    backend: BackendName = "auto"
    """Runtime of the model. `auto` is the best one that a device can start, `recorded` replays
    recorded maps, `oracle` draws maps from the ground truth, and `simulated` does so in the time of
    a published card."""

    precision: Precision = "auto"
    """Precision that the model is computed in. `auto` is bf16 on CPUs that have it, f32 on other
    CPUs, and f16 on cards."""

    batch_size: BatchSize = 8
    """Number of images per batch. `auto` measures 1 to 32 on each device before the run and takes
    the size with the highest throughput."""

    devices: Annotated[tuple[str, ...], BeforeValidator(as_list), AfterValidator(check_devices)] = (
        "auto",
    )
    """Devices to use: `auto`, or a list such as `[npu:*, cuda:0, cpu:2]` of all devices of a kind,
    the device with a number (as `distributed-pose devices` counts them), or a number of CPU
    workers. `auto` is all GPUs and NPUs, or one CPU worker per node where there are none."""

    cpu: CpuConfig = CpuConfig()
    cuda: CudaConfig = CudaConfig()
    npu: NpuConfig = NpuConfig()
    simulated: SimulatedConfig = SimulatedConfig()

    feeders: Feeders = "auto"
    """Number of images that each worker prepares at once. `auto` is as many as the rate of its
    device asks for, measured in the warm-up."""

    reducers: Reducers = "auto"
    """Number of reducer processes that group maps into people. `auto` is as many as the rates of
    the devices ask for, and no more than the cluster has CPUs."""

    engine: EngineName = "ray"
    """Where workers and reducers run: `ray` in processes of their own on one or many nodes,
    `inline` in the process of the command."""

    gather: Gather = "auto"
    """What workers return: `maps`, which reducers group into people, or `poses`, which the worker
    groups itself. The detections are the same. `auto` is `maps` unless the devices are so fast that
    the transfer of the maps would slow them down."""

    maps_dtype: MapsDtype = "f32"
    """Type of the values in heatmaps and PAFs between worker and reducer."""

    dump_maps: MountedPath | None = None
    """Folder into which workers write the maps of every image, in the vendor guide's format; none
    writes no maps."""

    label: Annotated[str, Field(max_length=200)] = ""
    """Text by which people recognise the run in its report and in trackers. It has no effect on the
    figures, and a resumed run may have another one."""

    track: Annotated[tuple[str, ...], BeforeValidator(as_list)] = ()
    """Trackers that log the finished run: `mlflow`, `tensorboard`, `wandb`, or those of other
    packages. A tracker that fails gives a warning, and does not change the outcome of the run."""

    live_metrics: Annotated[bool, Field(strict=True)] = True
    """Whether a run on Ray exports its progress as Prometheus metrics, through Ray's agents."""

    allow_failures: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)] = 0
    """Number of images that may fail without making the run incomplete. They count as images
    without detections, and the report names them."""

    deadline_s: Annotated[float, Field(strict=True, gt=0, le=86400)] = 30.0
    """Seconds that a call may take in addition to ten times the median of the last 64 calls to its
    device."""

    @property
    def input_size(self) -> InputSize | None:
        """The configured size of the network inputs; None for `auto`."""
        return None if self.input == "auto" else InputSize.parse(self.input)

    def section(self, kind: str) -> KindConfig:
        """Returns the settings of a kind of device alone."""
        section: KindConfig = getattr(self, kind)
        return section

    def on(self, kind: str) -> "KindSettings":
        """Returns the settings that apply to devices of a kind."""
        own = self.section(kind)
        return KindSettings(
            own.backend or self.backend,
            own.precision or self.precision,
            own.batch_size or self.batch_size,
        )


class KindSettings(NamedTuple):
    """The settings that apply to devices of a kind."""

    backend: BackendName
    precision: Precision
    batch_size: BatchSize

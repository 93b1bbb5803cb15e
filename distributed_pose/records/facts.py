"""What an engine measures while a run goes on."""

from collections.abc import Mapping
from dataclasses import dataclass, field


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

    They are of the whole device, whichever processes use it. If the worker's process was started
    again, they sum up what each process observed; the time between two processes is not covered.
    What the driver does not report is unknown: null, or empty.

    Attributes:
        samples: number of readings.
        images: number of images that the worker inferred between the first and the last reading of
            each process.
        driver: version of the driver.
        firmware: version of the firmware.
        memory_used_bytes: largest number of bytes of device memory in use.
        utilisation: mean share of the time in which the device executed anything.
        clock_mhz: mean clock of the processors of the device in MHz.
        power_w: mean power in watts.
        energy_j: energy between the first and the last reading of each process, in joules.
        energy_source: `counter` if the device counts its energy, `power` if the energy is the sum
            of power over time; `counter+power` if it differs between processes.
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
        after: state of the machine when the worker was asked for its readings, or last reported
            them.
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

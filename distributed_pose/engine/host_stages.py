"""The stages of an image that run on the host, and simulated cores that take their time.

Array legend: N images, K heatmaps, P PAF channels, H and W size in pixels or cells.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from threading import local
from time import perf_counter, sleep
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.pose.assemble import Poses, no_poses
from distributed_pose.pose.decode import Decoded as DecodedPoses
from distributed_pose.pose.decode import Decoder
from distributed_pose.records.devices import SimulatedHost
from distributed_pose.records.images import Geometry
from distributed_pose.vision.decode import Decoded, decode_image
from distributed_pose.vision.preprocess import InputArray, preprocess_scales
from distributed_pose.vision.profiles import Profile

_Maps = npt.NDArray[np.floating[Any]]

# A run lists its images at most a few thousand times under other ids.
_KEPT_POSES = 20_000

# Every eighth cell of each map and every second of the background distinguish the maps of different
# people, and take a fiftieth of the time that all cells take.
_STEP, _BACKGROUND_STEP = 8, 2


class HostStages:
    """Decodes and preprocesses images, and makes decoders of maps.

    Args:
        keypoints: keypoints and limbs of the network, and keypoints of the dataset.
    """

    def __init__(self, keypoints: KeypointSet) -> None:
        self._keypoints = keypoints

    def decode(self, encoded: bytes, height: int, width: int) -> Decoded:
        """Returns an image; see `vision.decode.decode_image`."""
        return decode_image(encoded, height, width)

    def preprocess(
        self,
        image_HW3: npt.NDArray[np.uint8],
        profiles: Sequence[Profile],
        outs_3HW: Sequence[InputArray],
    ) -> tuple[Geometry, ...]:
        """Writes the network input of an image at each scale; see `vision.preprocess_scales`."""
        return preprocess_scales(image_HW3, profiles, outs_3HW)

    def decoder(self) -> Decoder:
        """Returns a new decoder, which one thread at a time may use."""
        return Decoder(self._keypoints)


def host_stages(host: SimulatedHost | None, keypoints: KeypointSet) -> HostStages:
    """Returns the real stages, or simulated ones if there is a simulated host."""
    return SimulatedStages(host, keypoints) if host else HostStages(keypoints)


class SimulatedCores:
    """Cores that wait instead of computing, shared by all processes of a node.

    Each core is a file that is locked while the core is in use, so that the cores of processes that
    die are free again.

    Args:
        count: number of cores.
        folder: folder of the files; by default one that the user's processes on the node share.
    """

    def __init__(self, count: int, folder: Path | None = None) -> None:
        self._count = count
        folder = folder or Path(tempfile.gettempdir()) / f"distributed-pose-cores-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        self._idle: SimpleQueue[int] = SimpleQueue()
        # Processes begin with different cores, so that they seldom meet.
        for number in np.random.default_rng(os.getpid()).permutation(count).tolist():
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._idle.put(os.open(folder / str(number), flags, 0o600))
        self._thread = local()

    def work(self, seconds: float) -> None:
        """Waits for a free core, and then for the time that a real core would compute."""
        if seconds <= 0:
            return
        with self._core():
            # A thread that was woken late by a busy machine waits less the next time, because the
            # simulated core would not have been late.
            late_s = min(seconds, getattr(self._thread, "late_s", 0.0))
            start = perf_counter()
            sleep(seconds - late_s)
            self._thread.late_s = perf_counter() - start - (seconds - late_s)

    def close(self) -> None:
        """Closes the files of idle cores."""
        while not self._idle.empty():
            os.close(self._idle.get())

    @contextmanager
    def _core(self) -> Iterator[None]:
        core = self._lock()
        try:
            yield
        finally:
            fcntl.flock(core, fcntl.LOCK_UN)
            self._idle.put(core)

    def _lock(self) -> int:
        """Returns a core that was free, or else one that is waited for."""
        for _ in range(self._count):
            core = self._idle.get()
            with suppress(BlockingIOError):
                fcntl.flock(core, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return core
            self._idle.put(core)
        core = self._idle.get()
        fcntl.flock(core, fcntl.LOCK_EX)
        return core


class SimulatedStages(HostStages):
    """Stages that take their time on simulated cores, for devices that look at no pixel.

    Only maps that occur for the first time are really grouped, so that the poses are those of a run
    without simulated cores.

    Args:
        host: number of the cores, and the times of the stages.
        keypoints: keypoints and limbs of the network, and keypoints of the dataset.
        cores: cores to use instead of those that all processes of the node share.
    """

    def __init__(
        self, host: SimulatedHost, keypoints: KeypointSet, cores: SimulatedCores | None = None
    ) -> None:
        super().__init__(keypoints)
        self._host = host
        self._cores = cores or SimulatedCores(host.cores)

    def decode(self, encoded: bytes, height: int, width: int) -> Decoded:
        del encoded
        self._cores.work(self._host.decode_s)
        # Memory that is not accessed takes no time.
        return Decoded(np.empty((height, width, 3), np.uint8))

    def preprocess(
        self,
        image_HW3: npt.NDArray[np.uint8],
        profiles: Sequence[Profile],
        outs_3HW: Sequence[InputArray],
    ) -> tuple[Geometry, ...]:
        del outs_3HW
        self._cores.work(self._host.preprocess_s)
        return tuple(profile.geometry(*image_HW3.shape[:2]) for profile in profiles)

    def decoder(self) -> Decoder:
        return _SimulatedDecoder(self._keypoints, self._cores, self._host.group_s)


class _SimulatedDecoder(Decoder):
    """Takes the time of a simulated core per image, and returns the poses of a real decoder."""

    def __init__(self, keypoints: KeypointSet, cores: SimulatedCores, group_s: float) -> None:
        super().__init__(keypoints)
        self._nobody = no_poses(keypoints.num_dataset_keypoints)
        self._cores = cores
        self._group_s = group_s
        self._known: dict[object, DecodedPoses] = {}

    def decode_batch(
        self, heatmaps_NKHW: _Maps, pafs_NPHW: _Maps, geometries: Sequence[Geometry]
    ) -> DecodedPoses:
        start = perf_counter()
        maps = zip(heatmaps_NKHW, pafs_NPHW, geometries, strict=True)
        found = [self._decoded(*image) for image in maps]
        self._cores.work(self._group_s * len(found) - (perf_counter() - start))
        durations_ns_N3 = np.zeros((len(found), 3), np.int64)
        if found:
            durations_ns_N3[:, 0] = round(1e9 * (perf_counter() - start) / len(found))
        rows = zip(self._nobody, *(one.poses for one in found), strict=True)
        return DecodedPoses(
            counts_N=np.array([len(one.poses.scores_P) for one in found], np.int64),
            poses=Poses(*(np.concatenate(part) for part in rows)),
            durations_ns_N3=durations_ns_N3,
            failures={row: one.failures[0] for row, one in enumerate(found) if one.failures},
        )

    def _decoded(self, heatmaps_KHW: _Maps, pafs_PHW: _Maps, geometry: Geometry) -> DecodedPoses:
        """Returns the people in an image, which are kept for other images with the same maps."""
        sampled = (maps[:, ::_STEP, ::_STEP] for maps in (heatmaps_KHW, pafs_PHW))
        background = heatmaps_KHW[-1, ::_BACKGROUND_STEP, ::_BACKGROUND_STEP]
        samples = chain([background], sampled)
        key = geometry, heatmaps_KHW.shape, *(sample.tobytes() for sample in samples)
        if key not in self._known:
            found = super().decode_batch(heatmaps_KHW[None], pafs_PHW[None], [geometry])
            if len(self._known) >= _KEPT_POSES:
                return found
            self._known[key] = found
        return self._known[key]

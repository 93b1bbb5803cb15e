"""Images per second of each device, and milliseconds of each stage, over the time of a run."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, groupby

import numpy as np

from distributed_pose.metrics.matches import Floats

_NUM_BINS = 60
_MS_PER_NS = 1e-6

_MAX_SEGMENTS = 20
_RESULTS_PER_SEGMENT = 3


@dataclass(frozen=True, kw_only=True)
class SettledShard:
    """A shard whose result is in the ledger.

    Attributes:
        session: unique name of the session.
        device: name of the device.
        elapsed_s: seconds from the first dispatch of the session to the arrival of the result.
        images: number of images.
        stage_ns: total time of each stage in nanoseconds.
    """

    session: str
    device: str
    elapsed_s: float
    images: int
    stage_ns: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """A run over time, its sessions one after another, in bins of equal length.

    Attributes:
        edges_s: edges of the bins, in seconds of work.
        images_per_s: images per second in each bin, by device.
        stage_ms: milliseconds per image of each stage in each bin; 0 in a bin without images.
        last_s: seconds of work until the last result of each device.
        num_sessions: number of sessions, whose order is not recorded.
    """

    edges_s: Floats
    images_per_s: Mapping[str, Floats]
    stage_ms: Mapping[str, Floats]
    last_s: Mapping[str, float]
    num_sessions: int


def timeline(shards: Sequence[SettledShard]) -> Timeline | None:
    """Returns a run over time; None if no shard is known.

    The images of a shard are spread over the time since the previous result of its device.
    """
    if not shards:
        return None
    lengths_s: dict[str, float] = {}
    for shard in shards:
        lengths_s[shard.session] = max(lengths_s.get(shard.session, 0.0), shard.elapsed_s)
    starts_s = dict(zip(lengths_s, accumulate([0.0, *lengths_s.values()]), strict=False))
    edges_s = np.linspace(0, max(sum(lengths_s.values()), 1e-3), _NUM_BINS + 1)
    by_device: dict[str, list[SettledShard]] = defaultdict(list)
    for shard in sorted(shards, key=lambda one: (one.device, one.session, one.elapsed_s)):
        by_device[shard.device].append(shard)

    def spread(values: Callable[[SettledShard], float]) -> dict[str, Floats]:
        return {
            device: _spread(own, values, starts_s, edges_s) for device, own in by_device.items()
        }

    images = spread(lambda shard: shard.images)
    # Bins without images have no time per image.
    all_images = np.maximum(sum(images.values(), np.zeros(_NUM_BINS)), 1e-9)
    stages = dict.fromkeys(stage for shard in shards for stage in shard.stage_ns)
    return Timeline(
        edges_s=edges_s,
        images_per_s={device: counts / edges_s[1] for device, counts in images.items()},
        stage_ms={
            stage: _MS_PER_NS * sum(spread(partial(_stage_ns, stage)).values()) / all_images
            for stage in stages
        },
        last_s={
            device: max(starts_s[one.session] + one.elapsed_s for one in own)
            for device, own in by_device.items()
        },
        num_sessions=len(lengths_s),
    )


def segment_rates(shards: Sequence[SettledShard]) -> list[float]:
    """Returns the images per second of all devices in segments of a run's time.

    There are as many segments as the shards allow, up to 20, each with three results on average.

    Args:
        shards: shards in the ledger of the run.
    """
    segments = min(_MAX_SEGMENTS, len(shards) // _RESULTS_PER_SEGMENT)
    line = timeline(shards)
    if line is None or segments < 1:
        return []
    reached = np.cumsum([0, *sum(line.images_per_s.values(), np.zeros(_NUM_BINS))])
    edges = np.linspace(0, _NUM_BINS, segments + 1)
    at_edges = np.interp(edges, np.arange(_NUM_BINS + 1), reached)
    rates: list[float] = (np.diff(at_edges) * segments / _NUM_BINS).tolist()
    return rates


def _stage_ns(stage: str, shard: SettledShard) -> float:
    return shard.stage_ns.get(stage, 0)


def _spread(
    shards: Sequence[SettledShard],
    values: Callable[[SettledShard], float],
    starts_s: Mapping[str, float],
    edges_s: Floats,
) -> Floats:
    """Returns values of a device's shards by bin, each spread over the time since the last one."""
    total = np.zeros(len(edges_s))
    for session, group in groupby(shards, key=lambda shard: shard.session):
        own = list(group)
        at_s = [starts_s[session] + shard.elapsed_s for shard in own]
        reached = np.cumsum([0, *map(values, own)])
        total += np.interp(edges_s, [starts_s[session], *at_s], reached)
    return np.diff(total)

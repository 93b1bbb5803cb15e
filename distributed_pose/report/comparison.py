"""Compares two stored runs: accuracy, throughput, settings, keypoints and images."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from distributed_pose.data.entries import ListedId
from distributed_pose.metrics.bootstrap import Interval, ap_difference, rate_ratio
from distributed_pose.report.map_differences import MapComparison
from distributed_pose.report.stored_run import StoredRun

# Keys of the configuration that say where a run writes.
_PLACES = frozenset({"dump_maps"})

_IMAGES = 12
_SHOWN = 200


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A setting or version that differs.

    Attributes:
        name: configuration key, or name of the version.
        first: value in the first run.
        second: value in the second run.
    """

    name: str
    first: str
    second: str


@dataclass(frozen=True, kw_only=True)
class Change:
    """A figure that differs.

    Attributes:
        name: name of a keypoint or a kind of error.
        first: figure of the first run.
        second: figure of the second run.
    """

    name: str
    first: float
    second: float


@dataclass(frozen=True, kw_only=True)
class ImageChange:
    """An image whose errors differ.

    Attributes:
        image_id: id in the annotation file.
        file_name: file name in the annotation file.
        first: loss of the first run; see `analysis.ImageFigures`.
        second: loss of the second run.
    """

    image_id: ListedId
    file_name: str
    first: float
    second: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The second run compared with the first.

    Attributes:
        first: folder of the first run.
        second: folder of the second run.
        ap: AP of the first and of the second run; null where one of them has none.
        ap_difference: AP of the second run less that of the first, with its 95 % interval by a
            paired bootstrap over images, in which copies of an image by `data.repeat` are one;
            null where it cannot be computed.
        unavailable: reason why there is no difference of AP; empty if there is one.
        images_per_s: wall-clock throughput of the first and of the second run.
        throughput_ratio: throughput of the second run divided by that of the first.
        throughput_interval: the ratio with its 95 % interval over segments of the runs' time; null
            where a ledger is missing or has too few shards.
        settings: configuration keys, and facts about model and devices, that differ.
        versions: versions that differ.
        keypoints: AP by keypoint, the largest change first.
        errors: number of errors of each kind, the largest change first.
        images: the images whose loss changed most.
        maps: the maps of the devices of both runs, each compared with those of the first device of
            the first run; empty if that was not asked for.
    """

    first: str
    second: str
    ap: tuple[float | None, float | None]
    ap_difference: Interval | None
    unavailable: str
    images_per_s: tuple[float, float]
    throughput_ratio: float | None
    throughput_interval: Interval | None
    settings: tuple[Difference, ...]
    versions: tuple[Difference, ...]
    keypoints: tuple[Change, ...]
    errors: tuple[Change, ...]
    images: tuple[ImageChange, ...]
    maps: tuple[MapComparison, ...] = ()

    @property
    def is_more_than_chance(self) -> bool | None:
        """Whether the interval of the difference of AP excludes 0; None if there is none."""
        return None if self.ap_difference is None else not self.ap_difference.covers(0)


def compare(
    first: StoredRun,
    second: StoredRun,
    rates: tuple[Sequence[float], Sequence[float]] = ((), ()),
) -> Comparison:
    """Returns the second run compared with the first.

    Args:
        first: a stored run.
        second: another stored run.
        rates: throughput of each run in segments of its time; empty where it is not known.
    """
    before, after = (run.report.throughput.wall_images_per_s for run in (first, second))
    ratio = after / before if before else None
    reason = _reason(first, second)
    return Comparison(
        first=str(first.location),
        second=str(second.location),
        ap=(_ap(first), _ap(second)),
        ap_difference=None
        if reason
        else ap_difference(first.precision_recall, second.precision_recall),
        unavailable=reason,
        images_per_s=(before, after),
        throughput_ratio=ratio,
        throughput_interval=None if ratio is None else rate_ratio(*rates, ratio),
        settings=tuple(_different(_settings(first), _settings(second))),
        versions=tuple(_different(_versions(first), _versions(second))),
        keypoints=() if reason else _keypoints(first, second),
        errors=() if reason else _errors(first, second),
        images=() if reason else _images(first, second),
    )


def _ap(run: StoredRun) -> float | None:
    return run.report.ap["AP"] if run.report.ap else None


def _reason(first: StoredRun, second: StoredRun) -> str:
    """Returns the reason why two runs' AP cannot be compared; empty if it can."""
    for run in (first, second):
        if reason := run.analysis_or_reason[1]:
            return f"{run.location}: {reason}"
    before, after = (
        [run.index.listed_id(one.image_id) for one in run.index.images] for run in (first, second)
    )
    if before != after:
        return f"the runs have other images: {len(before)} and {len(after)}"
    if first.report.keypoints != second.report.keypoints:
        names = [run.report.keypoints.name for run in (first, second)]
        return f"the runs have other keypoint sets: {names[0]} and {names[1]}"
    if first.index.ground_truth["annotations"] != second.index.ground_truth["annotations"]:
        return "the runs have other labels"
    return ""


def _settings(run: StoredRun) -> dict[str, str]:
    """Returns the configuration by key, and facts about model, devices and data."""
    report = run.report
    try:
        config = yaml.safe_load(run.config)
    except (yaml.YAMLError, RecursionError):
        config = None
    settings = dict(_flat("", config)) if isinstance(config, Mapping) else {}
    facts: dict[str, object] = {
        "model, SHA-256": report.model.sha256,
        "backend in use": report.backend,
        "precision in use": report.precision,
        "input in use": report.input or "unknown",
        "keypoints in use": report.keypoints.identity,
        "images": report.num_images,
        "devices in use": _joined(device.description for device in report.devices),
        "batch size in use": _joined(str(device.batch_size) for device in report.devices),
    }
    return settings | {name: str(value)[:_SHOWN] for name, value in facts.items()}


def _flat(prefix: str, values: Mapping[Any, Any]) -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(f"{name}.", value)
        elif name not in _PLACES:
            yield name, str(value)[:_SHOWN]


def _versions(run: StoredRun) -> dict[str, str]:
    """Returns the versions in the driver and on the devices by name."""
    versions = {f"driver: {name}": version for name, version in run.report.versions.items()}
    names = sorted({name for device in run.report.devices for name in device.versions})
    for name in names:
        found = _joined(device.versions.get(name, "none") for device in run.report.devices)
        versions[f"devices: {name}"] = found
    return versions


def _joined(values: Iterable[str]) -> str:
    return ", ".join(sorted({*values}))


def _different(first: Mapping[str, str], second: Mapping[str, str]) -> Iterable[Difference]:
    for name in {**first, **second}:
        before, after = first.get(name, "none"), second.get(name, "none")
        if before != after:
            yield Difference(name=name, first=before, second=after)


def _keypoints(first: StoredRun, second: StoredRun) -> tuple[Change, ...]:
    after = {one.name: one.ap for one in second.analysis.keypoints}
    changes = [
        Change(name=one.name, first=one.ap, second=after[one.name])
        for one in first.analysis.keypoints
    ]
    return tuple(sorted(changes, key=_size))


def _errors(first: StoredRun, second: StoredRun) -> tuple[Change, ...]:
    after = {one.name: one.count for one in second.analysis.errors}
    changes = [
        Change(name=one.name, first=one.count, second=after[one.name])
        for one in first.analysis.errors
    ]
    return tuple(sorted(changes, key=_size))


def _images(first: StoredRun, second: StoredRun) -> tuple[ImageChange, ...]:
    before, after = (
        {one.image_id: one.loss for one in run.analysis.images} for run in (first, second)
    )
    known = before.keys() | after.keys()
    changes = [
        ImageChange(
            image_id=listed,
            file_name=image.file_name,
            first=before.get(listed, 0.0),
            second=after.get(listed, 0.0),
        )
        for image in first.index.images
        if (listed := first.index.listed_id(image.image_id)) in known
    ]
    changed = [one for one in changes if one.first != one.second]
    return tuple(sorted(changed, key=_size)[:_IMAGES])


def _size(one: Change | ImageChange) -> float:
    """Returns a key by which the largest change comes first."""
    return -abs(one.second - one.first)

"""The record of a sweep, `sweep.json`: figures of its points, fronts, and best points."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from distributed_pose.metrics.bootstrap import Interval

SWEEP, PLOTS = "sweep.json", ("sweep.png", "sweep.svg")

# The figures that AP is weighed against, each a field of `PointRecord`, with its unit.
MEASURES = {
    "images_per_s": "images/s",
    "images_per_joule": "images/J",
    "images_per_cost": "images per unit of the price",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PointRecord:
    """A point of a sweep.

    Attributes:
        name: unique name, which is also that of its run folder.
        label: size and precision, and the other settings in which points differ.
        settings: swept settings by configuration key, as the options have them.
        outcome: `finished`, `ended` early, `impossible` on this machine, `failed` in execution, or
            `pending` while the sweep runs.
        reason: reason why the point ended early, is impossible or failed; empty for others.
        images: number of images that the figures are over.
        evaluated: number of images that have a result in its run folder.
        input: size of the network inputs, `HEIGHTxWIDTH` in pixels; empty where unknown.
        precision: precision that the model was computed in; empty where unknown.
        backend: backend that ran the model; empty where unknown.
        ap: AP over these images; null where unknown.
        ap_interval: AP with its 95 % interval over the images.
        images_per_s: wall-clock images per second of all sessions; null where unknown.
        rate_interval: the rate with its 95 % interval over results and sessions; null where
            unknown.
        images_per_joule: images per joule; null where neither `--watts` nor a meter gives power.
        images_per_cost: images per unit of the price; null without a price.
        fronts: measures in which the point is on the front, by name.
    """

    name: str
    label: str
    settings: Mapping[str, str]
    outcome: str
    reason: str = ""
    images: int = 0
    evaluated: int = 0
    input: str = ""
    precision: str = ""
    backend: str = ""
    ap: float | None = None
    ap_interval: Interval | None = None
    images_per_s: float | None = None
    rate_interval: Interval | None = None
    images_per_joule: float | None = None
    images_per_cost: float | None = None
    fronts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepRecord:
    """A sweep over one dataset with one model.

    Attributes:
        identity: digests and settings that all points share, by name.
        num_images: number of images of the dataset.
        rounds: number of images after each round.
        tolerance: AP by which a better point may be less accurate and end another one.
        min_ap: least AP that was asked for; null for none.
        min_images_per_s: least images per second that was asked for; null for none.
        watts: power in watts by devices, as given.
        prices: price per hour by devices, as given.
        points: the points, in the order of the options.
        fronts: names of the points on the Pareto front of AP against each measure, the slowest
            first, by the name of the measure.
        best: name of the best point that reaches the least values, by the name of the measure;
            empty where no least value was asked for, or none reaches it.
        saved_images: number of images that the points that ended early did not evaluate.
        saved_s: estimated seconds that evaluating these images would have taken, at the rates of
            their points.
        complete: whether the sweep has come to its end.
    """

    identity: Mapping[str, str]
    num_images: int
    rounds: tuple[int, ...]
    tolerance: float
    min_ap: float | None
    min_images_per_s: float | None
    watts: Mapping[str, float]
    prices: Mapping[str, float]
    points: tuple[PointRecord, ...]
    fronts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    best: Mapping[str, str] = field(default_factory=dict)
    saved_images: int = 0
    saved_s: float = 0.0
    complete: bool = False

"""What a sweep is to measure, by which figures, and what it asks of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from distributed_pose.bench.sweep.judgement import Judge
from distributed_pose.bench.sweep.points import SweepPoint
from distributed_pose.config.schema import RunConfig
from distributed_pose.errors import ConfigError
from distributed_pose.locations import Location
from distributed_pose.report.run_report import RunReport

_S_PER_HOUR = 3600


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """A sweep as the user asks for it.

    Attributes:
        config: configuration that the points have in common.
        points: the points.
        output: folder of the sweep, which has a folder for each point.
        config_file: file that the configuration was read from; None if there is none.
        min_ap: least AP; None for none.
        min_images_per_s: least images per second; None for none.
        tolerance: AP by which a better point may be less accurate and end another one.
        watts: power of devices in watts.
        prices: price of devices per hour.
        ends_early: whether points that cannot win end early.

    Raises:
        ConfigError: if there is power or a price for devices that no point has.
    """

    config: RunConfig
    points: tuple[SweepPoint, ...]
    output: Location
    config_file: Path | None = None
    min_ap: float | None = None
    min_images_per_s: float | None = None
    tolerance: float = 0.0
    watts: Mapping[str, float] = field(default_factory=dict)
    prices: Mapping[str, float] = field(default_factory=dict)
    ends_early: bool = True

    def __post_init__(self) -> None:
        known = {point.devices for point in self.points}
        for option, given in (("--watts", self.watts), ("--price", self.prices)):
            if strangers := sorted(given.keys() - known):
                raise ConfigError(
                    f"{option} {strangers[0]}: no point of the sweep has these devices",
                    f"choose from {', '.join(sorted(known))}",
                )

    def folder(self, point: SweepPoint) -> Location:
        """Returns the run folder of a point."""
        return self.output.within(point.name)

    def judge(self, num_points: int, num_rounds: int) -> Judge:
        """Returns the judge of a sweep with a number of points and of rounds before the last."""
        gates = [self.min_ap, self.min_images_per_s]
        rivals = num_points - 1 + sum(gate is not None for gate in gates)
        return Judge(
            comparisons=num_rounds * rivals,
            tolerance=self.tolerance,
            min_ap=self.min_ap,
            min_images_per_s=self.min_images_per_s,
        )

    def per(self, point: SweepPoint, images_per_s: float, report: RunReport) -> dict[str, float]:
        """Returns images per joule and per unit of the price, as far as they are known.

        Args:
            point: a point.
            images_per_s: its throughput.
            report: report of its run, whose energy counts where no power was given.
        """
        watts, price = self.watts.get(point.devices), self.prices.get(point.devices)
        per_joule = images_per_s / watts if watts else report.audit.images_per_joule
        found = {"images_per_joule": per_joule} if per_joule else {}
        return found | ({"images_per_cost": images_per_s * _S_PER_HOUR / price} if price else {})


def suffixes(points: Iterable[SweepPoint]) -> dict[str, str]:
    """Returns for each point, by its name, the settings beside size and precision that differ."""
    found = [*points]
    forms = {"batch_size": "batch {}", "devices": "on {}", "backend": "{}"}
    varied = [key for key in forms if len({point.settings[key] for point in found}) > 1]
    return {
        point.name: "".join(f" {forms[key].format(point.settings[key])}" for key in varied)
        for point in found
    }

"""How a device or reducer does: its failures, and how long it may take."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median_high

from distributed_pose.errors import ExecutionError
from distributed_pose.records import Faults

# A device that fails so often in a row with what has not failed before is taken out.
_MAX_STREAK = 4

# So many refusals of a device that others have refuted are told one by one.
_MAX_TOLD = 4

# Measured times scatter by a factor of two or three on machines that others use too.
_FACTOR = 10
_REMEMBERED = 64


@dataclass
class Health:
    """How a device or reducer has done so far.

    Attributes:
        floor_s: what a call may take however fast the others were.
        faults: reasons, in order.
        is_out: whether it was given up.
    """

    floor_s: float
    faults: list[str] = field(default_factory=list)
    is_excluded: bool = False
    _streak: int = 0
    _num_refuted: int = 0
    _excess: int = 0
    _durations_s: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def expect(self, duration_s: float) -> None:
        """Enters a time that a call is known to take, from warm-up."""
        self._durations_s.append(duration_s)

    def success(self, duration_s: float) -> None:
        """Enters a result and the time that its call took."""
        self._streak = 0
        self._durations_s.append(duration_s)

    def fault(self, reason: str, *, final: bool = False, is_suspect: bool = False) -> None:
        """Enters a failure.

        Args:
            reason: for the report.
            is_suspect: whether it may be the fault of what was to be done, which failed before.
            final: whether there is no hope, as for a device whose node has left.
        """
        self.faults.append(reason)
        self._streak += not is_suspect
        self.is_excluded |= final or self._streak >= _MAX_STREAK

    def evaluated(self, num_images: int) -> None:
        """Enters images that the device has a result of."""
        self._excess = max(0, self._excess - num_images)

    def refute(self, reason: str) -> None:
        """Enters an image that the device could not read or decode, and that could be all the same.

        Args:
            reason: why it could not, for the report.
        """
        self._num_refuted += 1
        self._excess += 1
        if self._num_refuted <= _MAX_TOLD:
            self.faults.append(f"{reason}, and at another try it was evaluated")

    @property
    def is_out_of_line(self) -> bool:
        """Whether the device fails with most of its images, and other devices do not."""
        return self._excess >= _MAX_STREAK

    @property
    def refusal_summary(self) -> str:
        """How many images the device could not read or decode, for the report."""
        return (
            f"{self._num_refuted} images that it could not read or decode were evaluated elsewhere"
        )

    @property
    def deadline_s(self) -> float:
        """What the next call may take, from the median of the last ones.

        From the slowest, a call that waited for a device that hangs would make the next hang last
        ten times as long, and so on.
        """
        typical_s = median_high(self._durations_s) if self._durations_s else 0.0
        return self.floor_s + _FACTOR * typical_s


def collect_faults(actors: Mapping[str, Health]) -> Faults:
    """Returns what went wrong with the actors of a run, by name."""
    return Faults(
        {name: tuple(health.faults) for name, health in actors.items() if health.faults},
        tuple(name for name, health in actors.items() if health.is_excluded),
    )


def none_left(kind: str, actors: Mapping[str, Health]) -> ExecutionError:
    """Returns the error of a run that cannot go on, for want of a kind of actor."""
    last = "; ".join(f"{name}: {health.faults[-1]}" for name, health in actors.items())
    return ExecutionError(f"no {kind} is left: {last}")

"""The health of devices and reducers: their failures, and the deadline of their calls."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median_high

from distributed_pose.errors import ExecutionError
from distributed_pose.records.facts import Faults

# A device is excluded after this many failures in a row, not counting tasks that failed before.
_MAX_STREAK = 4

# This many refuted refusals of a device are reported one by one; the rest are only counted.
_MAX_LISTED = 4

# Durations scatter by a factor of two or three on shared machines.
_FACTOR = 10
_REMEMBERED = 64


@dataclass
class Health:
    """The health of a device or reducer.

    Attributes:
        floor_s: time in seconds that a call may take in any case, however fast earlier calls were.
        faults: reasons of the failures so far, in order.
        is_excluded: whether the device or reducer is excluded from the run.
    """

    floor_s: float
    faults: list[str] = field(default_factory=list)
    is_excluded: bool = False
    _streak: int = 0
    _num_refuted: int = 0
    _excess: int = 0
    _durations_s: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def expect(self, duration_s: float) -> None:
        """Records the duration of a call that the warm-up predicts."""
        self._durations_s.append(duration_s)

    def success(self, duration_s: float) -> None:
        """Records a result and the duration of its call."""
        self._streak = 0
        self._durations_s.append(duration_s)

    def fault(self, reason: str, *, final: bool = False, is_suspect: bool = False) -> None:
        """Records a failure.

        Args:
            reason: reason of the failure, for the report.
            final: whether the device is excluded at once, for example because its node has left.
            is_suspect: whether the task may be at fault, because it has failed before.
        """
        self.faults.append(reason)
        self._streak += not is_suspect
        self.is_excluded |= final or self._streak >= _MAX_STREAK

    def evaluated(self, num_images: int) -> None:
        """Records the number of images that the device has evaluated."""
        self._excess = max(0, self._excess - num_images)

    def refute(self, reason: str) -> None:
        """Records an image that the device could not read or decode, and another try could.

        Args:
            reason: reason why the device could not read or decode it, for the report.
        """
        self._num_refuted += 1
        self._excess += 1
        if self._num_refuted <= _MAX_LISTED:
            self.faults.append(f"{reason}, and at another try it was evaluated")

    @property
    def is_refusing(self) -> bool:
        """Whether the device fails with most of its images while other tries succeed."""
        return self._excess >= _MAX_STREAK

    @property
    def refusal_summary(self) -> str:
        """Sentence about the images that the device could not read or decode, for the report."""
        return (
            f"{self._num_refuted} images that it could not read or decode were evaluated elsewhere"
        )

    @property
    def deadline_s(self) -> float:
        """Time in seconds that the next call may take, computed from the median of the last calls.

        The slowest call is not used: if it waited for a device that hangs, the next hang could
        last ten times as long, and so on.
        """
        typical_s = median_high(self._durations_s) if self._durations_s else 0.0
        return self.floor_s + _FACTOR * typical_s


def collect_faults(actors: Mapping[str, Health]) -> Faults:
    """Returns the faults of the actors of a run, by name, and the excluded actors."""
    return Faults(
        reasons={name: tuple(health.faults) for name, health in actors.items() if health.faults},
        taken_out=tuple(name for name, health in actors.items() if health.is_excluded),
    )


def none_left(kind: str, actors: Mapping[str, Health]) -> ExecutionError:
    """Returns the error of a run that has no actor of a kind left."""
    last = "; ".join(f"{name}: {health.faults[-1]}" for name, health in actors.items())
    return ExecutionError(f"no {kind} is left: {last}")

"""Images that a device could not read or decode, before the cause is clear."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from distributed_pose.records.images import Failure


@dataclass(frozen=True)
class Refusal:
    """The images of one task that a device could not read or decode.

    Attributes:
        device: name of the device.
        reasons: reason of the refusal, by image id.
    """

    device: str
    reasons: Mapping[int, str]


def final_failures(refusals: Sequence[Refusal], failures: Sequence[Failure]) -> tuple[Failure, ...]:
    """Returns failures that give the reason of each device where the reasons differ.

    Args:
        refusals: refusals of all devices that are not excluded.
        failures: failures as the last device reported them.
    """
    found = []
    for failure in failures:
        reasons: dict[str, str] = {}
        for refusal in refusals:
            if reason := refusal.reasons.get(failure.image_id):
                reasons.setdefault(reason, refusal.device)
        text = "; ".join(f"on {device}: {reason}" for reason, device in reasons.items())
        found.append(replace(failure, reason=text) if len(reasons) > 1 else failure)
    return tuple(found)

"""Images that a device could not read or decode, before it is known whose fault that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from distributed_pose.records import Failure


@dataclass(frozen=True)
class Refusal:
    """What a device could not read or decode.

    Attributes:
        device: name.
        reasons: by image id.
    """

    device: str
    reasons: Mapping[int, str]


def final_failures(refusals: Sequence[Refusal], failures: Sequence[Failure]) -> tuple[Failure, ...]:
    """Returns failures with the reasons of all devices where these differ.

    Args:
        refusals: all that count, the last included.
        failures: of the last.
    """
    found = []
    for failure in failures:
        reasons: dict[str, str] = {}
        for refusal in refusals:
            if reason := refusal.reasons.get(failure.image_id):
                reasons.setdefault(reason, refusal.device)
        told = "; ".join(f"on {device}: {reason}" for reason, device in reasons.items())
        found.append(replace(failure, reason=told) if len(reasons) > 1 else failure)
    return tuple(found)

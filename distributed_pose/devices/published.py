"""The figures that the vendor's guides publish, none of which was measured by this system.

All are compute-only figures for inputs of `PUBLISHED_INPUT`.

Source: Huawei's ModelZoo guides to the offline inference of Lightweight OpenPose with PyTorch,
section 6, read in November 2026.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from distributed_pose.records.images import InputSize

PUBLISHED_INPUT = InputSize(368, 640)


@dataclass(frozen=True)
class Published:
    """The published figures of a device.

    Attributes:
        name: name of the device.
        devices_per_card: number of chips on a card. The guides give figures per card.
        rates: pairs of batch size and images per second of one device, by ascending batch size.
        precision: precision that the model was compiled for.
        ap: AP on COCO val2017; None if the guide has no accuracy step.
        how: tool and method of the measurement.
    """

    name: str
    devices_per_card: int
    rates: tuple[tuple[int, float], ...]
    precision: str
    ap: float | None
    how: str


PUBLISHED: Mapping[str, Published] = MappingProxyType(
    {
        "ascend310": Published(
            "Ascend310", 4, ((1, 136.999),), "f16", 0.404, "cann-benchmark, four chips a card"
        ),
        "ascend710": Published("Ascend710", 1, ((1, 674.06),), "f16", 0.404, "cann-benchmark"),
        "t4": Published(
            "T4", 1, ((1, 252.592),), "f16", None, "1000 / mean GPU compute time of trtexec"
        ),
        "ascend310p3": Published(
            "Ascend310P3",
            1,
            ((1, 712.16), (4, 887.45), (8, 837.97), (16, 873.55), (32, 880.94), (64, 566.44)),
            "f16",
            None,
            "ais_bench, pure inference; a later guide",
        ),
    }
)


def relative_time(size: InputSize) -> float:
    """Returns an estimate of how many times as long an input of a size takes as a published one.

    The number of operations of a convolutional network is proportional to the number of input
    pixels. How well a device is used can change with the size, which the estimate ignores.
    """
    return size.height * size.width / (PUBLISHED_INPUT.height * PUBLISHED_INPUT.width)

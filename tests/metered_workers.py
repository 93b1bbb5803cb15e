"""A meter for workers on CPUs, and a worker that dies once its readings have been sent."""

import time
from typing import Any

from distributed_pose.devices.kinds import CPU, KINDS
from distributed_pose.devices.metering import Reading
from tests.faults import Scene, Work, _die

POWER_W = 10.0
FIRST_BYTES, LATER_BYTES = 2**30, 2**20


class CounterMeter:
    """A meter whose counter goes on whatever process asks, at a constant power.

    The memory tells whether the readings are those of the first process.
    """

    interval_s = 0.01
    driver = "1.2"
    firmware = "3.4"
    memory_used_bytes = LATER_BYTES

    def __init__(self, _device_id: str) -> None:
        pass

    def read(self) -> Reading:
        energy_j = POWER_W * time.monotonic()
        return Reading(memory_used_bytes=self.memory_used_bytes, power_w=POWER_W, energy_j=energy_j)

    def close(self) -> None:
        pass


def die_when_metered(scene: Scene, _name: str, given: Any, work: Work) -> Any:
    """Meters the device; the first process dies when the driver has marked its readings."""
    if scene.once("first process"):
        CounterMeter.memory_used_bytes = FIRST_BYTES
    object.__setattr__(KINDS[CPU], "meter", f"{__name__}:{CounterMeter.__name__}")
    if CounterMeter.memory_used_bytes == FIRST_BYTES:
        if scene.count("metered"):
            _die()
        # Shards last so long that the readings are sent before the last one.
        time.sleep(0.3)
    return work(given)

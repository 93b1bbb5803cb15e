"""How much an actor is given at once."""

from distributed_pose.records import DeviceReady

# Calls in flight at an actor: one at work and one prepared, so that it never waits for the driver;
# more would only fill the object store.
IN_FLIGHT = 2

# Threads of a worker, one for each call in flight.
MAX_IN_FLIGHT = 5

# A call costs the driver half a millisecond, however much it asks for; and what it asks for is lost
# if its process ends.
_MAX_BATCHES = 16
_CALL_NS = 2e9


def batches_per_call(device: DeviceReady) -> int:
    """Returns how many batches a device is asked for at once, where they are short to send."""
    return max(1, min(_MAX_BATCHES, int(_CALL_NS // max(1, device.batch_ns))))


def calls_in_flight(slots: int, batches: int) -> int:
    """Returns how many calls a worker is given at once.

    Calls of one batch are as many as its device has batches under way, and one more that is
    prepared. Calls of several batches fill the device's slots by themselves.

    Args:
        slots: batches that the device has under way at once.
        batches: most batches in a call.
    """
    return IN_FLIGHT if batches > 1 else min(slots + 1, MAX_IN_FLIGHT)

"""Decides how many calls an actor has in flight, and how many batches a call has."""

from distributed_pose.records.devices import DeviceReady

# An actor has two calls in flight, one that it runs and one that is prepared, so that it never
# waits for the driver. More calls would only fill the object store.
IN_FLIGHT = 2

# A call costs the driver half a millisecond, however many batches it has. The work of a call is
# lost if its process ends, so a call has at most this many batches, and no more than fit into this
# many nanoseconds.
_MAX_BATCHES = 16
_CALL_NS = 2e9


def batches_per_call(device: DeviceReady) -> int:
    """Returns the number of batches per call to a device, if shards and answers are small."""
    return max(1, min(_MAX_BATCHES, int(_CALL_NS // max(1, device.batch_ns))))


def calls_in_flight(device: DeviceReady, batches: int) -> int:
    """Returns the number of calls that a worker has in flight at once.

    With calls of one batch, it is the number of batches that the worker prepares, runs and groups
    at once. A call of several batches keeps the worker busy by itself.

    Args:
        device: device of the worker.
        batches: largest number of batches per call.
    """
    return IN_FLIGHT if batches > 1 else device.batches_in_flight

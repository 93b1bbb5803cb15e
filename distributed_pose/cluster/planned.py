"""Plans the devices that a run would use, on this machine or on the cluster that it would join."""

from distributed_pose.cluster.address import joins_cluster
from distributed_pose.config.schema import RunConfig
from distributed_pose.config.selection import select
from distributed_pose.engine.deployment import local_devices
from distributed_pose.records.devices import DevicePlan


def planned_devices(config: RunConfig) -> tuple[DevicePlan, ...]:
    """Returns the devices that a run would use.

    Raises:
        ConfigError: if `select` raises it.
        SetupError: if a device is not available, or the cluster cannot be joined.
    """
    selection = select(config)
    if joins_cluster(config.engine):
        # Ray takes a second to import.
        from distributed_pose.cluster.engine import RayEngine

        with RayEngine(config) as engine:
            return engine.devices(selection)
    return local_devices(selection)

"""Plans the devices that a run would use, on this machine or on the cluster that it would join."""

from distributed_pose.cluster.address import check_cluster, cluster_address
from distributed_pose.config.schema import RunConfig
from distributed_pose.config.selection import check_backends
from distributed_pose.engine.deployment import local_devices
from distributed_pose.records import DevicePlan


def planned_devices(config: RunConfig) -> tuple[DevicePlan, ...]:
    """Returns the devices that a run would use.

    Ray takes seconds to start, so it is started only where there is a cluster to join.

    Raises:
        ConfigError: if `check_backends` raises it.
        SetupError: if a device is not available, or the cluster cannot be joined.
    """
    check_backends(config)
    if config.engine == "ray" and cluster_address():
        check_cluster()
        from distributed_pose.cluster.engine import RayEngine

        with RayEngine(config) as engine:
            return engine.devices()
    return local_devices(config)

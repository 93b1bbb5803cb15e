"""Joins an existing Ray cluster, or starts a local one for the run."""

import atexit
import faulthandler
import logging
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from secrets import token_hex
from typing import Any

import psutil
import ray

from distributed_pose.cluster.abandonment import remove_own_sessions
from distributed_pose.cluster.address import ClusterAddress, cluster_address
from distributed_pose.cluster.guard import Cluster, Guard
from distributed_pose.devices.discovery import local_accelerators
from distributed_pose.devices.host import num_cpus
from distributed_pose.devices.kinds import KINDS, accelerators
from distributed_pose.devices.planning import Accelerator, Node
from distributed_pose.errors import SetupError
from distributed_pose.files.package_identity import package_identity
from distributed_pose.locations import redacted
from distributed_pose.packages import load

_LOG = logging.getLogger(__name__)

_RAYS_PROCESSES = {"raylet", "gcs_server"}

# Ray gives its own processes 30 s to start, but then waits for a raylet that hangs without a limit.
_CONNECT_TIMEOUT_S = 60.0

# By then the call has ended, unless Ray blocks all threads of this process.
_BLOCKED_TIMEOUT_S = _CONNECT_TIMEOUT_S + 5.0

_OTHER_VERSION = "run it in an environment that has the cluster's versions of Ray and Python"

# Shards and maps in flight are tens of megabytes, so Ray's default of 30 % of memory is too much.
_LOCAL_OBJECT_STORE_BYTES = 512 * 2**20

_SETTINGS = {
    # Ray announces a changed default on stderr unless the variable is set. With 0, actors without
    # a GPU keep their environment.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray prints a traceback for each call whose failure is never fetched, as when a run ends.
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
}

_LOCAL_SETTINGS = {
    # A raylet connects to its object store before the store listens, and by default tries again
    # after a second. These two values wait for the same ten seconds in total.
    "RAY_raylet_client_connect_timeout_milliseconds": "20",
    "RAY_raylet_client_num_connect_attempts": "500",
    # By default Ray sends statistics of a cluster to its makers once an hour.
    "RAY_USAGE_STATS_ENABLED": "0",
}


def connect(guard: Guard) -> Callable[[], None]:
    """Joins the cluster that Ray's conventions name, or starts a local one.

    Returns a function that leaves the cluster; a local cluster then ends, and its sockets and logs
    are deleted.

    Args:
        guard: makes the calls into Ray.

    Raises:
        SetupError: if the cluster cannot be joined.
        ClusterLostError: if Ray does not answer in time.
    """
    _hide_credentials()
    quiet = not _LOG.isEnabledFor(logging.INFO)
    common: dict[str, Any] = {
        "log_to_driver": not quiet,
        "logging_level": logging.ERROR if quiet else logging.INFO,
    }
    _set_unless_set(_SETTINGS)
    address = cluster_address()
    # The workers of a run import modules from the driver's working directory first.
    with _working_in(Path(package_identity().path).parent), _ended_if_blocked():
        if address:
            guard.call_within(_CONNECT_TIMEOUT_S, _join, address, common)
            return ray.shutdown
        return partial(_end, guard.call_within(_CONNECT_TIMEOUT_S, _start, common))


def _set_unless_set(variables: Mapping[str, str]) -> None:
    """Sets environment variables of this process and Ray's, but for those that the user has set."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)


@contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    """Makes a folder the working directory, and restores the previous one even if deleted."""
    # Ray may clean up the working directory of a submitted job while its driver joins.
    before = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.chdir(folder)
    try:
        yield
    finally:
        os.fchdir(before)
        os.close(before)


@contextmanager
def _ended_if_blocked() -> Iterator[None]:
    """Ends this process with exit code 1 if the block takes too long, even if no thread can run.

    Ray registers a driver with the raylet while it holds the lock of the interpreter, and waits
    without a limit. If the raylet hangs meanwhile, no thread runs and no signal has an effect.
    """
    # The timer of this module is the only one of Python's that does not need the lock.
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        faulthandler.dump_traceback_later(_BLOCKED_TIMEOUT_S, exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def where() -> Cluster:
    """Returns the addresses at which the cluster that this process has joined answers."""
    context = ray.get_runtime_context()
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    (mine,) = (node for node in nodes if node["NodeID"] == context.get_node_id())
    return Cluster(context.gcs_address, (mine["NodeManagerAddress"], mine["NodeManagerPort"]))


def _hide_credentials() -> None:
    """Hides credentials in this process's command line, which Ray lists as the entrypoint."""
    command = shlex.join(psutil.Process().cmdline())
    if redacted(command) != command:
        # The private function is imported only where there is something to hide.
        from ray._raylet import setproctitle  # type: ignore[attr-defined]

        setproctitle(redacted(command))


def live_nodes() -> list[Node]:
    """Returns the nodes that workers can be placed on, always in the same order.

    Raises:
        SetupError: if there is none.
    """
    nodes = [
        Node(
            node["NodeManagerAddress"],
            node["NodeID"],
            int(node["Resources"].get("CPU", 0)),
            int(node["Resources"].get("object_store_memory", 0)),
            _accelerators(node),
        )
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]
    usable = [node for node in nodes if node.cpus >= 1 or node.accelerators]
    if not usable:
        raise SetupError(
            "no node of the Ray cluster has a CPU or another device", "see `ray status`"
        )
    return sorted(usable, key=lambda node: (node.address, node.node_id))


def _accelerators(node: Mapping[str, Any]) -> tuple[Accelerator, ...]:
    """Returns the accelerators that a node has registered with Ray.

    The model names come from the node's labels or, if the node is this machine, from the drivers'
    tools.
    """
    found = []
    for kind in accelerators():
        count = int(node["Resources"].get(KINDS[kind].resource, 0))
        label = _label(node, kind)
        there = _local(node, kind) if count else []
        there = there if len(there) == count else [Accelerator(kind, "")] * count
        found += [
            replace(device, device_id=str(slot), model=label or device.model)
            for slot, device in enumerate(there)
        ]
    return tuple(found)


def _label(node: Mapping[str, Any], kind: str) -> str:
    """Returns the model of a node's devices of a kind according to its labels; empty if unknown."""
    labels = node.get("Labels", {})
    found = KINDS[kind]
    read = load(found.model_reader) if found.model_reader else str
    given = (read(labels.get(name, "")) for name in found.labels)
    return next(filter(None, given), "")


def _local(node: Mapping[str, Any], kind: str) -> list[Accelerator]:
    if node["NodeManagerAddress"] != ray.util.get_node_ip_address():  # type: ignore[no-untyped-call]
        return []
    return [device for device in _local_accelerators() if device.kind == kind]


# Drivers' tools take seconds, and the nodes are listed for each process that reports its device.
_local_accelerators = cache(local_accelerators)


def ray_cpu_s() -> float:
    """Returns the processor time of Ray's own processes for the cluster on this machine, in s."""
    address = ray.get_runtime_context().gcs_address
    # The command line of the head's server has the port alone.
    marks = (address, f"port={address.rpartition(':')[2]}")
    total_s = 0.0
    for process in psutil.process_iter(["name", "cmdline", "cpu_times"]):
        told = process.info
        is_of_it = any(word.endswith(marks) for word in told["cmdline"] or ())
        if told["name"] in _RAYS_PROCESSES and is_of_it and told["cpu_times"]:
            total_s += told["cpu_times"].user + told["cpu_times"].system
    return total_s


def is_alive(node_id: str) -> bool:
    """Returns whether a node is a live member of the cluster."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return any(node["Alive"] and node["NodeID"] == node_id for node in nodes)


def _join(address: ClusterAddress, common: Mapping[str, Any]) -> None:
    try:
        ray.init(address=address.target, **common)
    # Ray documents no exceptions, but raises a dozen kinds of them.
    except Exception as error:  # noqa: BLE001
        reason = _reason(error)
        remedy = _OTHER_VERSION if reason.startswith("Version mismatch") else address.remedy
        raise SetupError(f"cannot join the Ray cluster {address}: {reason}", remedy) from None


def _start(common: Mapping[str, Any]) -> Path:
    """Starts a local Ray for the run, and returns the folder of its files.

    Raises:
        SetupError: if Ray cannot be started.
    """
    _set_unless_set(_LOCAL_SETTINGS)
    if not _can_keep_a_token():
        _set_unless_set({"RAY_AUTH_TOKEN": token_hex(32)})
    # Exit functions run in reverse order. This one is registered before Ray registers its own, so
    # that Ray ends its processes first.
    atexit.register(remove_own_sessions)
    try:
        context: Any = ray.init(
            address="local",
            num_cpus=num_cpus(),
            object_store_memory=_LOCAL_OBJECT_STORE_BYTES,
            include_dashboard=False,
            **common,
        )
    except Exception as error:  # noqa: BLE001
        raise SetupError(
            f"cannot start a local Ray: {_reason(error)}",
            "name a writable folder of a short path by RAY_TMPDIR, or set engine=inline",
        ) from None
    atexit.unregister(remove_own_sessions)
    return Path(context.address_info["session_dir"])


def _end(session: Path) -> None:
    ray.shutdown()
    shutil.rmtree(session, ignore_errors=True)


def _can_keep_a_token() -> bool:
    """Returns whether Ray can store the token of a local cluster in `~/.ray`."""
    try:
        folder = Path.home() / ".ray"
        folder.mkdir(exist_ok=True)
    except (OSError, RuntimeError):
        return False
    return os.access(folder, os.W_OK)


def _reason(error: Exception) -> str:
    """Returns Ray's message of a failure as one line, without the advice that Ray adds."""
    return " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__

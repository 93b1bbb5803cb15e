"""Joining the Ray cluster at hand, or starting one for the run."""

import atexit
import logging
import os
import shlex
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from secrets import token_hex
from typing import Any

import psutil
import ray

from distributed_pose.cluster.address import ClusterAddress, cluster_address
from distributed_pose.cluster.guard import Cluster
from distributed_pose.devices.ascend import is_soc
from distributed_pose.devices.discovery import local_accelerators
from distributed_pose.devices.host import num_cpus
from distributed_pose.devices.kinds import KINDS, NPU, accelerators
from distributed_pose.devices.planning import Accelerator, Node
from distributed_pose.errors import SetupError
from distributed_pose.files.package_identity import package_identity
from distributed_pose.locations import redacted

_LOG = logging.getLogger(__name__)

_RAYS_PROCESSES = {"raylet", "gcs_server"}

_OTHER_VERSION = "run it in an environment that has the cluster's versions of Ray and Python"

# Shards and maps in flight are tens of megabytes; Ray's default of 30 % of memory is for others.
_LOCAL_OBJECT_STORE_BYTES = 512 * 2**20


def connect() -> Callable[[], None]:
    """Joins the cluster that Ray's conventions name, or starts a local one.

    Returns a function that leaves it again; a local one ends, and so do its sockets and logs.

    Raises:
        SetupError: if the cluster cannot be joined.
    """
    _hide_credentials()
    quiet = not _LOG.isEnabledFor(logging.INFO)
    common: dict[str, Any] = {
        "log_to_driver": not quiet,
        "logging_level": logging.ERROR if quiet else logging.INFO,
    }
    # Ray announces a changed default on stderr unless it is chosen; actors without a GPU keep
    # the environment as it is.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray prints a traceback for each call that fails while a run ends, and nobody looks at.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    address = cluster_address()
    # The workers of a run import what lies in the driver's working directory before all else.
    with _working_in(Path(package_identity().path).parent), _stopped_as_before():
        if address:
            _join(address, common)
            return ray.shutdown
        return partial(_end, _start(common))


@contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    """Makes a folder the working directory, and goes back even to one that was deleted."""
    # Ray may clean up the working directory of a submitted job while its driver joins.
    before = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.chdir(folder)
    try:
        yield
    finally:
        os.fchdir(before)
        os.close(before)


@contextmanager
def _stopped_as_before() -> Iterator[None]:
    """Keeps the handler of SIGTERM; one that comes to Ray's own handler ends the run as Ctrl-C."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt(signal.SIGTERM.name) from None
    finally:
        # One that has come already is ignored from then on.
        is_open = signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN
        if is_open and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)


def where() -> Cluster:
    """Returns where the cluster that this process has joined answers."""
    context = ray.get_runtime_context()
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    (mine,) = (node for node in nodes if node["NodeID"] == context.get_node_id())
    return Cluster(context.gcs_address, (mine["NodeManagerAddress"], mine["NodeManagerPort"]))


def abandon() -> None:
    """Has this process end without a word to its cluster, which does not answer any more."""
    atexit.unregister(ray.shutdown)


def _hide_credentials() -> None:
    """Has the command line of this process show none: Ray lists it as the job's entrypoint."""
    command = shlex.join(psutil.Process().cmdline())
    if redacted(command) != command:
        # What Ray names its own processes with; asked for only where there is something to hide.
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
    """Returns what a node has said that it has, named by its labels or by the machine itself."""
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
    """Returns what the labels of a node say of its devices of a kind."""
    labels = node.get("Labels", {})
    # A node with NPUs and GPUs has one label of Ray's for both.
    given = [value for name in KINDS[kind].labels if (value := labels.get(name, ""))]
    if kind != NPU:
        return given[0] if given else ""
    return next((value.removeprefix("Ascend") for value in given if is_soc(value)), "")


def _local(node: Mapping[str, Any], kind: str) -> list[Accelerator]:
    if node["NodeManagerAddress"] != ray.util.get_node_ip_address():  # type: ignore[no-untyped-call]
        return []
    return [device for device in _local_accelerators() if device.kind == kind]


# Drivers' tools take seconds, and are asked for each device that is put in its place.
_local_accelerators = cache(local_accelerators)


def ray_cpu_s() -> float:
    """Returns the processor time of the cluster's own processes on this machine, in seconds."""
    address = ray.get_runtime_context().gcs_address
    # The head's server is told its port alone.
    marks = (address, f"port={address.rpartition(':')[2]}")
    total_s = 0.0
    for process in psutil.process_iter(["name", "cmdline", "cpu_times"]):
        told = process.info
        is_of_it = any(word.endswith(marks) for word in told["cmdline"] or ())
        if told["name"] in _RAYS_PROCESSES and is_of_it and told["cpu_times"]:
            total_s += told["cpu_times"].user + told["cpu_times"].system
    return total_s


def is_alive(node_id: str) -> bool:
    """Returns whether a node is in the cluster."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return any(node["Alive"] and node["NodeID"] == node_id for node in nodes)


def _join(address: ClusterAddress, common: Mapping[str, Any]) -> None:
    try:
        ray.init(address=address.target, **common)
    # Ray documents no exceptions, and raises a dozen kinds of them.
    except Exception as error:  # noqa: BLE001
        reason = _reason(error)
        remedy = _OTHER_VERSION if reason.startswith("Version mismatch") else address.remedy
        raise SetupError(f"cannot join the Ray cluster {address}: {reason}", remedy) from None


def _start(common: Mapping[str, Any]) -> Path:
    """Starts a Ray of the run's own on this machine, and returns where it keeps its files."""
    if not _can_keep_a_token():
        os.environ.setdefault("RAY_AUTH_TOKEN", token_hex(32))
    # Before Ray has a function end what it has started, since the last one comes first.
    atexit.register(_remove_own_sessions)
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
    atexit.unregister(_remove_own_sessions)
    return Path(context.address_info["session_dir"])


def _remove_own_sessions() -> None:
    """Removes the files of a Ray that this process has not started to the end."""
    base = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray"
    for session in base.glob(f"session_*_{os.getpid()}"):
        shutil.rmtree(session, ignore_errors=True)


def _end(session: Path) -> None:
    ray.shutdown()
    shutil.rmtree(session, ignore_errors=True)


def _can_keep_a_token() -> bool:
    """Returns whether Ray can keep the token of a local cluster where it wants to."""
    try:
        folder = Path.home() / ".ray"
        folder.mkdir(exist_ok=True)
    except (OSError, RuntimeError):
        return False
    return os.access(folder, os.W_OK)


def _reason(error: Exception) -> str:
    """Returns what Ray says of a failure as one line, without the advice that it adds."""
    return " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__

"""Calls into Ray with a bound, and a watch over the cluster that answers them.

When the head of a cluster or the local raylet is gone, calls into Ray take minutes, ignore signals,
and finally end the process without a message.
"""

import logging
import socket
from collections.abc import Callable
from queue import Empty, Queue
from threading import Event, Thread
from time import monotonic
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

from distributed_pose.cluster.address import head_answers
from distributed_pose.errors import ExecutionError
from distributed_pose.packages import is_installed

_LOG = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_PROBE_TIMEOUT_S = 5.0

# Ray itself gives up on a head after 60 s, and ends the process.
_HEAD_PATIENCE_S = 30.0
# A local raylet does not come back, and its end soon ends the process.
_NODE_PATIENCE_S = 3.0

_P = ParamSpec("_P")
_R = TypeVar("_R")


class ClusterLostError(ExecutionError):
    """The cluster no longer answers any call."""


class Cluster(NamedTuple):
    """The addresses at which a cluster answers.

    Attributes:
        head: host and port of the head.
        node: host and port of the raylet on this machine.
    """

    head: str
    node: tuple[str, int]


class Watch:
    """Checks every second, in a thread of its own, whether a cluster still answers.

    Attributes:
        loss: what no longer answers; empty while all is well.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._ended = Event()
        self.loss = ""
        Thread(target=self._look, name="cluster watch", daemon=True).start()

    def end(self) -> None:
        """Ends the thread."""
        self._ended.set()

    def _look(self) -> None:
        head_at = node_at = monotonic()
        while not self._ended.wait(_LOOK_EVERY_S):
            now = monotonic()
            node_at = now if _accepts(self._cluster.node) else node_at
            head_at = now if _head_answers(self._cluster.head) else head_at
            if now - node_at > _NODE_PATIENCE_S:
                self.loss = "the Ray of this machine has ended"
            elif now - head_at > _HEAD_PATIENCE_S:
                self.loss = f"the head of the Ray cluster, {self._cluster.head}, does not answer"
            if self.loss:
                return


def _head_answers(head: str) -> bool:
    # A local Ray runs without the package of gRPC, and then only the head's port can be asked.
    if is_installed("grpc"):
        return head_answers(head)
    host, _, port = head.rpartition(":")
    return _accepts((host, int(port)))


def _accepts(address: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(address, _PROBE_TIMEOUT_S):
            return True
    except OSError:
        return False


class _Request(NamedTuple):
    function: Callable[[], Any]
    answer: Queue[tuple[Any, BaseException | None]]


class Guard:
    """Runs calls into Ray in one other thread, one after the other.

    The caller waits where signals reach it, and only as long as the cluster answers.
    """

    def __init__(self) -> None:
        self.watch: Watch | None = None
        self._requests: Queue[_Request | None] = Queue()
        self._thread = Thread(target=self._serve, name="ray calls", daemon=True)
        self._thread.start()

    def call(self, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Returns what a function returns.

        Raises:
            ClusterLostError: if the cluster no longer answers; the function may still run.
        """
        self._check()
        request = _Request(lambda: function(*args, **kwargs), Queue(1))
        self._requests.put(request)
        while True:
            try:
                result, error = request.answer.get(timeout=_LOOK_EVERY_S)
            except Empty:
                self._check()
                continue
            if error:
                self._check()
                raise error
            return cast("_R", result)

    def end(self) -> None:
        """Ends both threads."""
        if self.watch:
            self.watch.end()
        self._requests.put(None)

    def _check(self) -> None:
        if self.watch and self.watch.loss:
            raise ClusterLostError(self.watch.loss)

    def _serve(self) -> None:
        while request := self._requests.get():
            try:
                request.answer.put((request.function(), None))
            # It is raised where the call was made.
            except BaseException as error:  # noqa: BLE001
                request.answer.put((None, error))

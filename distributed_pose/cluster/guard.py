"""Calls into Ray with a bound, and a watch over the cluster that answers them.

When the head of a cluster or the local raylet is gone, calls into Ray take minutes, ignore signals,
and finally end the process without a message.
"""

import logging
import socket
from collections.abc import Callable
from functools import partial
from math import inf
from queue import Empty, Queue
from threading import Event, Thread
from time import monotonic
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

from distributed_pose.cluster.address import head_answers
from distributed_pose.errors import ExecutionError
from distributed_pose.packages import is_installed

_LOG = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_PROBE_TIMEOUT_S = 3.0

# Ray itself gives up on a head after 60 s, and ends the process. A raylet that hangs is waited for
# as long, because a busy machine can stop it for seconds.
_PATIENCE_S = 30.0
# A local raylet does not come back, and its end soon ends the process.
_NODE_PATIENCE_S = 3.0

# The preface of an HTTP/2 connection, with empty settings. A gRPC server answers with its own.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"

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
        head_at = node_at = listening_at = monotonic()
        while not self._ended.wait(_LOOK_EVERY_S):
            now = monotonic()
            listening_at = now if _listens(self._cluster.node) else listening_at
            node_at = now if _answers(self._cluster.node) else node_at
            head_at = now if _head_answers(self._cluster.head) else head_at
            if now - listening_at > _NODE_PATIENCE_S:
                self.loss = "the Ray of this machine has ended"
            elif now - node_at > _PATIENCE_S:
                self.loss = "the Ray of this machine does not answer"
            elif now - head_at > _PATIENCE_S:
                self.loss = f"the head of the Ray cluster, {self._cluster.head}, does not answer"
            if self.loss:
                return


def _head_answers(head: str) -> bool:
    # A local Ray runs without the package of gRPC, and then only the head's port can be asked.
    if is_installed("grpc"):
        return head_answers(head)
    host, _, port = head.rpartition(":")
    return _answers((host, int(port)))


def _listens(address: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(address, _PROBE_TIMEOUT_S):
            return True
    except OSError:
        return False


def _answers(address: tuple[str, int]) -> bool:
    """Returns whether a gRPC server answers; the kernel accepts connections for a stopped one."""
    try:
        with socket.create_connection(address, _PROBE_TIMEOUT_S) as connection:
            connection.sendall(_GREETING)
            # A server with TLS closes the connection, which is an answer as well.
            connection.recv(1)
    except (ConnectionResetError, BrokenPipeError):
        return True
    except OSError:
        return False
    return True


class _Request(NamedTuple):
    function: Callable[[], Any]
    answer: Queue[tuple[Any, BaseException | None]]


class Guard:
    """Runs calls into Ray in one other thread, one after the other.

    The caller waits where signals reach it, and only as long as the cluster answers.
    """

    def __init__(self) -> None:
        self._watch: Watch | None = None
        self._requests: Queue[_Request | None] = Queue()
        self._thread = Thread(target=self._serve, name="ray calls", daemon=True)
        self._thread.start()

    def watch(self, cluster: Cluster | None) -> None:
        """Watches a cluster from now on; None ends the watch before the cluster is left."""
        if self._watch:
            self._watch.end()
        self._watch = Watch(cluster) if cluster else None

    def call(self, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Returns what a function returns.

        Raises:
            ClusterLostError: if the cluster no longer answers; the function may still run.
        """
        return self._answer(partial(function, *args, **kwargs), inf)

    def call_within(
        self, limit_s: float, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs
    ) -> _R:
        """Returns what a function returns that needs a time limit, in seconds.

        No watch can tell whether a cluster answers that is being joined or left.

        Raises:
            ClusterLostError: if `call` raises it, or the time is over; the function may still run.
        """
        return self._answer(partial(function, *args, **kwargs), limit_s)

    def end(self) -> None:
        """Ends both threads."""
        self.watch(None)
        self._requests.put(None)

    def _answer(self, function: Callable[[], _R], limit_s: float) -> _R:
        self._check()
        request = _Request(function, Queue(1))
        self._requests.put(request)
        deadline_at = monotonic() + limit_s
        while True:
            try:
                left_s = max(0.0, deadline_at - monotonic())
                result, error = request.answer.get(timeout=min(_LOOK_EVERY_S, left_s))
            except Empty:
                self._check()
                if monotonic() >= deadline_at:
                    raise ClusterLostError(f"Ray did not answer within {limit_s:.0f} s") from None
                continue
            if error:
                self._check()
                raise error
            return cast("_R", result)

    def _check(self) -> None:
        # The watch can end meanwhile, in the other thread.
        watch = self._watch
        if watch and watch.loss:
            raise ClusterLostError(watch.loss)

    def _serve(self) -> None:
        while request := self._requests.get():
            try:
                request.answer.put((request.function(), None))
            # It is raised where the call was made.
            except BaseException as error:  # noqa: BLE001
                request.answer.put((None, error))

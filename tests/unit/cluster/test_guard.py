"""The watch over a cluster, also where the package of gRPC is not installed, and time limits."""

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import pytest

from distributed_pose.cluster.guard import Cluster, ClusterLostError, Guard, Watch


@contextmanager
def server_that_answers() -> Iterator[tuple[str, int]]:
    """Answers each greeting with the empty settings of an HTTP/2 server."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    if connection.recv(64):
                        connection.sendall(b"\0\0\0\4\0\0\0\0\0")

        Thread(target=serve, daemon=True).start()
        yield server.getsockname()
        server.shutdown(socket.SHUT_RDWR)


def loss(watch: Watch, limit_s: float) -> str:
    """Returns what a watch finds within a time limit."""
    until = time.monotonic() + limit_s
    while not watch.loss and time.monotonic() < until:
        time.sleep(0.1)
    watch.end()
    return watch.loss


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    monkeypatch.setattr("distributed_pose.cluster.guard._PATIENCE_S", 0.5)
    monkeypatch.setattr("distributed_pose.cluster.guard._PROBE_TIMEOUT_S", 0.5)


@pytest.mark.usefixtures("_impatient")
def test_a_cluster_that_answers_is_not_taken_for_lost() -> None:
    with server_that_answers() as (host, port):
        # An exception in its thread would end the test as well.
        assert loss(Watch(Cluster(f"{host}:{port}", (host, port))), 3.0) == ""


@pytest.mark.usefixtures("_impatient")
def test_a_head_that_ends_is_noticed() -> None:
    with server_that_answers() as node:
        with socket.create_server(("127.0.0.1", 0)) as head:
            port = head.getsockname()[1]
        found = loss(Watch(Cluster(f"127.0.0.1:{port}", node)), 10.0)
    assert f"127.0.0.1:{port}, does not answer" in found


@pytest.mark.usefixtures("_impatient")
def test_a_raylet_that_accepts_connections_and_does_not_answer_is_noticed() -> None:
    # The kernel does the same for a process that is stopped.
    with server_that_answers() as (host, port), socket.create_server(("127.0.0.1", 0)) as node:
        found = loss(Watch(Cluster(f"{host}:{port}", node.getsockname())), 10.0)
    assert found == "the Ray of this machine does not answer"


def test_a_call_with_a_time_limit_ends_when_the_function_hangs() -> None:
    guard, released = Guard(), Event()
    start = time.monotonic()
    with pytest.raises(ClusterLostError, match="did not answer within 1 s"):
        guard.call_within(1.0, released.wait)
    assert time.monotonic() - start < 5.0
    released.set()
    assert guard.call_within(5.0, int, "7") == 7
    guard.end()

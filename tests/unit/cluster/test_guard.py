"""The watch over a cluster, also where the package of gRPC is not installed."""

import socket
import sys
import time

import pytest

from distributed_pose.cluster.guard import Cluster, Watch


def test_without_grpc_a_head_that_listens_is_not_taken_for_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        watch = Watch(Cluster(f"127.0.0.1:{address[1]}", address))
        time.sleep(1.5)
        # An exception in its thread would end the test as well.
        assert watch.loss == ""
        watch.end()


def test_without_grpc_a_head_that_ends_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    monkeypatch.setattr("distributed_pose.cluster.guard._HEAD_PATIENCE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as node:
        with socket.create_server(("127.0.0.1", 0)) as head:
            port = head.getsockname()[1]
        watch = Watch(Cluster(f"127.0.0.1:{port}", node.getsockname()))
        until = time.monotonic() + 10.0
        while not watch.loss and time.monotonic() < until:
            time.sleep(0.1)
        assert f"127.0.0.1:{port}, does not answer" in watch.loss

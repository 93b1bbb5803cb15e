"""The cluster that a run joins, and the error within seconds if it cannot be joined."""

import os
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import pytest

from distributed_pose import SetupError
from distributed_pose.cluster import address
from distributed_pose.cluster.address import (
    ClusterAddress,
    check_answers,
    check_cluster,
    cluster_address,
)

TOKEN = "0123456789abcdef"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        # Set first, so that what the test sets is undone after it.
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@contextmanager
def head(token: str = "") -> Iterator[ClusterAddress]:
    """Serves the one call that a run makes before it joins, as Ray's head does."""

    def answer(_request: bytes, context: Any) -> bytes:
        shown = dict(context.invocation_metadata()).get("authorization")
        if token and shown != f"Bearer {token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return b""

    class AnyCall(grpc.GenericRpcHandler):
        def service(self, _details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(answer)

    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads, handlers=[AnyCall()])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield named(port)
        finally:
            server.stop(None).wait()


def named(port: int) -> ClusterAddress:
    return ClusterAddress(f"127.0.0.1:{port}", "RAY_ADDRESS", "correct RAY_ADDRESS")


def test_the_environment_comes_before_the_file_that_ray_leaves(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cluster_address() is None
    file = environment / "ray" / "ray_current_cluster"
    file.parent.mkdir()
    file.write_text("10.0.0.1:6379")
    found = cluster_address()
    assert found
    assert (found.target, found.origin) == ("10.0.0.1:6379", str(file))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    found = cluster_address()
    assert found
    assert (found.target, found.origin) == ("10.0.0.2:6379", "RAY_ADDRESS")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert cluster_address() is None


@pytest.mark.parametrize(
    ("named_address", "message"),
    [
        ("auto", "no Ray cluster runs on this machine"),
        ("ray://10.0.0.1:10001", "Ray Client"),
        ("http://10.0.0.1:8265", "dashboard"),
        ("10.0.0.1", "is not an address"),
        ("no such address", "is not an address"),
    ],
)
def test_an_address_that_is_not_of_a_head_is_refused_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, named_address: str, message: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", named_address)
    with pytest.raises(SetupError, match=message):
        cluster_address()


def test_a_head_without_a_token_is_joined() -> None:
    with head() as cluster:
        check_answers(cluster)


def test_a_token_is_shown_to_a_head_that_asks_for_it(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    (environment / ".ray").mkdir()
    (environment / ".ray" / "auth_token").write_text(TOKEN + "\n")
    with head() as open_cluster:
        check_answers(open_cluster)
    assert "RAY_AUTH_MODE" not in os.environ
    with head(TOKEN) as cluster:
        check_answers(cluster)
    assert os.environ["RAY_AUTH_MODE"] == "token"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "there is none here"),
        ({"RAY_AUTH_TOKEN": "another"}, "refuses the one at hand"),
        ({"RAY_AUTH_TOKEN": "not\na header"}, "refuses the one at hand"),
        ({"RAY_AUTH_TOKEN": TOKEN, "RAY_AUTH_MODE": "disabled"}, "there is none here"),
    ],
)
def test_a_missing_or_wrong_token_is_reported(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with head(TOKEN) as cluster, pytest.raises(SetupError, match=message):
        check_answers(cluster)


def test_a_dead_address_is_reported_with_its_origin() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(SetupError, match=rf"127\.0\.0\.1:{port} \(from RAY_ADDRESS\): .*refused"):
        check_answers(named(port))


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("127.0.0.1:{}", "Connection refused"),
        ("[::1]:{}", "."),
        ("a" * 300 + ":{}", "."),
        ("127.0.0.1:{}999999", "."),
        ("no address", "."),
    ],
)
@pytest.mark.parametrize("tls", ["0", "1"])
def test_the_file_of_an_ended_cluster_is_named_where_grpc_is_not_installed(
    environment: Path, monkeypatch: pytest.MonkeyPatch, target: str, reason: str, tls: str
) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    monkeypatch.setenv("RAY_USE_TLS", tls)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    file = environment / "ray" / "ray_current_cluster"
    file.parent.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        file.write_text(target.format(free.getsockname()[1]))
    with pytest.raises(SetupError, match=rf"no Ray cluster .*\(from {file}\): .*{reason}") as error:
        check_cluster()
    assert "delete the file if its cluster is gone" in error.value.hint


def test_a_cluster_that_listens_is_asked_by_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(SetupError, match=r"joining the Ray cluster 127.*needs grpc"),
    ):
        check_answers(named(server.getsockname()[1]))


def test_a_dashboard_is_not_taken_for_a_head() -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(SetupError, match="perhaps its dashboard"):
            check_answers(named(server.server_port))
        server.shutdown()


def test_a_server_that_does_not_answer_is_reported_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "_TIMEOUT_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(SetupError, match="no Ray cluster answers"):
            check_answers(named(silent.getsockname()[1]))

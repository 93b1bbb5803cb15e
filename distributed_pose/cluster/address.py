"""Finds the Ray cluster that a run joins, and checks that it answers, before Ray is loaded.

Ray itself tries a dead address for minutes, and reads its authentication mode only once, when Ray
is imported.
"""

import os
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from distributed_pose.errors import SetupError, first_line
from distributed_pose.packages import require

_ADDRESS = "RAY_ADDRESS"
_AUTH_MODE = "RAY_AUTH_MODE"

# Every Ray head answers this call. The other servers of a cluster report that they do not have it.
_CALL = "/ray.rpc.NodeInfoGcsService/GetClusterId"

_TIMEOUT_S = 5.0

# gRPC gives these statuses to calls without an answer.
_SILENT = {"UNAVAILABLE", "DEADLINE_EXCEEDED"}


@dataclass(frozen=True)
class ClusterAddress:
    """The address of a cluster's head.

    Attributes:
        target: host and port, such as `10.0.0.1:6379`.
        origin: environment variable or file that names the address.
        remedy: advice for the user if nothing answers at the address.
    """

    target: str
    origin: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.target} (from {self.origin})"


def cluster_address() -> ClusterAddress | None:
    """Returns the cluster that Ray's conventions name, or None if the run starts a local Ray.

    `RAY_ADDRESS` takes precedence over the file that `ray start` leaves in Ray's temporary folder.

    Raises:
        SetupError: if `RAY_ADDRESS` is not the address of a cluster's head, or is `auto` and no
            cluster runs on this machine.
    """
    named = os.environ.get(_ADDRESS, "")
    if named == "local":
        return None
    if named not in {"", "auto"}:
        return ClusterAddress(_checked(named), _ADDRESS, f"correct {_ADDRESS}, or unset it")
    file = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray" / "ray_current_cluster"
    try:
        target = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        target = ""
    if target:
        remedy = f"delete the file if its cluster is gone, or set {_ADDRESS}=local"
        return ClusterAddress(target, str(file), remedy)
    if named == "auto":
        raise SetupError(
            f"{_ADDRESS}=auto, and no Ray cluster runs on this machine",
            f"start one (launch/node.sh head), or unset {_ADDRESS} for a local Ray",
        )
    return None


def joins_cluster(engine: str) -> bool:
    """Returns whether an engine joins a cluster, which then has been checked.

    Ray takes seconds to start, so questions about devices start it only if there is a cluster to
    join.

    Args:
        engine: name of the engine, `ray` or `inline`.

    Raises:
        SetupError: if the cluster does not answer; see `check_cluster`.
    """
    if engine != "ray" or not cluster_address():
        return False
    check_cluster()
    return True


def check_cluster() -> None:
    """Checks that the cluster which a run would join answers, with `check_answers`.

    Callers call it before Ray is imported. A cluster that this process has already joined is not
    checked.

    Raises:
        SetupError: if `cluster_address` or `check_answers` raises it.
    """
    ray = sys.modules.get("ray")
    if ray and ray.is_initialized():
        return
    if address := cluster_address():
        check_answers(address)


def check_answers(address: ClusterAddress) -> None:
    """Checks within seconds that a cluster answers, and that it accepts this process's token.

    If the cluster requires a token, `RAY_AUTH_MODE` is set unless it is set already, so that Ray
    sends the user's token.

    Args:
        address: address of the cluster's head.

    Raises:
        SetupError: if nothing answers, if the answer is not a Ray head's, or if the token is
            missing or wrong.
    """
    # Ray's file outlives its cluster, and users of a local Ray need no grpc.
    _check_listens(address)
    # A cluster with TLS refuses calls without a certificate, and this check sends none.
    if os.environ.get("RAY_USE_TLS", "0") not in {"0", ""}:
        return
    require("grpc", extra="cluster", purpose=f"joining the Ray cluster {address}")
    token = _token()
    status, details = _call(address.target, token)
    if status == "UNAUTHENTICATED":
        raise SetupError(
            f"the Ray cluster {address} asks for a token, and "
            + ("refuses the one at hand" if token else "there is none here"),
            "copy its token (`ray get-auth-token` on its head) to ~/.ray/auth_token, or set "
            "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH",
        )
    if status in _SILENT:
        raise _unreachable(address, details)
    if token and _AUTH_MODE not in os.environ:
        _send_token(address)


def _check_listens(address: ClusterAddress) -> None:
    """Checks that a server listens at an address.

    Raises:
        SetupError: if none does.
    """
    host, _, port = address.target.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _TIMEOUT_S).close()
    except TimeoutError:
        raise _silent(address) from None
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise _silent(address, reason) from None


def head_answers(target: str) -> bool:
    """Returns whether the head of a cluster answers calls now.

    Args:
        target: host and port of the head.
    """
    status, _ = _call(target, _token())
    return status not in _SILENT


def _checked(named: str) -> str:
    scheme, separator, _ = named.partition("://")
    if separator and scheme == "ray":
        raise SetupError(
            f"{_ADDRESS}={named} is an address of Ray Client, which runs no evaluations",
            "submit the run with launch/submit.sh, or name the head as HOST:6379 on a node of the "
            "cluster",
        )
    if separator:
        raise SetupError(
            f"{_ADDRESS}={named} is an address of the dashboard, which takes jobs",
            "submit the run with launch/submit.sh, or name the head as HOST:6379",
        )
    host, _, port = named.rpartition(":")
    if not host or not port.isdecimal():
        raise SetupError(f"{_ADDRESS}={named} is not an address", "name the head as HOST:6379")
    return named


def _call(target: str, token: str) -> tuple[str, str]:
    """Returns the gRPC status of a call to a head, and its details."""
    if not (token.isascii() and token.isprintable()):
        return "UNAUTHENTICATED", "the token has characters that no header can have"
    import grpc

    # Proxies are for external addresses, and cannot reach the nodes of a cluster.
    options = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
    metadata = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(target, options=options) as channel:
        try:
            channel.unary_unary(_CALL)(b"", timeout=_TIMEOUT_S, metadata=metadata)
        except grpc.RpcError as error:
            # Each such error is also a call with a status, which its type does not declare.
            return error.code().name, " ".join((error.details() or "").split())
    return "OK", ""


def _unreachable(address: ClusterAddress, details: str) -> SetupError:
    if "HTTP" in details:
        return SetupError(
            f"the server at {address} is not the head of a Ray cluster, but perhaps its dashboard",
            "name the head's own port, which is 6379 unless it was chosen",
        )
    return _silent(address, details.rpartition("last error: ")[2])


def _silent(address: ClusterAddress, reason: str = "") -> SetupError:
    reason = reason or f"no answer within {_TIMEOUT_S:.0f} s"
    return SetupError(f"no Ray cluster answers at {address}: {reason}", address.remedy)


def _token() -> str:
    """Returns the token that Ray would send, from the places where Ray looks; empty for none."""
    if os.environ.get(_AUTH_MODE, "token").lower() != "token":
        return ""
    if token := os.environ.get("RAY_AUTH_TOKEN", ""):
        return token.strip()
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token"
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, ValueError, RuntimeError):
        return ""


def _send_token(address: ClusterAddress) -> None:
    status, _ = _call(address.target, "")
    if status != "UNAUTHENTICATED":
        return
    if "ray" in sys.modules:
        raise SetupError(
            f"the Ray cluster {address} asks for a token, and Ray was imported without",
            f"set {_AUTH_MODE}=token before Ray is imported",
        )
    os.environ[_AUTH_MODE] = "token"

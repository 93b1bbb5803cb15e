"""Object stores that do not answer are an error in bounded time."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distributed_pose import SetupError
from distributed_pose.files.storage import read_location
from tests.conftest import Dataset


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_store_that_does_not_answer_is_an_error_within_a_minute(
    scheme: str, people: Dataset, tmp_path: Path
) -> None:
    # The server accepts connections and never answers.
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        user = {"s3": "key:secret", "gs": "anonymous"}[scheme]
        uri = f"{scheme}://{user}@bucket/file?scheme=http&endpoint_override={address}"
        keys = [f"data.images={people.images}", f"data.annotations={uri}", "backend=oracle"]
        command = [sys.executable, "-m", "distributed_pose", "evaluate"]
        start = time.monotonic()
        answer = subprocess.run(
            [*command, *(f"--set={key}" for key in keys)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert answer.returncode == 3
    assert answer.stderr.startswith(f"error: cannot open {scheme}://***@bucket")
    assert "no answer within 20 s (check data.annotations)" in answer.stderr
    assert time.monotonic() - start < 60


@pytest.mark.slow
def test_a_store_that_refuses_connections_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    uri = f"s3://key:secret@bucket/file?scheme=http&endpoint_override={address}"
    with pytest.raises(SetupError, match=r"cannot open .* NETWORK_CONNECTION"):
        read_location(uri, "data.annotations")

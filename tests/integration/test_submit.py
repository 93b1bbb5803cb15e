"""Jobs are submitted to clusters of the test, as users submit them."""

import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs
import pytest

from distributed_pose import load_config
from distributed_pose.evaluation import evaluate
from tests.conftest import Dataset

LAUNCH = Path(__file__).parents[2] / "launch"
LOCAL = LAUNCH.parent / "configs" / "local.yaml"

# The head and the other node have separate addresses, as two machines have.
HEAD, OTHER = "10.213.77.1", "10.213.77.2"

# The demo in float32, whose sums do not depend on the number of threads.
RUN = ["--set", "data.limit=6", "--set", "precision=f32", "--set", "batch_size=1"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.system() != "Linux", reason="clusters are Linux's"),
]


@dataclass
class Machine:
    """The place in which commands run: this machine, or a network namespace.

    Attributes:
        prefix: prefix of every command.
        address: address for other machines.
        dashboard: port of the dashboard.
        gcs: port of Ray's GCS.
    """

    prefix: Sequence[str] = ()
    address: str = "127.0.0.1"
    dashboard: int = 0
    gcs: int = 0
    folder: str = ""
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        url = f"http://{self.address}:{self.dashboard}"
        # The number of threads is that of the CPUs that Ray assigns.
        mine = {"PATH": path, "RAY_API_SERVER_ADDRESS": url, "PYTHON": sys.executable}
        return {**os.environ, **mine, "RAY_TMPDIR": self.folder, "RAY_AUTH_MODE": "disabled"}

    def start(self, *command: object, prefix: Sequence[str] = ()) -> None:
        """Starts a command that does not end."""
        process = subprocess.Popen(
            [*(prefix or self.prefix), *map(str, command)],
            env=self.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.started.append(process)

    def popen(self, *command: object, cwd: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.prefix, *map(str, command)],
            env=self.environment(),
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def submit(self, cwd: Path, config: Path, *arguments: object) -> tuple[int, str]:
        """Returns exit code and output of a submission."""
        process = self.popen(LAUNCH / "submit.sh", config, *arguments, cwd=cwd)
        output, _ = process.communicate(timeout=240)
        return process.returncode, output

    def end(self) -> None:
        for process in self.started:
            os.killpg(process.pid, signal.SIGTERM)
        for process in self.started:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(5)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(is_there: Callable[[], bool], what: str, timeout_s: float = 90.0) -> None:
    end = time.monotonic() + timeout_s
    while not is_there():
        assert time.monotonic() < end, f"no {what} in {timeout_s:.0f} s"
        time.sleep(0.5)


def succeeds(machine: Machine, *command: str) -> bool:
    process = machine.popen(*command, cwd=Path("/"))
    process.communicate(timeout=60)
    return process.returncode == 0


@contextmanager
def cluster(machine: Machine, *options: str) -> Iterator[Machine]:
    """A head node with a dashboard, by the script for bare hosts."""
    with tempfile.TemporaryDirectory(prefix="dp-", ignore_cleanup_errors=True) as folder:
        machine.folder = folder
        machine.gcs, machine.dashboard = free_port(), free_port()
        ports = [f"--port={machine.gcs}", f"--dashboard-port={machine.dashboard}"]
        agents = [
            f"--{name}={free_port()}"
            for name in ("dashboard-agent-listen-port", "ray-client-server-port")
        ]
        host = [f"--node-ip-address={machine.address}", f"--dashboard-host={machine.address}"]
        store = ["--object-store-memory=200000000", "--block"]
        try:
            machine.start(
                LAUNCH / "node.sh", "head", "--", *ports, *agents, *host, *store, *options
            )
            wait_for(lambda: succeeds(machine, "ray", "job", "list"), "dashboard")
            yield machine
        finally:
            machine.end()


@pytest.fixture(scope="module")
def one_host() -> Iterator[Machine]:
    with cluster(Machine(), "--num-cpus=2") as machine:
        yield machine


def test_the_demo_is_submitted_and_its_report_is_fetched(one_host: Machine, tmp_path: Path) -> None:
    code, output = one_host.submit(tmp_path, LOCAL, "--", *RUN)
    assert code == 0, output
    (report,) = tmp_path.glob("runs/pose-*/report.json")
    assert f"report: {report}" in output
    assert json.loads(report.read_text())["complete"]
    assert "COCO keypoint AP, 6 images" in output


def test_results_behind_a_uri_are_fetched(one_host: Machine, tmp_path: Path) -> None:
    config = tmp_path / "oracle.yaml"
    config.write_text("backend: oracle\n")
    far = (tmp_path / "far").as_uri()
    code, output = one_host.submit(tmp_path, config, far)
    assert code == 0, output
    (report,) = tmp_path.glob("runs/pose-*/report.json")
    assert report.read_bytes() == (tmp_path / "far" / "report.json").read_bytes()


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("batch_size: none\n", 2, "batch_size"),
        ("data: {images: /nowhere, annotations: /nowhere.json}\n", 3, "/nowhere is not a folder"),
    ],
)
def test_a_job_that_cannot_start_ends_with_its_own_exit_code(
    one_host: Machine, tmp_path: Path, text: str, code: int, message: str
) -> None:
    config = tmp_path / "wrong.yaml"
    config.write_text(text)
    found, output = one_host.submit(tmp_path, config)
    assert (found, message in output) == (code, True), output


def test_credentials_are_in_no_list_of_jobs(one_host: Machine, tmp_path: Path) -> None:
    secret = "s3cr3t0ftests"
    keys = [f"data.images=gs://user:{secret}@bucket/a b", "data.annotations=x"]
    options = [word for key in keys for word in ("--set", key)]
    output = f"gs://user:{secret}@bucket/run"
    code, output = one_host.submit(tmp_path, LOCAL, output, "--", *options)
    assert code == 3
    assert "cannot open gs://***@bucket/a%20b: " in output
    listed, _ = one_host.popen("ray", "job", "list", cwd=tmp_path).communicate(timeout=60)
    assert "evaluate" in listed
    assert secret not in output + listed


def test_a_run_that_fails_ends_with_exit_code_4(
    one_host: Machine, tmp_path: Path, people: Dataset
) -> None:
    (tmp_path / "none").mkdir()
    config = tmp_path / "empty.yaml"
    config.write_text(
        f"data: {{images: {tmp_path / 'none'}, annotations: {people.annotations}}}\n"
        "backend: oracle\n"
    )
    code, output = one_host.submit(tmp_path, config)
    assert code == 4, output
    assert "try the failed images again" in output


def test_a_stopped_job_does_not_exit_with_0(one_host: Machine, tmp_path: Path) -> None:
    config = tmp_path / "long.yaml"
    config.write_text("backend: simulated\nsimulated: {rate: 1.0}\ndata: {repeat: 100}\n")
    process = one_host.popen(LAUNCH / "submit.sh", config, cwd=tmp_path)
    assert process.stdout is not None
    wait_for(lambda: any(tmp_path.glob("runs/*/ledger/*")), "first result")
    (folder,) = tmp_path.glob("runs/pose-*")
    stop = one_host.popen("ray", "job", "stop", folder.name, cwd=tmp_path)
    stop.communicate(timeout=60)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 4, output
    assert "was stopped" in output or "failed" in output


def test_without_a_cluster_nothing_is_submitted(tmp_path: Path) -> None:
    machine = Machine(dashboard=free_port(), folder=str(tmp_path))
    code, output = machine.submit(tmp_path, LOCAL)
    assert code == 3
    assert "is there a cluster at" in output


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)


@contextmanager
def two_networks() -> Iterator[tuple[Machine, Machine]]:
    """Two connected network namespaces.

    Raises:
        OSError: if the command is not installed.
        subprocess.CalledProcessError: if the kernel does not allow it.
    """
    names = [f"dp-{os.getpid()}-{end}" for end in "ab"]
    with ExitStack() as stack:
        for name in names:
            ip("netns", "add", name)
            stack.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
        ip(
            "link",
            "add",
            "dpa",
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "dpb",
            "netns",
            names[1],
        )
        for name, end, address in zip(names, ("dpa", "dpb"), (HEAD, OTHER), strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
            for device in (end, "lo"):
                ip("-n", name, "link", "set", device, "up")
        machines = [
            Machine(("ip", "netns", "exec", name), address)
            for name, address in zip(names, (HEAD, OTHER), strict=True)
        ]
        yield machines[0], machines[1]


@contextmanager
def two_hosts() -> Iterator[Machine]:
    """A cluster of two nodes, of which the second does not see the demo's images."""
    with ExitStack() as stack:
        try:
            head, other = stack.enter_context(two_networks())
        except (OSError, subprocess.CalledProcessError):
            # Without namespaces, both nodes have one address and one disk.
            head, other = Machine(), Machine()
        stack.enter_context(cluster(head, "--num-cpus=1"))
        other.folder, other.gcs, other.dashboard = head.folder, head.gcs, head.dashboard
        stack.callback(other.end)
        node = [
            *(LAUNCH / "node.sh", f"{head.address}:{head.gcs}", "--"),
            *(f"--node-ip-address={other.address}", "--num-cpus=1", "--block"),
            *("--object-store-memory=200000000", f"--dashboard-agent-listen-port={free_port()}"),
        ]
        images = Path(platformdirs.user_cache_dir("distributed_pose")) / "demo"
        if other.prefix:
            images.mkdir(parents=True, exist_ok=True)
            hidden = f'mount -t tmpfs none "{images}" && exec "$@"'
            node = ["unshare", "--mount", "bash", "-c", hidden, "-", *node]
        other.start(*node)
        wait_for(lambda: nodes(head) == 2, "second node")
        yield head


def nodes(machine: Machine) -> int:
    process = machine.popen(
        "ray", "status", "--address", f"{machine.address}:{machine.gcs}", cwd=Path("/")
    )
    output, _ = process.communicate(timeout=60)
    return output.partition("Pending")[0].count(" node_")


def test_two_machines_give_the_inline_detections_without_a_shared_disk(tmp_path: Path) -> None:
    config = load_config(LOCAL, [*RUN[1::2], "engine=inline"])
    evaluate(config, tmp_path / "inline")
    with two_hosts() as head:
        code, output = head.submit(tmp_path, LOCAL, tmp_path / "two", "--", *RUN)
    assert code == 0, output
    expected = (tmp_path / "inline" / "detections.json").read_bytes()
    assert (tmp_path / "two" / "detections.json").read_bytes() == expected
    devices = json.loads((tmp_path / "two" / "report.json").read_text())["devices"]
    assert [device["name"] for device in devices] == ["cpu:0", "cpu:1"]
    assert all(device["images"] > 0 for device in devices)
    if head.prefix:
        assert [device["node"] for device in devices] == [HEAD, OTHER]

"""The batch script on a Slurm of two nodes, both on this machine."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.conftest import Dataset

NODES = ("first", "second")
SCRIPT = Path(__file__).parents[2] / "launch" / "slurm.sbatch"
TOOLS = ("slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "sinfo")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not all(map(shutil.which, TOOLS)) or os.geteuid() != 0,
        reason="needs root, and slurmctld, slurmd and slurm-client",
    ),
]

CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
NodeName=first NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=second NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=main Nodes=first,second Default=YES MaxTime=30 State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """A cluster of two nodes.

    Attributes:
        folder: folder of its files and of those of jobs.
        environment: environment variables with which its commands reach it.
    """

    folder: Path
    environment: dict[str, str]

    def command(self, *words: object) -> str:
        done = subprocess.run(
            list(map(str, words)),
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stdout.strip()

    def submit(self, config: Path, output: Path) -> str:
        """Returns the id of a job on both nodes."""
        options = ["--parsable", "--nodes=2", "--cpus-per-task=2", "--output=%j.log"]
        return self.command("sbatch", *options, SCRIPT, config, output)

    def finish(self, job: str) -> tuple[str, str]:
        """Returns exit code and log of a job, once it has ended."""
        # The queue also lists a job whose processes are ending, and one that waits for its nodes.
        deadline_at = time.monotonic() + 400
        while job in self.command("squeue", "--noheader", "--format=%i").split():
            assert time.monotonic() < deadline_at
            time.sleep(1)
        facts = self.command("scontrol", "--oneliner", "show", "job", job)
        words = dict(word.partition("=")[::2] for word in facts.split())
        return words["ExitCode"], (self.folder / f"{job}.log").read_text()


def free_ports(number: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@contextmanager
def daemons(environment: dict[str, str]) -> Iterator[None]:
    commands = [["slurmctld", "-D"], *(["slurmd", "-D", "-N", name] for name in NODES)]
    started = [
        subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for command in commands
    ]
    try:
        yield
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="dp-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        conf = folder / "slurm.conf"
        ports, host = free_ports(3), socket.gethostname().partition(".")[0]
        conf.write_text(CONF.format(folder=folder, host=host, ports=ports))
        (folder / "state").mkdir()
        environment = {
            **os.environ,
            "SLURM_CONF": str(conf),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_TMPDIR": temporary,
            "RAY_AUTH_MODE": "disabled",
        }
        cluster = Slurm(folder, environment)
        with daemons(environment):
            for _ in range(60):
                time.sleep(1)
                state = subprocess.run(
                    ["sinfo", "--noheader", "--format=%D %t"],
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=False,
                ).stdout
                if state.strip() == "2 idle":
                    break
            else:
                pytest.skip(f"no Slurm of two nodes starts here: {state}")
            yield cluster


def write_config(folder: Path, people: Dataset, **keys: object) -> Path:
    data = {"images": str(people.images), "annotations": str(people.annotations)}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"backend": "oracle", "gather": "poses", "data": data, **keys}))
    return path


def test_a_job_evaluates_on_both_nodes(slurm: Slurm, tmp_path: Path, people: Dataset) -> None:
    config = write_config(tmp_path, people, batch_size=2)
    code, log = slurm.finish(slurm.submit(config, tmp_path / "run"))
    assert code == "0:0", log
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["complete"]
    assert [device["name"] for device in report["devices"]] == ["cpu:0", "cpu:1"]


@pytest.mark.parametrize("options", [["--signal=TERM", "--batch"], []])
def test_a_job_that_is_cut_short_reports_its_results_and_the_command_that_resumes_it(
    slurm: Slurm, tmp_path: Path, crowd: Dataset, options: list[str]
) -> None:
    config = write_config(
        tmp_path, crowd, backend="simulated", simulated={"rate": 4.0}, batch_size=2
    )
    job = slurm.submit(config, tmp_path / "run")
    end_at = time.monotonic() + 300
    while len([*tmp_path.glob("run/ledger/*.arrow")]) < 3:
        assert time.monotonic() < end_at
        time.sleep(0.5)
    slurm.command("scancel", *options, job)
    code, log = slurm.finish(job)
    assert code == "4:0", log
    # Without --batch, Slurm ends Ray together with the command.
    assert "error: stopped, " in log or "error: the process ended by SIGTERM; " in log
    assert "resume with: " in log
    assert not json.loads((tmp_path / "run" / "report.json").read_text())["complete"]

"""The shipped scripts, manifests and configurations are valid and run our commands."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from typer.main import get_command

from distributed_pose import load_config, parse_config
from distributed_pose.cli.main import app
from distributed_pose.config.selection import select

REPOSITORY = Path(__file__).parents[2]
LAUNCH = REPOSITORY / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
DOCKERFILE = LAUNCH / "Dockerfile"
# The target of the Dockerfile that makes the image of each manifest.
TARGETS = {"kuberay-gpu.yaml": "gpu", "kuberay-npu.yaml": "ascend"}
MANIFESTS = sorted(LAUNCH.glob("kuberay-*.yaml"))
CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))


def name(path: Path) -> str:
    return path.name


def run(*command: object, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, timeout=60, **settings
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_scripts_pass_shellcheck(script: Path) -> None:
    answer = run(Path(sys.executable).parent / "shellcheck", "--severity=style", script)
    assert answer.returncode == 0, answer.stdout
    assert script.read_text().startswith("#!/usr/bin/env bash\n# ")


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("submit.sh", [], "usage: launch/submit.sh CONFIG.yaml"),
        ("submit.sh", ["--help"], "usage: launch/submit.sh CONFIG.yaml"),
        ("submit.sh", ["nowhere.yaml"], "cannot read nowhere.yaml"),
        ("submit.sh", ["/dev/zero"], "cannot read /dev/zero: it must be a regular file"),
        ("node.sh", [], "usage: launch/node.sh head"),
        ("node.sh", ["--head"], "usage: launch/node.sh head"),
    ],
)
def test_wrong_usage_exits_with_2_and_a_message(
    script: str, arguments: list[str], message: str
) -> None:
    answer = run("bash", LAUNCH / script, *arguments)
    assert answer.returncode == 2
    assert message in answer.stderr


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A folder of commands in which `ray` records its arguments and its authentication mode."""
    command(
        tmp_path,
        "ray",
        'echo "${RAY_AUTH_MODE-no} $@" >> "$HOME/called"',
        'case "$1" in',
        '  get-auth-token) [[ -e $HOME/token || $2 == --generate ]] && touch "$HOME/token";;',
        '  status) for n in $(seq "${NODES-0}"); do echo " 1 node_$n"; done;;',
        '  start) [[ -z ${RAY_FAILS-} ]] || { echo "port is taken" >&2; exit 1; }',
        "    [[ $* != *--block* ]] || exec sleep 5 >/dev/null 2>&1;;",
        "esac",
    )
    return tmp_path


def command(folder: Path, command_name: str, *lines: str) -> None:
    file = folder / command_name
    file.write_text("\n".join(["#!/usr/bin/env bash", *lines]) + "\n")
    file.chmod(0o755)


def on(host: Path, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{host}:/usr/bin:/bin", "HOME": str(host), **variables}
    return run("bash", *words, env=environment, cwd=host)


def calls(host: Path) -> list[str]:
    return (host / "called").read_text().splitlines()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["head"], "token start --head"),
        (["head", "310P3"], "token start --head --labels soc=310P3"),
        (["10.0.0.1:6379", "310"], "no start --address=10.0.0.1:6379 --labels soc=310"),
        (["head", "--", "--num-cpus=3"], "token start --head --num-cpus=3"),
    ],
)
def test_a_bare_host_labels_its_chip_for_ray_and_a_head_requires_a_token(
    host: Path, arguments: list[str], expected: str
) -> None:
    answer = on(host, LAUNCH / "node.sh", *arguments)
    assert answer.returncode == 0, answer.stderr
    assert calls(host)[-1] == expected


def test_a_joining_host_shows_its_token_or_reports_that_it_has_none(
    host: Path,
) -> None:
    assert "copy its ~/.ray/auth_token" in on(host, LAUNCH / "node.sh", "10.0.0.1:6379").stderr
    (host / "token").touch()
    assert on(host, LAUNCH / "node.sh", "10.0.0.1:6379").stderr == ""
    assert calls(host)[-1] == "token start --address=10.0.0.1:6379"


def test_the_users_authentication_mode_is_kept(host: Path) -> None:
    on(host, LAUNCH / "node.sh", "head", RAY_AUTH_MODE="disabled")
    assert calls(host) == ["disabled start --head"]


def slurm(host: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the batch script on a fake Slurm of two nodes that runs everything on this machine."""
    command(host, "scontrol", "echo first; echo second")
    command(
        host,
        "srun",
        "while [[ $1 == -* ]]; do shift; done; [[ $1 != hostname ]] || { echo 10.0.0.1; exit; }",
        'echo "cpus=${SRUN_CPUS_PER_TASK-}" >> "$HOME/called"; exec "$@"',
    )
    command(host, "distributed-pose", 'echo "$RAY_ADDRESS $RAY_AUTH_MODE $*" >> "$HOME/ran"')
    settings = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "4",
        "START_TIMEOUT_S": "1",
    }
    return on(host, LAUNCH / "slurm.sbatch", "c.yaml", "out", **{**settings, **variables})


def test_a_slurm_job_evaluates_on_its_cluster_with_a_token_and_its_cpus(host: Path) -> None:
    answer = slurm(host, NODES="2")
    assert answer.returncode == 0, answer.stderr
    assert (host / "ran").read_text() == (
        "10.0.0.1:20007 token evaluate --config c.yaml --output out\n"
    )
    started = [line for line in calls(host) if line.startswith("token start")]
    assert len(started) == 2
    assert all("--num-cpus=4" in line for line in started)
    assert "cpus=4" in calls(host)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"NODES": "0"}, "1 nodes have not joined after 1 s"),
        ({"NODES": "1"}, "2 nodes have not joined after 1 s"),
        ({"NODES": "0", "RAY_FAILS": "yes", "START_TIMEOUT_S": "60"}, "a Ray process ended"),
    ],
)
def test_a_slurm_job_whose_cluster_does_not_start_ends_with_the_reason(
    host: Path, variables: dict[str, str], message: str
) -> None:
    answer = slurm(host, **variables)
    assert answer.returncode == 3
    assert message in answer.stderr
    assert ("port is taken" in answer.stderr) is ("RAY_FAILS" in variables)
    assert not (host / "ran").exists()


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_configurations_are_valid(path: Path) -> None:
    config = load_config(path)
    select(config)


def parts(manifest: Path) -> dict[str, Any]:
    return {part["kind"]: part for part in yaml.safe_load_all(manifest.read_text())}


def pods(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]["spec"]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=name)
def test_a_manifest_runs_a_command_and_a_configuration_of_ours(manifest: Path) -> None:
    found = parts(manifest)
    job, mapped = found["RayJob"], found["ConfigMap"]
    assert job["apiVersion"] == "ray.io/v1"
    python, module, package, command, *options = shlex.split(job["spec"]["entrypoint"])
    assert (python, module, package) == ("python", "-m", "distributed_pose")
    context = get_command(app).commands[command].make_context(command, options)  # type: ignore[attr-defined]
    config = parse_config(yaml.safe_load(mapped["data"]["config.yaml"]))
    select(config)
    head = next(pods(job))
    (mount,) = (m for m in head["containers"][0]["volumeMounts"] if m["name"] == "config")
    assert context.params["config"] == Path(mount["mountPath"]) / "config.yaml"
    assert {"config": job["metadata"]["name"]} == {
        volume["name"]: volume["configMap"]["name"]
        for volume in head["volumes"]
        if "configMap" in volume
    }
    assert mapped["metadata"]["name"] == job["metadata"]["name"]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=name)
def test_the_pods_of_a_manifest_mount_their_volumes_data_and_shared_memory(
    manifest: Path,
) -> None:
    for pod in pods(parts(manifest)["RayJob"]):
        (container,) = pod["containers"]
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounted.keys() == {volume["name"] for volume in pod["volumes"]}
        assert (mounted["data"], mounted["shm"]) == ("/data", "/dev/shm")
        # Devices and cores are whole: requests equal limits.
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_the_npu_manifest_gives_ray_as_many_npus_as_the_pod_has() -> None:
    job = parts(LAUNCH / "kuberay-npu.yaml")["RayJob"]
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert group["resources"] == {"CPU": limits["cpu"], "NPU": limits["huawei.com/Ascend310P"]}
    assert group["labels"] == {"soc": "310P3"}
    assert all(isinstance(value, str) for value in json.loads(json.dumps(limits)).values())


def version() -> str:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def stages() -> dict[str, str]:
    """Returns the base image of each stage of the Dockerfile, by the name of the stage."""
    found = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", DOCKERFILE.read_text(), re.MULTILINE)
    return {name or "last": base for base, name in found}


def test_the_dockerfile_passes_hadolint() -> None:
    answer = run(Path(sys.executable).parent / "hadolint", "--no-color", DOCKERFILE)
    assert answer.returncode == 0, answer.stdout


def test_the_dockerfile_has_a_base_with_a_pinned_tag_for_each_target() -> None:
    found = stages()
    assert found.pop("last") == "base-${TARGET}"
    assert found.keys() == {
        f"base-{target}" for target in ("cpu", "gpu", "tensorrt", "cann", "ascend")
    }
    for base in found.values():
        assert base in found or re.search(r":\d+\.\d+\.\d+-", base)


def test_the_image_runs_without_root_and_is_checked_by_doctor() -> None:
    last = DOCKERFILE.read_text().rpartition("FROM ")[2]
    assert re.search(r"^USER 1000:1000$", last, re.MULTILINE)
    assert re.search(r'^HEALTHCHECK .*CMD \["distributed-pose", "doctor"\]$', last, re.MULTILINE)
    assert last.index("USER 1000") < last.index("ENTRYPOINT")


def test_the_dockerignore_admits_every_file_that_the_image_copies() -> None:
    ignored = (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE):
        assert {f"!{source}" for source in line.split()} <= set(ignored)


@pytest.mark.parametrize("manifest", MANIFESTS, ids=name)
def test_a_manifest_names_the_image_of_its_target(manifest: Path) -> None:
    target = TARGETS[manifest.name]
    assert f"base-{target}" in stages()
    for pod in pods(parts(manifest)["RayJob"]):
        (container,) = pod["containers"]
        assert container["image"] == f"distributed-pose:{version()}-{target}"
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
        }


@pytest.mark.parametrize("manifest", MANIFESTS, ids=name)
def test_a_manifest_fits_the_schemas_of_kubernetes(manifest: Path) -> None:
    found = parts(manifest)
    job = found["RayJob"]
    cluster = job["spec"]["rayClusterSpec"]
    templates = [group["template"] for group in cluster["workerGroupSpecs"]]
    for template in (cluster["headGroupSpec"]["template"], *templates):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}
        kubernetes_validate.validate(pod, "1.37", strict=True)
    kubernetes_validate.validate(found["ConfigMap"], "1.37", strict=True)


@pytest.mark.parametrize("manifest", MANIFESTS, ids=name)
def test_a_manifest_names_the_version_of_ray_in_the_image(manifest: Path) -> None:
    pinned = re.search(r"^ray==(\S+)", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    cluster = parts(manifest)["RayJob"]["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == pinned[1]


def test_workers_with_gpus_have_nvidias_runtime_and_those_with_npus_the_hosts_driver() -> None:
    _, gpus = pods(parts(LAUNCH / "kuberay-gpu.yaml")["RayJob"])
    assert gpus["runtimeClassName"] == "nvidia"
    _, npus = pods(parts(LAUNCH / "kuberay-npu.yaml")["RayJob"])
    hosts = {volume["hostPath"]["path"] for volume in npus["volumes"] if "hostPath" in volume}
    assert hosts == {
        "/usr/local/Ascend/driver",
        "/usr/local/dcmi",
        "/usr/local/bin/npu-smi",
        "/etc/ascend_install.info",
    }
    (container,) = npus["containers"]
    mounts = {m["mountPath"] for m in container["volumeMounts"] if m.get("readOnly")}
    assert mounts == hosts

"""Scripts, manifests and configurations that ship beside the package."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from distributed_pose import load_config, parse_config
from distributed_pose.cli import app
from distributed_pose.cluster.deployment import check_backends

REPOSITORY = Path(__file__).parents[2]
LAUNCH = REPOSITORY / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
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
    ("script", "arguments", "told"),
    [
        ("submit.sh", [], "usage: launch/submit.sh CONFIG.yaml"),
        ("submit.sh", ["--help"], "usage: launch/submit.sh CONFIG.yaml"),
        ("submit.sh", ["nowhere.yaml"], "cannot read nowhere.yaml"),
        ("submit.sh", ["/dev/zero"], "cannot read /dev/zero: it must be a regular file"),
        ("node.sh", [], "usage: launch/node.sh head"),
        ("node.sh", ["--head"], "usage: launch/node.sh head"),
    ],
)
def test_wrong_usage_is_told_with_exit_code_2(script: str, arguments: list[str], told: str) -> None:
    answer = run("bash", LAUNCH / script, *arguments)
    assert answer.returncode == 2
    assert told in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["head"], "start --head"),
        (["head", "310P3"], "start --head --labels soc=310P3"),
        (["10.0.0.1:6379", "310"], "start --address=10.0.0.1:6379 --labels soc=310"),
        (["head", "--", "--num-cpus=3"], "start --head --num-cpus=3"),
    ],
)
def test_a_bare_host_tells_ray_its_chip(
    tmp_path: Path, arguments: list[str], expected: str
) -> None:
    (tmp_path / "ray").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "ray").chmod(0o755)
    told = run("bash", LAUNCH / "node.sh", *arguments, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert told.stdout.strip() == expected


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_configurations_are_valid(path: Path) -> None:
    config = load_config(path)
    check_backends(config)


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
    check_backends(config)
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
def test_a_manifests_pods_mount_what_they_have_and_see_data_and_shared_memory(
    manifest: Path,
) -> None:
    for pod in pods(parts(manifest)["RayJob"]):
        (container,) = pod["containers"]
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounted.keys() == {volume["name"] for volume in pod["volumes"]}
        assert (mounted["data"], mounted["shm"]) == ("/data", "/dev/shm")
        # Whole devices and cores: what is asked for is what there is.
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_the_npu_manifest_tells_ray_as_many_npus_as_the_pod_has() -> None:
    job = parts(LAUNCH / "kuberay-npu.yaml")["RayJob"]
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert group["resources"] == {"CPU": limits["cpu"], "NPU": limits["huawei.com/Ascend310P"]}
    assert group["labels"] == {"soc": "310P3"}
    assert all(isinstance(value, str) for value in json.loads(json.dumps(limits)).values())

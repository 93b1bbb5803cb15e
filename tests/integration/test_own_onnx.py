"""ONNX models as their exporters write them, from the command to the maps."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import ray
from onnxruntime.transformers.float16 import convert_float_to_float16
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distributed_pose import RunConfig, SetupError
from distributed_pose.evaluation import evaluate, evaluate_on, open_engine
from distributed_pose.run.inputs import read_inputs
from tests.conftest import Dataset, Run
from tests.tiny_models import save_constant_model, save_external_model

RIGHT, WRONG = 0.25, 0.5


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model with its weights in a file beside it."""
    return save_external_model(tmp_path / "right" / "model.onnx", RIGHT)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The same graph with other weights, under the same names in another folder."""
    return save_external_model(tmp_path / "wrong" / "model.onnx", WRONG)


def config(people: Dataset, model: Path, **values: object) -> RunConfig:
    return people.config(backend="onnxruntime", model={"path": model}, **values)


def values_of(maps: Path) -> set[float]:
    """Returns the first value of each of the maps that were dumped."""
    return {float(np.fromfile(path, np.float32, 1)[0]) for path in maps.glob("*.bin")}


def test_the_weights_beside_the_model_are_used_from_every_working_directory(
    people: Dataset, model: Path, other: Path, run: Run, tmp_path: Path
) -> None:
    keys = {"data.images": people.images, "data.annotations": people.annotations}
    options = [f"--set={key}={value}" for key, value in keys.items()]
    seen = set()
    for number, folder in enumerate((tmp_path, other.parent, model.parent)):
        os.chdir(folder)
        named = model.relative_to(folder) if model.is_relative_to(folder) else model
        maps, output = tmp_path / f"maps{number}", tmp_path / f"run{number}"
        code, _, err = run(
            "evaluate",
            *options,
            f"--set=model.path={named}",
            "--set=backend=onnxruntime",
            "--set=engine=inline",
            f"--dump-maps={maps}",
            f"--output={output}",
        )
        assert (code, values_of(maps)) == (0, {RIGHT}), err
        seen.add(json.loads((output / "report.json").read_text())["model"]["sha256"])
    assert len(seen) == 1


def test_a_run_is_not_resumed_with_other_weights(
    people: Dataset, model: Path, other: Path, tmp_path: Path
) -> None:
    evaluate(config(people, model), tmp_path / "run")
    graph = model.read_bytes()
    shutil.copy(other.with_name("model.onnx.data"), model.with_name("model.onnx.data"))
    assert model.read_bytes() == graph
    with pytest.raises(SetupError, match="another run: model is"):
        evaluate(config(people, model), tmp_path / "run")


def test_missing_weights_are_reported_before_a_device_starts(people: Dataset, model: Path) -> None:
    model.with_name("model.onnx.data").unlink()
    with pytest.raises(
        SetupError, match=r"right/model\.onnx\.data, which cannot be read"
    ) as caught:
        evaluate(config(people, model))
    assert caught.value.device is None


def fixed(path: Path, height: int, width: int) -> Path:
    content = onnx.load(save_constant_model(path, RIGHT))
    dims = content.graph.input[0].type.tensor_type.shape.dim
    dims[2].dim_value, dims[3].dim_value = height, width
    onnx.save(content, path)
    return path


def test_a_fixed_size_of_the_model_is_that_of_its_inputs(
    people: Dataset, run: Run, tmp_path: Path
) -> None:
    model = fixed(tmp_path / "M.onnx", 256, 456)
    report = evaluate(people.config(model={"path": model}, backend="onnxruntime"))
    assert (report.input, report.complete) == ("256x456", True)
    code, out, _ = run("compile", "M.onnx", "--for", "ascend310", "--dry-run")
    assert code == 0
    assert "data:1,3,256,456" in out


@pytest.mark.parametrize(
    ("command", "profile"),
    [
        (("evaluate", "--set=engine=inline"), "modelzoo"),
        (("evaluate",), "upstream"),
        (("bench", "device", "--set=engine=inline"), "uint8"),
        (("compile", "M.onnx", "--for", "onnxruntime"), "modelzoo"),
        (("compile", "M.onnx", "--for", "ascend310", "--dry-run"), "modelzoo"),
    ],
)
def test_a_fixed_size_other_than_the_profiles_is_refused_before_a_device_starts(
    people: Dataset, run: Run, tmp_path: Path, command: tuple[str, ...], profile: str
) -> None:
    fixed(tmp_path / "M.onnx", 256, 456)
    keys = {
        "data.images": people.images,
        "data.annotations": people.annotations,
        "model.path": "M.onnx",
        "backend": "onnxruntime",
    }
    if profile != "upstream":
        command = (*command, "--set=input=368x640")
    settings = [f"--set={key}={value}" for key, value in keys.items()]
    chosen = [f"--set=profile={profile}"] if command[0] != "compile" else []
    code, _, err = run(*command, *(settings if command[0] != "compile" else ()), *chosen)
    message = " ".join(err.split())
    assert code == 3
    assert "M.onnx takes inputs of 256x456 (height x width)" in message
    assert (
        f"profile {profile} makes {'368 by any width' if profile == 'upstream' else '368x640'}"
        in message
    )
    assert "[device" not in message
    assert not ray.is_initialized()


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("profile", ["modelzoo", "upstream", "uint8"])
def test_a_model_of_half_precision_inputs_runs_with_every_profile(
    people: Dataset, tmp_path: Path, backend: str, profile: str
) -> None:
    half = convert_float_to_float16(onnx.load(save_constant_model(tmp_path / "m.onnx", RIGHT)))
    onnx.save(half, tmp_path / "m.onnx")
    values = {"backend": backend, "profile": profile, "dump_maps": tmp_path / "maps"}
    evaluate(people.config(model={"path": tmp_path / "m.onnx"}, **values))
    assert values_of(tmp_path / "maps") == {RIGHT}


NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


@contextmanager
def a_node_that_sees(other: Path, at: Path, cluster: Cluster) -> Iterator[None]:
    """Adds a node to a cluster that sees the files of another folder in place of one."""
    start = (
        *(Path(sys.executable).with_name("ray"), "start", f"--address={cluster.address}"),
        *("--num-cpus=1", "--object-store-memory=100000000", "--block"),
    )
    mounted = f'mount --bind "{other}" "{at}" && exec "$@"'
    command = ["unshare", "--mount", "bash", "-c", mounted, "-", *map(str, start)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as node:
        try:
            deadline = time.monotonic() + 60
            while len([n for n in ray.nodes() if n["Alive"]]) < 2:
                if node.poll() is not None or time.monotonic() > deadline:
                    pytest.skip("needs the right to mount a folder in a namespace")
                time.sleep(0.2)
            yield
        finally:
            node.terminate()


def contents_by_node(path: Path) -> set[bytes]:
    """Returns what each node of the cluster reads from a path."""
    read: Any = ray.remote(num_cpus=0)(lambda file: file.read_bytes())
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    return set(ray.get([read.options(scheduling_strategy=place).remote(path) for place in places]))


@pytest.mark.slow
def test_a_node_with_other_weights_at_that_path_runs_those_of_the_driver(
    people: Dataset, model: Path, other: Path, tmp_path: Path
) -> None:
    weights = model.with_name("model.onnx.data")
    both = {weights.read_bytes(), other.with_name(weights.name).read_bytes()}
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        with a_node_that_sees(other.parent, model.parent, cluster):
            assert contents_by_node(weights) == both
            values = {"engine": "ray", "batch_size": 1, "dump_maps": tmp_path / "maps"}
            report = evaluate(config(people, model, **values))
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert [device.name for device in report.devices] == ["cpu:0", "cpu:1"]
    assert all(device.images for device in report.devices)
    assert values_of(tmp_path / "maps") == {RIGHT}


def test_the_files_may_be_deleted_after_they_are_read(
    people: Dataset, model: Path, tmp_path: Path
) -> None:
    settings = config(people, model, dump_maps=tmp_path / "maps")
    inputs = read_inputs(settings)
    shutil.rmtree(model.parent)
    assert evaluate_on(open_engine(settings), settings, inputs).complete
    assert values_of(tmp_path / "maps") == {RIGHT}


def test_a_fixed_height_is_refused_where_a_scale_makes_inputs_of_another(
    people: Dataset, tmp_path: Path
) -> None:
    model = save_constant_model(tmp_path / "M.onnx", RIGHT)
    content = onnx.load(model)
    content.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 368
    onnx.save(content, model)
    values = {"model": {"path": model}, "backend": "onnxruntime", "profile": "upstream"}
    assert read_inputs(people.config(**values, scales=[0.5])).selection.scales == (0.5,)
    with pytest.raises(SetupError, match=r"takes inputs of 368x\?.*makes 736 by any width"):
        read_inputs(people.config(**values, scales=[1, 2], gather="poses"))

"""Shipped configurations run on Ray, and errors of its actors are one line."""

import math
from pathlib import Path

import numpy as np
import pytest

from distributed_pose import SetupError, load_config
from distributed_pose.evaluation import evaluate
from tests.conftest import Dataset
from tests.tiny_models import save_constant_model

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_runs(people: Dataset, tmp_path: Path, path: Path) -> None:
    model = save_constant_model(tmp_path / "silent.onnx")
    keys = {"data.images": people.images, "data.annotations": people.annotations}
    values = {**keys, "model.path": model, "data.limit": 4}
    if load_config(path).devices[0].startswith(("cuda", "npu")):
        # A configuration for cards is run on the CPU, with its other settings.
        values |= {"devices": "cpu", "precision": "auto"}
    report = evaluate(load_config(path, [f"{key}={value}" for key, value in values.items()]))
    assert report.complete


@pytest.mark.usefixtures("local_ray")
def test_a_model_that_answers_nonsense_is_a_setup_error_that_names_the_device(
    people: Dataset, tmp_path: Path
) -> None:
    model = save_constant_model(tmp_path / "nan.onnx", value=math.nan)
    config = people.config(engine="ray", backend="onnxruntime", model={"path": model})
    with pytest.raises(SetupError, match=r"device cpu:0.*not finite"):
        evaluate(config)


@pytest.mark.usefixtures("local_ray")
def test_a_model_that_a_device_cannot_use_is_a_setup_error_that_names_it(
    people: Dataset, tmp_path: Path
) -> None:
    model = save_constant_model(tmp_path / "other.onnx", np.nan)
    config = people.config(engine="ray", backend="onnxruntime", model={"path": model})
    with pytest.raises(SetupError, match=r"device cpu:0.*not finite"):
        evaluate(config)


@pytest.mark.usefixtures("local_ray")
def test_a_model_of_one_batch_size_runs_with_any(people: Dataset, tmp_path: Path) -> None:
    model = save_constant_model(tmp_path / "fixed.onnx", batch=2)
    config = people.config(engine="ray", backend="onnxruntime", model={"path": model}, batch_size=5)
    report = evaluate(config)
    assert report.complete
    assert [device.batch_size for device in report.devices] == [5]


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_several_scales_have_the_same_detections_on_ray(people: Dataset, tmp_path: Path) -> None:
    values = {"profile": "upstream", "scales": (0.5, 1.0, 1.25), "gather": "auto"}
    evaluate(people.config(**values), tmp_path / "inline")
    config = people.config(**values, engine="ray", devices="cpu:2", batch_size=2)
    report = evaluate(config, tmp_path / "ray")
    assert (report.gather, report.reducers, report.complete) == ("poses", 0, True)
    assert sum(device.images for device in report.devices) == 12
    inline, ray = (tmp_path / name / "detections.json" for name in ("inline", "ray"))
    assert ray.read_bytes() == inline.read_bytes()

"""Maps written by a run and replayed give its detections, byte for byte."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distributed_pose import ConfigError, ExecutionError, SetupError, parse_config
from distributed_pose.bench.device import bench_device
from distributed_pose.bench.pipeline import bench_pipeline
from distributed_pose.demo.default import WEIGHTS
from distributed_pose.engine.base import Workload
from distributed_pose.engine.inline import InlineEngine
from distributed_pose.evaluation import evaluate, evaluate_on
from distributed_pose.guide.postprocess import postprocess
from distributed_pose.records.shards import ShardResult
from distributed_pose.report.detections_json import detections_json
from distributed_pose.run.inputs import read_inputs
from tests.conftest import Dataset, Run
from tests.requirements import skip_without_bf16
from tests.result_folders import (
    oracle_outputs,
    with_first_stage,
    write_pads,
    write_results,
)


class StoppingEngine(InlineEngine):
    """An engine that is stopped after four shards."""

    def run(self, workload: Workload) -> Iterator[ShardResult]:
        for number, result in enumerate(super().run(workload)):
            if number == 4:
                raise ExecutionError("stopped")
            yield result


@pytest.fixture(scope="module")
def dumped(people: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The maps of a run with the oracle."""
    folder = tmp_path_factory.mktemp("dumped")
    evaluate(people.config(dump_maps=folder / "maps"), folder / "run")
    return folder / "maps"


@pytest.fixture
def maps(dumped: Path, tmp_path: Path) -> Path:
    """Maps that a test may damage."""
    return Path(shutil.copytree(dumped, tmp_path / "maps"))


@pytest.fixture(scope="module")
def expected(dumped: Path) -> bytes:
    return (dumped.parent / "run" / "detections.json").read_bytes()


def replay(dataset: Dataset, maps: Path, **values: Any) -> Any:
    return dataset.config(backend="recorded", model={"path": maps}, **values)


def detections(folder: Path) -> bytes:
    return (folder / "detections.json").read_bytes()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"maps_dtype": "f16"},
        {"profile": "upstream"},
        {"profile": "uint8", "gather": "poses"},
        {"devices": "cpu:2", "batch_size": 5, "maps_dtype": "f16", "gather": "poses"},
    ],
    ids=str,
)
def test_a_replay_gives_the_runs_detections_and_figures(
    people: Dataset, tmp_path: Path, values: dict[str, Any]
) -> None:
    first = evaluate(people.config(**values, dump_maps=tmp_path / "maps"), tmp_path / "first")
    again = evaluate(replay(people, tmp_path / "maps", **values), tmp_path / "again")
    assert detections(tmp_path / "again") == detections(tmp_path / "first")
    assert again.ap == first.ap
    assert (again.precision, again.profile, again.num_detections) == (
        *("f32", first.profile, first.num_detections),
    )


def test_a_replay_has_the_input_size_of_its_recording(people: Dataset, tmp_path: Path) -> None:
    first = evaluate(people.config(input="256x456", dump_maps=tmp_path / "maps"))
    again = evaluate(replay(people, tmp_path / "maps"))
    assert (again.input, again.ap) == ("256x456", first.ap)
    with pytest.raises(SetupError, match=r"input 256x456.*set input=256x456"):
        evaluate(replay(people, tmp_path / "maps", input="368x640"))


@pytest.mark.parametrize("precision", ["bf16", pytest.param("f32", marks=pytest.mark.slow)])
def test_a_replay_reports_the_precision_of_its_maps(
    people: Dataset, tmp_path: Path, precision: str
) -> None:
    if precision == "bf16":
        skip_without_bf16()
    values = {"backend": "openvino", "precision": precision, "model": {"path": WEIGHTS}}
    limit = {"data": {"limit": 2}}
    first = evaluate(
        people.config(**values, **limit, dump_maps=tmp_path / "maps"), tmp_path / "first"
    )
    again = evaluate(replay(people, tmp_path / "maps", **limit), tmp_path / "again")
    assert detections(tmp_path / "again") == detections(tmp_path / "first")
    assert first.num_detections > 0
    assert (again.ap, again.precision) == (first.ap, precision)


@pytest.mark.parametrize(
    ("network", "backend", "precision", "images"),
    [
        ("tf_pose_mobilenet_v2_small", "onnxruntime", "f32", 10),
        pytest.param("human_pose_estimation_0001", "openvino", "bf16", 50, marks=pytest.mark.slow),
        pytest.param("human_pose_estimation_0001", "openvino", "f32", 50, marks=pytest.mark.slow),
    ],
)
def test_real_images_replayed_give_the_detections_of_the_network(
    coco_mini: Dataset,
    shared: Path,
    tmp_path: Path,
    network: str,
    backend: str,
    precision: str,
    images: int,
) -> None:
    if precision == "bf16":
        skip_without_bf16()
    limit = {"data": {"limit": images}}
    model = {"path": shared / "models" / f"{network}.onnx"}
    values = {"backend": backend, "precision": precision, "model": model}
    maps = tmp_path / "maps"
    evaluate(coco_mini.config(**values, **limit, dump_maps=maps), tmp_path / "first")
    evaluate(replay(coco_mini, maps, **limit, batch_size=3), tmp_path / "again")
    assert len(json.loads(detections(tmp_path / "first"))) > 0
    assert detections(tmp_path / "again") == detections(tmp_path / "first")


def test_a_replay_without_data_is_of_the_demo(tmp_path: Path) -> None:
    values = {"engine": "inline", "data": {"limit": 3}}
    evaluate(parse_config({**values, "backend": "oracle", "dump_maps": tmp_path / "maps"}))
    recorded = {"backend": "recorded", "model": {"path": tmp_path / "maps"}}
    report = evaluate(parse_config({**values, **recorded}))
    assert report.complete
    assert report.note.startswith("Demo")
    assert "no model ran" in report.note


def test_the_guides_postprocessing_reads_a_dump(
    people: Dataset, dumped: Path, expected: bytes
) -> None:
    scored = postprocess(dumped, dumped / "pad.txt", people.annotations)
    assert detections_json(scored.detections).encode() == expected


def test_the_guides_postprocessing_reads_maps_of_any_width(people: Dataset, tmp_path: Path) -> None:
    config = people.config(profile="upstream", dump_maps=tmp_path / "maps")
    evaluate(config, tmp_path / "run")
    scored = postprocess(tmp_path / "maps", tmp_path / "maps" / "pad.txt", people.annotations)
    assert detections_json(scored.detections).encode() == detections(tmp_path / "run")


def test_the_files_of_a_dump_are_float32_with_the_guides_names(
    people: Dataset, dumped: Path
) -> None:
    names = sorted(image.file_name.removesuffix(".jpg") for image in people.records())
    files = [f"{name}_{number}.bin" for name in names for number in (0, 1)]
    assert sorted(path.name for path in dumped.iterdir()) == sorted(
        [*files, "pad.txt", "recording.json"]
    )
    heatmaps, pafs = oracle_outputs(people)[names[0]]
    assert (dumped / f"{names[0]}_0.bin").read_bytes() == heatmaps.astype("<f4").tobytes()
    assert (dumped / f"{names[0]}_1.bin").read_bytes() == pafs.astype("<f4").tobytes()


@pytest.mark.parametrize("restart", [False, True])
def test_a_stopped_run_is_resumed_with_its_maps(
    people: Dataset, dumped: Path, tmp_path: Path, *, restart: bool
) -> None:
    config = people.config(batch_size=2, dump_maps=tmp_path / "maps")
    with pytest.raises(ExecutionError, match="stopped"):
        evaluate_on(StoppingEngine(config), config, read_inputs(config), tmp_path / "run")
    assert not (tmp_path / "maps" / "pad.txt").exists()
    report = evaluate(config, tmp_path / "run", restart=restart)
    assert report.sessions == (1 if restart else 2)
    assert contents(tmp_path / "maps") == contents(dumped)


def test_a_run_that_started_without_a_dump_cannot_be_resumed_with_one(
    people: Dataset, tmp_path: Path
) -> None:
    config = people.config(batch_size=2)
    with pytest.raises(ExecutionError, match="stopped"):
        evaluate_on(StoppingEngine(config), config, read_inputs(config), tmp_path / "run")
    config = people.config(batch_size=2, dump_maps=tmp_path / "maps")
    (tmp_path / "maps").mkdir()
    with pytest.raises(SetupError, match=r"000000000001_0\.bin: .* evaluated without"):
        evaluate(config, tmp_path / "run")
    assert evaluate(config, tmp_path / "run", restart=True).complete


def test_a_dump_of_another_run_is_kept_unless_restart_is_given(
    people: Dataset, maps: Path, expected: bytes
) -> None:
    config = people.config(profile="upstream", dump_maps=maps)
    with pytest.raises(SetupError, match="another run: input, profile differ"):
        evaluate(config)
    evaluate(replay(people, maps), maps.parent / "again")
    assert detections(maps.parent / "again") == expected
    assert evaluate(config, restart=True).complete
    assert evaluate(replay(people, maps, profile="upstream")).complete


def test_a_folder_with_other_files_is_refused_before_the_ledger_is_changed(
    people: Dataset, tmp_path: Path
) -> None:
    evaluate(people.config(), tmp_path / "run")
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "thesis.tex").write_text("mine")
    with pytest.raises(SetupError, match="not maps of this run"):
        evaluate(people.config(dump_maps=tmp_path / "maps"), tmp_path / "run", restart=True)
    assert [path.name for path in (tmp_path / "maps").iterdir()] == ["thesis.tex"]
    assert any((tmp_path / "run" / "ledger").iterdir())


@pytest.mark.parametrize(("suffix", "first"), [(".bin", 0), (".txt", 1)])
def test_the_outputs_of_a_benchmark_tool_are_replayed(
    people: Dataset, expected: bytes, tmp_path: Path, suffix: str, first: int
) -> None:
    outputs = with_first_stage(oracle_outputs(people))
    folder = write_results(tmp_path / "results", outputs, suffix, first)
    report = evaluate(replay(people, folder), tmp_path / "run")
    assert detections(tmp_path / "run") == expected
    assert report.precision == "unknown"


def test_a_part_of_a_recording_is_replayed(people: Dataset, maps: Path, tmp_path: Path) -> None:
    limit = {"data": {"limit": 5}}
    evaluate(people.config(**limit), tmp_path / "first")
    report = evaluate(replay(people, maps, **limit), tmp_path / "again")
    assert report.num_images == 5
    assert detections(tmp_path / "again") == detections(tmp_path / "first")


def test_a_replay_has_no_compute_only_figures(run: Run, people: Dataset, dumped: Path) -> None:
    keys = {
        "data.images": people.images,
        "data.annotations": people.annotations,
        "engine": "inline",
        "backend": "recorded",
        "model.path": dumped,
    }
    options = [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]
    code, out, _ = run("evaluate", *options, "--output", "run")
    report = json.loads(Path("run/report.json").read_text())
    assert code == 0
    assert "no model ran" in out
    assert out.count("n/a") >= 4
    assert report["throughput"]["compute_images_per_s"] == {}
    assert report["throughput"]["outside_compute_share"] is None
    assert report["throughput"]["wall_images_per_s"] > 0
    assert report["devices"][0]["compute_images_per_s"] is None
    assert report["devices"][0]["busy_share"] is None
    stages = report["stages"]
    assert {stages[name]["count"] for name in ("copy_in", "compute", "copy_out")} == {0}


def test_a_replay_cannot_be_measured_as_a_device(people: Dataset, dumped: Path) -> None:
    config = replay(people, dumped)
    with pytest.raises(ConfigError, match="nothing to measure"):
        bench_device(config, [1], 0.0, lambda *_: None)
    with pytest.raises(ConfigError, match="nothing to measure"):
        bench_pipeline(config, 1, lambda *_: None)


def test_dump_maps_is_an_option_and_a_key(run: Run, people: Dataset, dumped: Path) -> None:
    keys = {
        "data.images": people.images,
        "data.annotations": people.annotations,
        "engine": "inline",
        "backend": "oracle",
    }
    options = [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]
    assert run("evaluate", *options, "--dump-maps", "a: b", "--output", "run")[0] == 0
    assert contents(Path("a: b")) == contents(dumped)


def test_an_image_that_failed_in_the_recorded_run_fails_in_the_replay(
    people: Dataset, tmp_path: Path
) -> None:
    images = Path(shutil.copytree(people.images, tmp_path / "images"))
    victim = sorted(images.iterdir())[3]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:2000])
    broken = Dataset(images, people.annotations)
    config = broken.config(allow_failures=1, dump_maps=tmp_path / "maps")
    first = evaluate(config, tmp_path / "first")
    again = evaluate(replay(broken, tmp_path / "maps", allow_failures=1), tmp_path / "again")
    assert detections(tmp_path / "again") == detections(tmp_path / "first")
    assert (again.failures, again.ap) == (first.failures, first.ap)
    victim.write_bytes(whole)
    repaired = evaluate(replay(broken, tmp_path / "maps", batch_size=1))
    assert [failure.file_name for failure in repaired.failures] == [victim.name]
    assert "no maps of it" in repaired.failures[0].reason


def not_a_number(path: Path) -> None:
    values = np.fromfile(path, "<f4")
    values[100] = np.nan
    values.tofile(path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(lambda path: path.write_bytes(b"short"), "has 5 bytes"), (not_a_number, "not finite")],
)
def test_damaged_maps_are_a_recorded_failure_that_names_the_file(
    people: Dataset, maps: Path, damage: Callable[[Path], object], reason: str
) -> None:
    victim = sorted(maps.glob("*_1.bin"))[4]
    damage(victim)
    report = evaluate(replay(people, maps, batch_size=4))
    assert report.ap is None
    (failure,) = report.failures
    assert f"{failure.file_name.removesuffix('.jpg')}_1.bin" == victim.name
    assert str(victim) in failure.reason
    assert reason in failure.reason


@pytest.mark.parametrize("described", [True, False])
def test_missing_maps_are_a_setup_error_that_names_the_file(
    people: Dataset, maps: Path, *, described: bool
) -> None:
    victim = sorted(maps.glob("*_0.bin"))[4]
    victim.unlink()
    if not described:
        (maps / "pad.txt").unlink()
        (maps / "recording.json").unlink()
    with pytest.raises(SetupError, match=victim.name):
        evaluate(replay(people, maps))


def test_maps_of_another_profile_are_refused_by_their_card(people: Dataset, dumped: Path) -> None:
    with pytest.raises(SetupError, match="set profile=modelzoo"):
        evaluate(replay(people, dumped, profile="uint8"))


def test_maps_of_another_profile_are_refused_by_their_padding(
    people: Dataset, tmp_path: Path
) -> None:
    folder = write_results(tmp_path / "results", oracle_outputs(people))
    write_pads(folder / "pad.txt", people, "upstream")
    with pytest.raises(SetupError, match="not preprocessed with profile modelzoo"):
        evaluate(replay(people, folder))


def test_maps_of_another_precision_are_refused(people: Dataset, dumped: Path) -> None:
    with pytest.raises(SetupError, match="computed in f32, not bf16"):
        evaluate(replay(people, dumped, precision="bf16"))


def test_a_recording_beside_a_model_is_refused(people: Dataset, dumped: Path) -> None:
    config = replay(people, dumped, devices=["cpu", "cuda:*"], cuda={"backend": "torch"})
    with pytest.raises(ConfigError, match="recorded, torch cannot be in one run"):
        evaluate(config)


def test_a_replay_is_not_resumed_with_other_maps(
    people: Dataset, maps: Path, tmp_path: Path
) -> None:
    evaluate(replay(people, maps), tmp_path / "run")
    first = min(maps.glob("*_0.bin"))
    first.write_bytes(first.read_bytes())
    with pytest.raises(SetupError, match="model"):
        evaluate(replay(people, maps), tmp_path / "run")

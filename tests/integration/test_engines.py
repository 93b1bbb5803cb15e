"""The same detections, byte for byte, whatever runs the workers."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from distributed_pose.data.packing import pack_dataset
from distributed_pose.engine.base import Workload
from distributed_pose.engine.inline import InlineEngine
from distributed_pose.errors import SetupError
from distributed_pose.evaluation import evaluate, evaluate_on
from distributed_pose.files.local import sha256_hex
from distributed_pose.records.shards import ShardResult
from distributed_pose.run.inputs import read_dataset, read_inputs
from tests.conftest import Dataset
from tests.tiny_models import save_constant_model

# The oracle's AP at coco-mini: decoding and rounding are all that keeps it from 1, with people
# that hide each other and people that are smaller than a cell of the maps.
ORACLE_AP = {"modelzoo": 0.8563, "upstream": 0.8696, "uint8": 0.8563}


class ReversedEngine(InlineEngine):
    """Finishes the last shard first."""

    def run(self, workload: Workload) -> Iterator[ShardResult]:
        backwards = replace(workload, shards=[*workload.shards][::-1])
        return reversed([*super().run(backwards)])


@pytest.fixture(scope="module")
def expected(coco_mini: Dataset, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The detections of one worker without Ray, one image at a time."""
    output = tmp_path_factory.mktemp("inline")
    evaluate(coco_mini.config(batch_size=1), output)
    return (output / "detections.json").read_bytes()


@pytest.mark.parametrize(("batch_size", "gather"), [(4, "maps"), (7, "maps"), (5, "poses")])
def test_inline_detections_do_not_depend_on_batch_size_or_place_of_decoding(
    coco_mini: Dataset, expected: bytes, tmp_path: Path, batch_size: int, gather: str
) -> None:
    evaluate(coco_mini.config(batch_size=batch_size, gather=gather), tmp_path)
    assert (tmp_path / "detections.json").read_bytes() == expected


def test_detections_do_not_depend_on_the_order_of_completion(
    coco_mini: Dataset, expected: bytes, tmp_path: Path
) -> None:
    config = coco_mini.config(batch_size=4)
    evaluate_on(ReversedEngine(config), config, read_inputs(config), tmp_path)
    assert (tmp_path / "detections.json").read_bytes() == expected


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    ("workers", "batch_size", "reducers", "gather"),
    [
        (1, 7, 1, "maps"),
        (2, 1, 2, "maps"),
        (2, 4, 1, "maps"),
        (4, 4, 2, "maps"),
        (1, 8, 1, "poses"),
        (2, 3, 1, "poses"),
    ],
)
def test_ray_gives_the_inline_detections(
    coco_mini: Dataset,
    expected: bytes,
    tmp_path: Path,
    workers: int,
    batch_size: int,
    reducers: int,
    gather: str,
) -> None:
    config = coco_mini.config(
        engine="ray",
        devices=f"cpu:{workers}",
        batch_size=batch_size,
        reducers=reducers,
        gather=gather,
    )
    report = evaluate(config, tmp_path)
    assert (tmp_path / "detections.json").read_bytes() == expected
    assert [device.name for device in report.devices] == [f"cpu:{i}" for i in range(workers)]
    assert sum(device.images for device in report.devices) == report.num_images == 50
    actors = {f"reducer:{i}" for i in range(reducers if gather == "maps" else 0)}
    names = {"driver", *actors, *(device.name for device in report.devices)}
    assert report.memory.peak_rss_bytes.keys() == names
    assert report.memory.peak_object_store_bytes > 2**20


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    ("gather", "engine", "packed"),
    [
        ("poses", "ray", True),
        pytest.param("maps", "ray", False, marks=pytest.mark.slow),
        ("poses", "inline", False),
    ],
)
def test_detections_are_the_same_whoever_reads_the_images(
    people: Dataset, tmp_path: Path, gather: str, engine: str, *, packed: bool
) -> None:
    config = people.config(batch_size=2)
    evaluate(config, tmp_path / "driver")
    index, source, _ = read_dataset(config)
    images = tmp_path / "packed" if packed else people.images
    if packed:
        pack_dataset(index, source, str(images))
    data = {"images": images, "read": "worker", "repeat": 4}
    report = evaluate(
        people.config(batch_size=2, data=data, gather=gather, engine=engine, devices="cpu:2"),
        tmp_path / "workers",
    )
    assert report.stages["read"].count == report.num_images == 48
    first, all_of_them = (
        json.loads((tmp_path / name / "detections.json").read_text())
        for name in ("driver", "workers")
    )
    last_id = max(image.image_id for image in index.images)
    assert [one for one in all_of_them if one["image_id"] <= last_id] == first
    assert len(all_of_them) == 4 * len(first)
    assert report.host_use.images == 48
    assert report.host_use.cpu_s["driver"] > 0
    assert ("cpu:1" in report.host_use.cpu_s) == (engine == "ray")


@pytest.mark.parametrize("profile", ORACLE_AP)
def test_the_oracle_reaches_its_known_ap(coco_mini: Dataset, profile: str) -> None:
    report = evaluate(coco_mini.config(profile=profile))
    assert report.profile == profile
    assert report.ap is not None
    assert report.ap["AP"] == pytest.approx(ORACLE_AP[profile], abs=1e-4)


def test_a_run_on_bytes_folds_the_model_and_names_the_file_that_the_user_gave(
    people: Dataset, tmp_path: Path
) -> None:
    path = save_constant_model(tmp_path / "model.onnx")
    config = people.config(profile="uint8", backend="onnxruntime", model={"path": path})
    report = evaluate(config)
    assert (report.profile, report.complete) == ("uint8", True)
    assert report.model.sha256 == sha256_hex(path.read_bytes())


def test_rendered_people_are_found_by_the_oracle_on_ray(
    people: Dataset, tmp_path: Path, local_ray: None
) -> None:
    del local_ray
    inline = evaluate(people.config(maps_dtype="f16"), tmp_path / "inline")
    on_ray = evaluate(
        people.config(engine="ray", maps_dtype="f16", gather="poses"), tmp_path / "ray"
    )
    names = ("inline", "ray")
    first, second = ((tmp_path / name / "detections.json").read_bytes() for name in names)
    assert first == second
    assert inline.ap == on_ray.ap
    assert inline.ap is not None
    assert inline.ap["AP"] > 0.8


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_maps_are_written_and_replayed_by_the_workers_of_ray(
    people: Dataset, tmp_path: Path
) -> None:
    ray = {"engine": "ray", "devices": "cpu:2", "batch_size": 2, "reducers": 2}
    evaluate(people.config(dump_maps=tmp_path / "inline-maps"), tmp_path / "inline")
    evaluate(people.config(**ray, dump_maps=tmp_path / "maps"), tmp_path / "ray")
    recorded = {"backend": "recorded", "model": {"path": tmp_path / "maps"}}
    evaluate(people.config(**ray, **recorded), tmp_path / "again")
    first, *others = (
        (tmp_path / name / "detections.json").read_bytes() for name in ("inline", "ray", "again")
    )
    assert others == [first, first]
    inline_maps, ray_maps = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("inline-maps", "maps")
    )
    assert len(inline_maps) == 2 * 12 + 2
    assert inline_maps == ray_maps


def test_a_limit_scores_the_first_ids_and_is_marked(people: Dataset, tmp_path: Path) -> None:
    report = evaluate(people.config(data={"limit": 5}), tmp_path)
    listed = json.loads(people.annotations.read_text())["images"]
    first = sorted(image["id"] for image in listed)[:5]
    found = {d["image_id"] for d in json.loads((tmp_path / "detections.json").read_text())}
    assert report.partial_by_choice
    assert report.complete
    assert report.num_images == 5
    assert found <= set(first)


def test_a_device_that_cannot_be_freed_hides_neither_the_result_nor_the_others(
    people: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    config = people.config(devices="cpu:2")
    engine = InlineEngine(config)
    closed: list[str] = []

    def refuse() -> None:
        closed.append("refused")
        raise RuntimeError("the driver is gone")

    with engine:
        inputs = read_inputs(config)
        engine.start(inputs.selection, inputs.model)
        first, second = (device.worker for device in engine._devices)
        free = first.close
        first.close = refuse  # type: ignore[method-assign]
    free()
    assert closed == ["refused"]
    assert "cpu:0: RuntimeError('the driver is gone')" in caplog.text
    with pytest.raises(SetupError, match="not started"):
        second.sweep(1, 0.0)

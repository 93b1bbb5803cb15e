"""Any keypoint set runs end to end: from an annotation file through maps and poses to AP 1."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import yaml

from distributed_pose import SetupError, parse_config
from distributed_pose.config.schema import RunConfig
from distributed_pose.demo.default import WEIGHTS
from distributed_pose.evaluation import evaluate
from distributed_pose.keypoints.reading import read_keypoint_set
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.report.run_picture import PictureOptions, draw_run
from distributed_pose.report.stored_run import read_run
from tests.chain_sets import chain_of

SIX = Path(__file__).parents[2] / "examples" / "six_keypoints.yaml"

# Two people in each picture of this size, whose points lie on spirals around these centres. No
# point is midway between two pixels, where a heatmap has no peak.
SIZE_HW = (368, 640)
CENTRES_X, CENTRE_Y = (170.2, 470.7), 184.3


def write_set(folder: Path, keypoints: KeypointSet) -> Path:
    """Writes a set without derived keypoints as a user does."""
    names = keypoints.keypoints
    values = {
        "name": keypoints.name,
        "keypoints": [*names],
        "dataset": dict(zip(keypoints.dataset_keypoints, keypoints.sigmas, strict=True)),
        "limbs": [
            {"from": names[limb.start], "to": names[limb.end], "paf": [limb.paf_x, limb.paf_y]}
            for limb in keypoints.limbs
        ],
    }
    path = folder / f"{keypoints.name}.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def spiral(count: int, centre_x: float) -> npt.NDArray[np.float64]:
    turns = np.linspace(0, 2 * np.pi * max(1, count // 20), count)
    radii = np.linspace(60, 140, count)
    x, y = centre_x + radii * np.cos(turns), CENTRE_Y + radii * np.sin(turns)
    return np.column_stack([x, y, np.full(count, 2.0)])


def write_people(folder: Path, keypoints: KeypointSet) -> dict[str, Any]:
    """Writes two pictures and their annotations, and returns the keys that name them."""
    count = keypoints.num_dataset_keypoints
    images, people = [], []
    for number in (1, 2):
        cv2.imwrite(str(folder / f"{number}.jpg"), np.full((*SIZE_HW, 3), 90 * number, np.uint8))
        size = {"height": SIZE_HW[0], "width": SIZE_HW[1]}
        images.append({"id": number, "file_name": f"{number}.jpg", **size})
        for centre_x in CENTRES_X:
            person = spiral(count, centre_x + 7 * number)
            low, high = person[:, :2].min(axis=0), person[:, :2].max(axis=0)
            people.append(
                {
                    "id": len(people) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "iscrowd": 0,
                    "num_keypoints": count,
                    "keypoints": person.ravel().tolist(),
                    "bbox": [*low.tolist(), *(high - low).tolist()],
                    "area": float(np.prod(high - low)),
                }
            )
    category = {"id": 1, "name": "person", "keypoints": [*keypoints.dataset_keypoints]}
    file = {"images": images, "annotations": people, "categories": [category]}
    (folder / "people.json").write_text(json.dumps(file))
    return {"images": str(folder), "annotations": str(folder / "people.json")}


def config_of(data: dict[str, Any], keypoints: Path | None, **values: Any) -> RunConfig:
    own = {"engine": "inline", "devices": "cpu:1", "backend": "oracle", "data": data} | values
    return parse_config(own | ({"keypoints": str(keypoints)} if keypoints else {}))


@pytest.mark.parametrize("count", [6, 21, 100])
def test_the_oracle_reaches_an_ap_of_one_for_any_number_of_keypoints(
    tmp_path: Path, count: int
) -> None:
    keypoints = chain_of(count)
    path = write_set(tmp_path, keypoints)
    assert read_keypoint_set(path) == keypoints
    data = write_people(tmp_path, keypoints)
    report = evaluate(config_of(data, path, gather="maps"), tmp_path / "run")
    assert report.ap is not None
    assert (report.ap["AP"], report.ap["AR"]) == (1, 1)
    detections = json.loads((tmp_path / "run" / "detections.json").read_text())
    assert [len(one["keypoints"]) for one in detections] == [3 * count] * 4
    picture = tmp_path / "picture.png"
    draw_run(read_run(tmp_path / "run"), picture, PictureOptions(with_truth=True))
    assert picture.stat().st_size > 0


def test_recorded_maps_of_a_set_are_replayed_with_it_and_refused_with_another(
    tmp_path: Path,
) -> None:
    keypoints = read_keypoint_set(SIX)
    data = write_people(tmp_path, keypoints)
    maps = tmp_path / "maps"
    first = evaluate(config_of(data, SIX, dump_maps=maps), tmp_path / "first")
    assert first.ap is not None
    assert first.ap["AP"] == 1
    replay = {"backend": "recorded", "model": {"path": str(maps)}}
    evaluate(config_of(data, SIX, **replay), tmp_path / "again")
    runs = ((tmp_path / run / "detections.json").read_bytes() for run in ("first", "again"))
    assert len({*runs}) == 1
    other = write_set(tmp_path, chain_of(6))
    with pytest.raises(SetupError, match=r"chain_of_6|point_0"):
        evaluate(config_of(data, other, **replay))


def test_a_model_of_another_set_is_refused_by_the_run(tmp_path: Path) -> None:
    data = write_people(tmp_path, read_keypoint_set(SIX))
    values = {"backend": "onnxruntime", "model": {"path": str(WEIGHTS)}}
    with pytest.raises(SetupError, match=r"no output of 7 channels.*six_keypoints"):
        evaluate(config_of(data, SIX, **values))

"""The oracle draws maps that are decoded to the labelled people, and to no others."""

import json
from typing import Any

import numpy as np
import pytest

from distributed_pose.backends.base import BackendOptions, InputBatch
from distributed_pose.backends.oracle import OracleBackend
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.pose.decode import Decoder
from distributed_pose.records.images import Geometry

# Half the size of its input, with different padding on each side.
GEOMETRY = Geometry(160, 240, 8, 16, 40, 64)
INPUTS_N3HW = np.zeros((1, 3, 368, 560), np.float32)

# Keys are COCO's keypoint numbers. A keypoint midway between two pixels has two equal maxima, and
# neither is a peak.
SHOULDERS_AND_ARMS = {
    5: (140.3, 40.3),
    6: (100.3, 40.3),
    7: (150.3, 80.3),
    8: (90.3, 80.3),
    9: (155.3, 120.3),
}


def person(image_id: int, **values: Any) -> dict[str, Any]:
    keypoints = [0.0] * 51
    for number, (x, y) in SHOULDERS_AND_ARMS.items():
        keypoints[3 * number : 3 * number + 3] = x, y, 2
    found = {"image_id": image_id, "keypoints": keypoints, "num_keypoints": 5, "iscrowd": 0}
    return found | values


def oracle(*people: dict[str, Any]) -> OracleBackend:
    return OracleBackend(json.dumps({"annotations": people}).encode(), BackendOptions())


def test_its_maps_are_decoded_to_the_labelled_people() -> None:
    maps = oracle(person(7)).infer(InputBatch((7,), (GEOMETRY,), INPUTS_N3HW))
    poses = Decoder(coco_body()).decode(maps.heatmaps_NKHW[0], maps.pafs_NPHW[0], GEOMETRY)
    (found,) = poses.keypoints_PV.reshape(-1, 17, 3)
    assert np.flatnonzero(found[:, 2]).tolist() == list(SHOULDERS_AND_ARMS)
    for number, expected in SHOULDERS_AND_ARMS.items():
        assert found[number, :2] == pytest.approx(expected, abs=0.6)


@pytest.mark.parametrize(
    "other", [person(8), person(7, iscrowd=1), person(7, num_keypoints=0, keypoints=[0] * 51)]
)
def test_crowds_unlabelled_people_and_people_of_other_images_are_not_drawn(
    other: dict[str, Any],
) -> None:
    maps = oracle(other).infer(InputBatch((7,), (GEOMETRY,), INPUTS_N3HW))
    assert not maps.heatmaps_NKHW[:, :-1].any()
    assert (maps.heatmaps_NKHW[:, -1] == 1).all()
    assert not maps.pafs_NPHW.any()

"""A small valid annotation file, which tests change."""

import json
from pathlib import Path
from typing import Any

from distributed_pose.keypoints.reading import coco_body

COCO_KEYPOINTS = coco_body().dataset_keypoints

Content = dict[str, Any]


def content() -> Content:
    person = {
        "id": 1,
        "image_id": 20,
        "category_id": 1,
        "iscrowd": 0,
        "num_keypoints": 1,
        "keypoints": [5, 6, 2] + [0] * 48,
        "bbox": [1.0, 2.0, 3.0, 4.0],
        "area": 12.0,
    }
    return {
        "images": [
            {"id": number, "file_name": f"{number}.jpg", "height": 48, "width": 64}
            for number in (30, 10, 20)
        ],
        "annotations": [person],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO_KEYPOINTS)}],
    }


def write(folder: Path, value: object) -> Path:
    path = folder / "people.json"
    path.write_text(json.dumps(value))
    return path


def with_categories(*categories: Content) -> Content:
    return {**content(), "categories": [*categories]}


COCO = {"keypoints": list(COCO_KEYPOINTS)}

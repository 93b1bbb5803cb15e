"""Image files of every kind and damage in one run: unusable ones are failures with names."""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from distributed_pose import SetupError, evaluate
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.report.run_report import RunReport
from tests.conftest import Dataset
from tests.image_files import CLAIMING, HEIGHT, WIDTH, claiming, encode, good_files, picture

COCO_KEYPOINTS = coco_body().dataset_keypoints

GOOD = good_files()


@dataclass
class Folder:
    """A folder of images with their annotations."""

    path: Path
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def list(self, name: str, height: int, width: int) -> Path:
        """Adds an image to the annotations and returns the path for its file."""
        self.sizes[name] = height, width
        path = self.path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, name: str, content: bytes, height: int, width: int) -> None:
        self.list(name, height, width).write_bytes(content)

    def dataset(self, name: str, keep: set[str] | None = None) -> Dataset:
        """Returns the dataset of all images, or of some, with the same ids."""
        images: list[dict[str, Any]] = [
            {"id": number, "file_name": file, "height": height, "width": width}
            for number, (file, (height, width)) in enumerate(self.sizes.items(), 100)
            if keep is None or file in keep
        ]
        people = [person(image) for image in images if image["id"] % 5]
        categories = [{"id": 1, "name": "person", "keypoints": list(COCO_KEYPOINTS)}]
        content = {"images": images, "annotations": people, "categories": categories}
        path = self.path / f"{name}.json"
        path.write_text(json.dumps(content))
        return Dataset(self.path / "images", path)


def person(image: dict[str, Any]) -> dict[str, Any]:
    """Returns a person whose position depends on the image."""
    number, height, width = image["id"], image["height"], image["width"]
    middle = width * (0.4 + number % 7 / 30)
    # The keypoints lie well apart on a spiral.
    points = [
        [
            middle + (9 + n) * math.cos(0.9 * n) * width / 104,
            height / 2 + (9 + n) * math.sin(0.9 * n) * height / 60,
            2,
        ]
        for n in range(17)
    ]
    return {
        "id": number,
        "image_id": number,
        "category_id": 1,
        "iscrowd": 0,
        "num_keypoints": 17,
        "keypoints": [value for point in points for value in point],
        "bbox": [0, 0, width, height],
        "area": height * width,
    }


def size_of(content: bytes) -> tuple[int, int]:
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image.shape[0], image.shape[1]


def write_good(folder: Folder) -> None:
    for kind, content in GOOD.items():
        folder.write(f"good/{kind}", content, *size_of(content))
    folder.write("good/with a lot after it", GOOD["jpeg"] + bytes(5000), *size_of(GOOD["jpeg"]))
    folder.list("a link.jpg", *size_of(GOOD["png"])).symlink_to("good/png")
    folder.list("ünï/图.png", *size_of(GOOD["png"])).write_bytes(GOOD["png"])


def write_truncated(folder: Folder) -> None:
    for kind, content in GOOD.items():
        for tenth in range(10):
            length = len(content) * tenth // 10
            folder.write(f"cut/{kind} {tenth}", content[:length], *size_of(content))
        folder.write(f"cut/{kind} at the end", content[:-1], *size_of(content))


def write_others(folder: Folder) -> None:
    random = np.random.default_rng(3)
    others = [b"", b"text", b"<html></html>", b"PK\x03\x04" + bytes(500), bytes(4096), b"\xff\xd8"]
    others += [random.bytes(int(size)) for size in random.integers(1, 3000, 20)]
    others += [claiming(kind, 16000) for kind in CLAIMING]
    others += [
        encode(".png", picture(*size)) for size in ((48, 32), (32, 47), (33, 48), (320, 480))
    ]
    for number, content in enumerate(others):
        folder.write(f"other/{number}.jpg", content, HEIGHT, WIDTH)
    folder.write("honest giant.png", claiming("png", 30000), 30000, 30000)


def write_unreadable(folder: Folder) -> None:
    secret = folder.path / "secret.png"
    secret.write_bytes(GOOD["png"])
    (folder.path / "beside").mkdir()
    (folder.path / "beside" / "secret.png").write_bytes(GOOD["png"])
    size = size_of(GOOD["png"])
    folder.list("nowhere.jpg", *size)
    folder.list("a folder.jpg", *size).mkdir()
    os.mkfifo(folder.list("a pipe.jpg", *size))
    folder.list("to a pipe.jpg", *size).symlink_to("a pipe.jpg")
    folder.list("to a device.jpg", *size).symlink_to("/dev/zero")
    folder.list("out.jpg", *size).symlink_to(secret)
    folder.list("out by a way.jpg", *size).symlink_to("../secret.png")
    folder.list("to itself.jpg", *size).symlink_to("to itself.jpg")
    folder.list("to nothing.jpg", *size).symlink_to("nothing.jpg")
    folder.list("beside/secret.png", *size)
    (folder.path / "images" / "beside").rmdir()
    (folder.path / "images" / "beside").symlink_to("../beside")
    with folder.list("endless.png", *size).open("wb") as stream:
        stream.truncate(2**40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = Folder(tmp_path_factory.mktemp("damaged"))
    # Alternating, so that a batch has good and bad images.
    parts: list[Folder] = []
    for write in (write_good, write_truncated, write_others, write_unreadable):
        part = Folder(folder.path)
        write(part)
        parts.append(part)
    for names in zip(*(iter_padded(part.sizes, 440) for part in parts), strict=True):
        for part, name in zip(parts, names, strict=True):
            if name is not None:
                folder.sizes[name] = part.sizes[name]
    return folder


def iter_padded(names: dict[str, Any], count: int) -> Iterator[str | None]:
    yield from names
    yield from [None] * (count - len(names))


@pytest.fixture(scope="module")
def good_names() -> set[str]:
    return {"good/with a lot after it", "a link.jpg", "ünï/图.png", *(f"good/{k}" for k in GOOD)}


def run(dataset: Dataset, output: Path, **values: Any) -> tuple[RunReport, bytes]:
    report = evaluate(dataset.config(**values), output)
    return report, (output / "detections.json").read_bytes()


@pytest.mark.parametrize(
    "values",
    [{}, {"gather": "poses", "batch_size": 3}, {"devices": "cpu:2", "profile": "upstream"}],
    ids=["maps", "poses", "upstream"],
)
def test_only_damaged_files_fail_and_the_others_have_the_same_results_as_without_them(
    folder: Folder, good_names: set[str], values: dict[str, Any], tmp_path: Path
) -> None:
    everything, good = folder.dataset("everything"), folder.dataset("good", good_names)
    report, detections = run(everything, tmp_path / "all", **values)
    reference, expected = run(good, tmp_path / "good", **values)
    assert len(folder.sizes) > 400
    damaged = [
        (number, name) for number, name in enumerate(folder.sizes, 100) if name not in good_names
    ]
    assert [(failure.image_id, failure.file_name) for failure in report.failures] == damaged
    assert all(failure.reason for failure in report.failures)
    assert (report.num_images, report.complete, report.ap) == (len(folder.sizes), False, None)
    assert sum(device.images for device in report.devices) == len(good_names)
    assert not report.faults.reasons
    assert reference.complete
    assert reference.num_detections > 20
    assert detections == expected


def test_each_failure_has_its_reason(folder: Folder, tmp_path: Path) -> None:
    report, _ = run(folder.dataset("reasons"), tmp_path / "run")
    reasons = {failure.file_name: failure.reason for failure in report.failures}
    expected = {
        "nowhere.jpg": "No such file",
        "a folder.jpg": "not a regular file",
        "a pipe.jpg": "not a regular file",
        "to a pipe.jpg": "not a regular file",
        "to a device.jpg": "out of the folder, to /dev/zero",
        "out.jpg": "out of the folder",
        "out by a way.jpg": "out of the folder",
        "to itself.jpg": "symbolic links",
        "to nothing.jpg": "No such file",
        "beside/secret.png": "out of the folder",
        "endless.png": "1099511627776 bytes, over the limit",
        "honest giant.png": "30000x30000, over the limit",
        "cut/jpeg 0": "empty",
        "cut/jpeg 5": "truncated",
        "cut/png 5": "truncated",
        "cut/webp 5": "not an image",
    }
    assert {name: text for name, text in expected.items() if text not in reasons[name]} == {}


def test_a_data_folder_may_be_reached_by_a_link(people: Dataset, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(people.images)
    report = evaluate(Dataset(link, people.annotations).config())
    assert report.complete


@pytest.mark.parametrize(("profile", "fails"), [("upstream", True), ("modelzoo", False)])
def test_an_image_too_long_for_the_network_is_a_failure_and_stops_no_other(
    tmp_path: Path, profile: str, *, fails: bool
) -> None:
    folder = Folder(tmp_path)
    folder.write("long.png", encode(".png", picture(1, 60000)), 1, 60000)
    folder.write("usual.png", encode(".png", picture(48, 64)), 48, 64)
    report = evaluate(folder.dataset("long").config(profile=profile))
    assert [failure.file_name for failure in report.failures] == ["long.png"] * fails
    assert all("22080000x368, over the limit" in failure.reason for failure in report.failures)
    assert not report.faults.reasons


def test_annotations_that_are_not_a_regular_file_are_a_setup_error(
    people: Dataset, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    for path, reason in ((pipe, "not a regular file"), (Path("/dev/zero"), "not a regular file")):
        with pytest.raises(SetupError, match=f"cannot read {path}: it is {reason}"):
            evaluate(Dataset(people.images, path).config())

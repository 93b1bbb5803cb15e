"""Images whose file is damaged and decodes to something: evaluated and named, or failures."""

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from distributed_pose import evaluate
from distributed_pose.data.coco import load_index
from distributed_pose.data.packing import pack_dataset
from distributed_pose.data.sources import open_images
from distributed_pose.guide.preprocess import preprocess_folder
from tests.conftest import Dataset, Run

REASON = "Corrupt JPEG data: premature end of data segment"


def cut(path: Path) -> None:
    """Puts an end marker into the middle of the data of a JPEG."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + b"\xff\xd9")


@pytest.fixture(scope="module")
def damaged(people: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The rendered images, of which the third, the fourth and the last are damaged."""
    images = tmp_path_factory.mktemp("damaged") / "images"
    shutil.copytree(people.images, images)
    records = people.records()
    for record in (*records[2:4], records[-1]):
        cut(images / record.file_name)
    return Dataset(images, people.annotations)


@pytest.fixture(scope="module")
def names(people: Dataset) -> list[tuple[int, str]]:
    """Id and file name of the images that `damaged` has damaged."""
    records = people.records()
    return [(one.image_id, one.file_name) for one in (*records[2:4], records[-1])]


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    "values",
    [
        {"gather": "maps"},
        {"gather": "poses", "batch_size": 5},
        {"gather": "poses", "data": {"read": "worker"}},
        {"gather": "maps", "engine": "ray", "batch_size": 4},
        {"gather": "poses", "engine": "ray", "batch_size": 4, "data": {"read": "worker"}},
    ],
    ids=["maps", "poses", "read by workers", "ray", "ray, read by workers"],
)
def test_damaged_images_are_evaluated_and_named(
    damaged: Dataset, names: list[tuple[int, str]], tmp_path: Path, values: dict[str, Any]
) -> None:
    report = evaluate(damaged.config(**values), tmp_path)
    assert report.complete
    assert report.ap is not None
    assert [(one.image_id, one.file_name) for one in report.damaged] == names
    assert {one.reason for one in report.damaged} == {REASON}
    written = json.loads((tmp_path / "report.json").read_text())["damaged"]
    assert [(one["image_id"], one["file_name"]) for one in written] == names


def test_damaged_images_are_evaluated_as_opencv_decodes_them(
    damaged: Dataset, tmp_path: Path
) -> None:
    # The maps of the demo's network depend on every pixel.
    same = tmp_path / "images"
    same.mkdir()
    for record in damaged.records():
        content = np.fromfile(damaged.images / record.file_name, np.uint8)
        image = cv2.imdecode(content, cv2.IMREAD_COLOR)
        assert image is not None
        (same / record.file_name).write_bytes(bytes(cv2.imencode(".png", image)[1]))
    found = {}
    for name, images in (("damaged", damaged.images), ("as decoded", same)):
        bins = tmp_path / name
        found[name] = preprocessed(images, bins)
    assert found["damaged"] == found["as decoded"]


def preprocessed(images: Path, bins: Path) -> dict[str, bytes]:
    preprocess_folder(images, bins, bins / "pad.txt")
    return {path.name: path.read_bytes() for path in sorted(bins.glob("*.bin"))}


@pytest.mark.parametrize("gather", ["maps", "poses"])
def test_damaged_images_are_failures_if_so_configured(
    damaged: Dataset, names: list[tuple[int, str]], gather: str
) -> None:
    report = evaluate(damaged.config(data={"damaged": "fail"}, gather=gather))
    assert not report.complete
    assert report.ap is None
    assert [(one.image_id, one.file_name) for one in report.failures] == names
    assert {one.reason for one in report.failures} == {f"the file is damaged: {REASON}"}
    assert not report.damaged


def test_a_resumed_run_names_the_damaged_images_of_the_first_session(
    damaged: Dataset, names: list[tuple[int, str]], tmp_path: Path
) -> None:
    missing = damaged.images / damaged.records()[5].file_name
    content = missing.read_bytes()
    missing.unlink()
    try:
        assert len(evaluate(damaged.config(batch_size=1), tmp_path).failures) == 1
    finally:
        missing.write_bytes(content)
    report = evaluate(damaged.config(batch_size=1), tmp_path)
    assert report.complete
    assert report.sessions == 2
    assert [(one.image_id, one.file_name) for one in report.damaged] == names


def test_the_terminal_shows_the_number_and_the_first_of_them(
    damaged: Dataset, names: list[tuple[int, str]], run: Run
) -> None:
    keys = [f"data.images={damaged.images}", f"data.annotations={damaged.annotations}"]
    keys += ["backend=oracle", "engine=inline"]
    code, out, err = run("evaluate", *(f"--set={key}" for key in keys))
    assert code == 0
    text = " ".join(out.split())
    first = f"{names[0][1]} ({REASON})"
    assert f"3 images are damaged and evaluated nevertheless: {first}" in text
    assert "libjpeg" not in err
    assert "Corrupt" not in err
    code, out, err = run("evaluate", *(f"--set={key}" for key in [*keys, "data.damaged=fail"]))
    assert code == 4
    assert "Traceback" not in out + err


def test_the_guides_preprocessing_names_damaged_images(
    damaged: Dataset, names: list[tuple[int, str]], run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    code, out, _ = run(
        *("guide", "preprocess", "--src-path", str(damaged.images), "--save-path", "bins"),
        *("--pad-txt-path", "pad.txt"),
    )
    assert code == 0
    assert "12 images" in out
    (line,) = caplog.messages
    assert line.startswith(
        f"3 images are damaged and evaluated nevertheless: {names[0][1]} ({REASON})"
    )


def test_damaged_images_in_packed_shards_are_named(
    damaged: Dataset, names: list[tuple[int, str]], tmp_path: Path
) -> None:
    index = load_index(damaged.annotations)
    pack_dataset(index, open_images(str(damaged.images)), str(tmp_path / "packed"))
    packed = Dataset(tmp_path / "packed", damaged.annotations)
    report = evaluate(packed.config(data={"read": "worker"}))
    assert [(one.image_id, one.file_name) for one in report.damaged] == names

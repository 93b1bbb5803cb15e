"""Pictures of a run show chosen or worst images, beside the labels, and with scores."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from distributed_pose import evaluate
from tests.conftest import Dataset, Run


@pytest.fixture(scope="module")
def stored(people: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in which the people of image 5 are far outside of it."""
    folder = tmp_path_factory.mktemp("stored") / "run"
    evaluate(people.config(), folder)
    detections = json.loads((folder / "detections.json").read_text())
    for one in detections:
        if one["image_id"] == 5:
            one["keypoints"] = [value + 1e9 * (value > 2) for value in one["keypoints"]]
    (folder / "detections.json").write_text(json.dumps(detections))
    return folder


def drawn(run: Run, stored: Path, *options: str) -> np.ndarray:
    code, _, err = run("picture", str(stored), "poses.png", *options)
    assert code == 0, err
    return np.asarray(cv2.imread("poses.png"))


def test_the_worst_image_comes_first(run: Run, stored: Path) -> None:
    worst = drawn(run, stored, "--worst=1")
    assert np.array_equal(worst, drawn(run, stored, "--image=5"))
    assert not np.array_equal(worst, drawn(run, stored, "--images=1"))


def test_chosen_images_are_shown_in_the_order_given(run: Run, stored: Path) -> None:
    both = drawn(run, stored, "--image=3", "--image=2")
    parts = [drawn(run, stored, f"--image={number}") for number in (3, 2)]
    assert np.array_equal(both, np.hstack(parts))


def test_labels_are_drawn_to_the_left_of_an_image_that_has_no_detections(
    run: Run, stored: Path
) -> None:
    alone = drawn(run, stored, "--image=5")
    pair = drawn(run, stored, "--image=5", "--with-truth")
    width = alone.shape[1]
    assert pair.shape[1] == 2 * width
    assert np.array_equal(pair[:, width:], alone)
    assert not np.array_equal(pair[:, :width], alone)


def test_images_are_arranged_in_columns(run: Run, stored: Path) -> None:
    heights = [
        drawn(run, stored, "--images=4", f"--columns={number}").shape[0] for number in (1, 2, 4)
    ]
    assert heights == [4 * 360, 2 * 360, 360]


def test_scores_are_written_above_the_people(run: Run, stored: Path) -> None:
    plain = drawn(run, stored, "--image=2")
    changed = np.any(plain != drawn(run, stored, "--image=2", "--scores"), axis=2)
    assert 20 < changed.sum() < changed.size / 10


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--image=99",), 2, "--image 99"),
        (("--image=5", "--worst=2"), 2, "exclude each other"),
        (("--worst=65",), 2, "--worst"),
        (("--columns=0",), 2, "--columns"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_an_error_of_one_line(
    run: Run, stored: Path, options: tuple[str, ...], code: int, message: str
) -> None:
    answer, out, err = run("picture", str(stored), "poses.png", *options)
    assert (answer, out) == (code, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not Path("poses.png").exists()


def test_a_picture_does_not_overwrite_an_image_of_the_run(
    run: Run, stored: Path, people: Dataset
) -> None:
    image = next(people.images.iterdir())
    before = image.read_bytes()
    code, _, err = run("picture", str(stored), str(image))
    assert (code, image.read_bytes()) == (2, before)
    assert "would be overwritten" in err

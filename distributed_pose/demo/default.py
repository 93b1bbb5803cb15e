"""Provides the data and the model of runs that name neither."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from distributed_pose.cache.entries import make_room
from distributed_pose.cache.marks import hold, in_use
from distributed_pose.demo.dataset import (
    DEFAULT_NUM_IMAGES,
    DEFAULT_SEED,
    RENDERER_VERSION,
    DemoDataset,
    write_dataset,
)
from distributed_pose.errors import SetupError
from distributed_pose.files.local import user_cache_folder

# The note fits on one line of a terminal.
NOTE = "Demo: rendered people. For COCO set data.images, data.annotations, model.path."

# The names of the demo's folders in the cache begin with this prefix.
FOLDER_PREFIX = f"renderer-{RENDERER_VERSION}-seed-"

WEIGHTS = Path(__file__).with_name("lightweight_openpose_demo.onnx")


@dataclass(frozen=True)
class Demo:
    """The paths of the demo's inputs, and a note for the user.

    Attributes:
        images: folder of the images.
        annotations: COCO keypoint annotation file.
        model: file of the model.
        note: line that reports show to the user.
    """

    images: Path
    annotations: Path
    model: Path
    note: str


def prepare_demo(num_images: int = DEFAULT_NUM_IMAGES) -> Demo:
    """Returns the demo; its images are rendered on first use and kept in the user's cache.

    Args:
        num_images: number of images.

    Raises:
        SetupError: if the cache cannot be written.
    """
    dataset = _dataset(user_cache_folder() / "demo", num_images)
    return Demo(dataset.images, dataset.annotations, WEIGHTS, NOTE)


def _dataset(cache: Path, num_images: int) -> DemoDataset:
    folder = cache / f"{FOLDER_PREFIX}{DEFAULT_SEED}-images-{num_images}"
    kept = DemoDataset(folder / "images", folder / "annotations" / "person_keypoints.json")
    hold(folder)
    if kept.annotations.exists():
        return kept
    try:
        _render(cache, folder, num_images)
    except OSError as error:
        hold(folder)
        if kept.annotations.exists():
            return kept
        hint = "set XDG_CACHE_HOME to a folder that can be written"
        reason = os.strerror(error.errno) if error.errno else error
        raise SetupError(f"cannot keep the demo images in {cache}: {reason}", hint) from None
    return kept


def _render(cache: Path, folder: Path, num_images: int) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary, in_use(Path(temporary)):
        whole = Path(temporary) / "whole"
        write_dataset(whole, num_images)
        with in_use(whole):
            # The folder is renamed when it is complete, so that two first runs at the same time do
            # not disturb each other.
            whole.rename(folder)
            hold(folder)
    make_room()

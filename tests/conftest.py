"""Fixtures of all tests: the shared reference data, and a small rendered dataset."""

import atexit
import json
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from distributed_pose import RunConfig, evaluate, parse_config
from distributed_pose.cli.main import main
from distributed_pose.data.coco import load_index
from distributed_pose.demo.dataset import write_dataset
from distributed_pose.records.images import ImageRecord

if TYPE_CHECKING:
    from tests.faults import Stage

# The duration of an example depends on other work of the machine.
settings.register_profile("any_speed", deadline=None)
settings.load_profile("any_speed")

# Tests neither join clusters of other users on this machine, nor offer theirs to them.
os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="dp-")
atexit.register(shutil.rmtree, os.environ["RAY_TMPDIR"], ignore_errors=True)

_REPOSITORY = Path(__file__).parents[1]

# A line that shows the progress of a command where stderr is no terminal.
PROGRESS_LINE = re.compile(r"^\[\d+:\d\d:\d\d\] .*\n", re.MULTILINE)

# A function from the arguments of the command to exit code, stdout and stderr.
Run = Callable[..., tuple[int, str, str]]


@dataclass(frozen=True)
class Dataset:
    """A COCO keypoint dataset on disk."""

    images: Path
    annotations: Path

    def config(self, **values: Any) -> RunConfig:
        """Returns a configuration of a run on this dataset, by default with the oracle inline.

        The driver reads and reducers group, because `auto` depends on how fast the machine is.
        """
        data = {"images": self.images, "annotations": self.annotations, "read": "driver"}
        defaults = {"backend": "oracle", "engine": "inline", "gather": "maps", "reducers": 1}
        return parse_config({**defaults, **values, "data": {**data, **values.pop("data", {})}})

    def records(self) -> tuple[ImageRecord, ...]:
        """Returns the images that the annotations list, by id."""
        return load_index(self.annotations).images

    def times(self, number: int, folder: Path) -> "Dataset":
        """Returns a dataset that lists the same images several times, under other ids."""
        content = json.loads(self.annotations.read_text())
        steps = {
            key: 1 + max(entry["id"] for entry in content[key]) for key in ("images", "annotations")
        }
        many: dict[str, Any] = {**content, "images": [], "annotations": []}
        for turn in range(number):
            for image in content["images"]:
                shifted = {"id": image["id"] + turn * steps["images"]}
                many["images"].append({**image, **shifted})
            for annotation in content["annotations"]:
                shifted = {
                    "id": annotation["id"] + turn * steps["annotations"],
                    "image_id": annotation["image_id"] + turn * steps["images"],
                }
                many["annotations"].append({**annotation, **shifted})
        path = folder / f"{number}-times.json"
        path.write_text(json.dumps(many))
        return Dataset(self.images, path)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images, networks and reference results."""
    folder = Path(os.environ.get("DISTRIBUTED_POSE_SHARED", _REPOSITORY.parent / "shared"))
    if not (folder / "coco-mini").is_dir():
        pytest.skip(f"reference data not found at {folder}; set DISTRIBUTED_POSE_SHARED")
    return folder


@pytest.fixture(scope="session")
def coco_mini(shared: Path) -> Dataset:
    """Fifty real images of COCO val2017."""
    folder = shared / "coco-mini"
    return Dataset(folder / "val2017", folder / "annotations" / "person_keypoints_val2017.json")


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A dozen rendered images, made from a seed."""
    written = write_dataset(tmp_path_factory.mktemp("people"), num_images=12, seed=7)
    return Dataset(written.images, written.annotations)


@pytest.fixture(scope="session")
def crowd(people: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The rendered images ten times."""
    return people.times(10, tmp_path_factory.mktemp("crowd"))


@pytest.fixture(scope="session")
def undisturbed(crowd: Dataset, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The `detections.json` of a run over the crowd without faults."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert evaluate(crowd.config(), folder).complete
    return (folder / "detections.json").read_bytes()


@pytest.fixture
def run(run_with_progress: Run) -> Run:
    """Runs the command in this process, in an empty folder; its stderr has no progress."""

    def command(*arguments: str) -> tuple[int, str, str]:
        code, out, err = run_with_progress(*arguments)
        return code, out, PROGRESS_LINE.sub("", err)

    return command


@pytest.fixture
def run_with_progress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Run:
    """Runs the command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["distributed-pose", *arguments])
        level = logging.getLogger().level
        with pytest.raises(SystemExit) as exit_:
            main()
        # The command sets it for the process.
        logging.getLogger().setLevel(level)
        out, err = capsys.readouterr()
        return int(exit_.value.code or 0), out, err

    return command


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Stage":
    """The place in which tests inject faults of actors."""
    # The module imports Ray, which most tests do not need.
    from tests.faults import Scene, Stage

    (tmp_path / "scene").mkdir()
    return Stage(Scene(tmp_path / "scene"), monkeypatch)


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """One local Ray for the tests of a module; runs join it and do not stop it."""
    import ray

    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=256 * 2**20
    )
    yield
    ray.shutdown()

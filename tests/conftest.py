"""Fixtures of all tests: the shared reference data, and a small dataset made on the spot."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from distributed_pose import RunConfig, parse_config
from distributed_pose.demo.dataset import write_dataset

_REPOSITORY = Path(__file__).parents[1]


@dataclass(frozen=True)
class Dataset:
    """A COCO keypoint dataset on disk."""

    images: Path
    annotations: Path

    def config(self, **values: Any) -> RunConfig:
        """Returns a configuration of a run on this dataset, by default with the oracle inline."""
        data = {"images": self.images, "annotations": self.annotations, **values.pop("data", {})}
        return parse_config({"backend": "oracle", "engine": "inline", **values, "data": data})


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


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """One local Ray for the tests of a module; runs find it and leave it running."""
    import ray

    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=256 * 2**20
    )
    yield
    ray.shutdown()

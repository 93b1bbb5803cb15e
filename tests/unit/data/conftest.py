"""The demo's index and packed dataset, which tests of this room share."""

from pathlib import Path

import pytest

from distributed_pose.data.coco import CocoIndex, load_index
from distributed_pose.data.packing import pack_dataset
from distributed_pose.data.sources import FolderImages
from tests.conftest import Dataset


@pytest.fixture
def index(people: Dataset) -> CocoIndex:
    return load_index(people.annotations)


@pytest.fixture
def packed(people: Dataset, index: CocoIndex, tmp_path: Path) -> Path:
    pack_dataset(index, FolderImages(people.images), str(tmp_path / "packed"))
    return tmp_path / "packed"

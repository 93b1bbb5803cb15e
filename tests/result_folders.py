"""Result folders of the benchmark tools, in all the forms that they write."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from distributed_pose.backends.base import BackendOptions, InputBatch
from distributed_pose.backends.oracle import OracleBackend
from distributed_pose.recordings.pads import output_name, pads_content
from distributed_pose.vision.profiles import PROFILES
from tests.conftest import Dataset

# The four outputs of an image in the order of the model, or only the last two.
Outputs = tuple[np.ndarray, ...]

GRID = (46, 80)


def write_results(
    folder: Path,
    outputs: Mapping[str, Outputs],
    suffix: str = ".bin",
    first: int = 0,
    dtype: str = "<f4",
    digits: int = 9,
) -> Path:
    """Writes a file for each output of each image, and returns the folder.

    Args:
        folder: new folder.
        outputs: arrays by name of the image.
        suffix: `.bin` or `.txt`.
        first: number of the first output.
        dtype: type of the values in binary files.
        digits: number of digits in text; 9 keep every float32, and `cann-benchmark` writes 6.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, arrays in outputs.items():
        for number, array in enumerate(arrays, first):
            path = folder / f"{name}_{number}{suffix}"
            if suffix == ".bin":
                path.write_bytes(array.astype(dtype).tobytes())
            else:
                path.write_text(text(array, digits))
    return folder


def text(array: np.ndarray, digits: int = 9) -> str:
    if not array.any():
        return "0 " * array.size
    return "".join(map(f"%.{digits}g ".__mod__, array.ravel().tolist()))


def oracle_outputs(dataset: Dataset, profile: str = "modelzoo") -> dict[str, Outputs]:
    """Returns heatmaps and PAFs by name of the image, drawn from the annotations."""
    backend = OracleBackend(dataset.annotations.read_bytes(), BackendOptions())
    outputs: dict[str, Outputs] = {}
    for image in dataset.records():
        geometry = PROFILES[profile].geometry(image.height, image.width)
        shape = PROFILES[profile].input_shape(image.height, image.width)
        inputs_13HW = np.zeros((1, *shape), np.float32)
        maps = backend.infer(InputBatch((image.image_id,), (geometry,), inputs_13HW))
        outputs[output_name(image.file_name)] = (maps.heatmaps_NKHW[0], maps.pafs_NPHW[0])
    return outputs


def with_first_stage(outputs: Mapping[str, Outputs]) -> dict[str, Outputs]:
    """Returns four outputs for two, with those of a first stage without people before them."""
    return {name: (*map(np.zeros_like, last), *last) for name, last in outputs.items()}


def write_pads(path: Path, dataset: Dataset, profile: str = "modelzoo") -> Path:
    """Returns the path of a `pad.txt` of all images."""
    geometry = PROFILES[profile].geometry
    pads = [(i.file_name, geometry(i.height, i.width)) for i in dataset.records()]
    path.write_bytes(pads_content(pads))
    return path

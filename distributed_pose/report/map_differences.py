"""Compares the maps of two runs of one model, output by output.

Array legend: C channels of an output, M all channels of heatmaps and PAFs, H and W map size in
cells.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distributed_pose.data.entries import ListedId
from distributed_pose.keypoints.sets import KeypointSet

Maps = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class MapRun:
    """The device that computed the maps of a run's devices for the comparison.

    Attributes:
        folder: output folder of the run.
        names: names of the devices of the run that it stands for, whose kind, backend and precision
            are the same.
        device: the device's own name.
        backend: backend that ran the model.
        precision: precision that the compiled model computed in.
    """

    folder: str
    names: tuple[str, ...]
    device: str
    backend: str
    precision: str

    def __str__(self) -> str:
        devices = ", ".join(self.names)
        return f"{self.backend} {self.precision} on {self.device} ({self.folder}: {devices})"


@dataclass(frozen=True, kw_only=True)
class MapDifference:
    """The absolute differences of one output between two runs, over all images and cells.

    Attributes:
        output: `heatmap` with its keypoint or `background`, or `PAF` with its limb, whose two
            channels are compared together.
        largest: largest difference.
        median: median of the differences.
        range: largest value of the output in the first run, less its smallest one.
        relative: largest difference divided by the range; null if the output is constant.
        image_id: id of the image with the largest difference, in the annotation file.
        file_name: file name of this image in the annotation file.
        row: row of the cell with the largest difference, from 0 at the top.
        column: column of this cell, from 0 at the left.
    """

    output: str
    largest: float
    median: float
    range: float
    relative: float | None
    image_id: ListedId
    file_name: str
    row: int
    column: int


@dataclass(frozen=True, kw_only=True)
class MapComparison:
    """The maps of two runs of one model, computed again for some of their images.

    Attributes:
        images: number of images.
        first: device of the first run.
        second: device of the second run.
        outputs: differences by output, the largest relative difference first.
    """

    images: int
    first: MapRun
    second: MapRun
    outputs: tuple[MapDifference, ...]


def map_differences(
    images: Sequence[tuple[ListedId, str]],
    first: Sequence[Maps],
    second: Sequence[Maps],
    keypoints: KeypointSet,
) -> tuple[MapDifference, ...]:
    """Returns the differences by output, the largest relative difference first.

    Args:
        images: id and file name of each image.
        first: maps [M, H, W] of each image in the first run: heatmaps, then PAFs.
        second: maps of the same images in the second run.
        keypoints: keypoint set of the model.
    """
    found = [
        _difference(name, channels, images, first, second) for name, channels in _outputs(keypoints)
    ]
    return tuple(sorted(found, key=_size))


def _size(one: MapDifference) -> float:
    """Returns a key by which the largest relative difference comes first."""
    if one.relative is None:
        return -np.inf if one.largest else 0.0
    return -one.relative


def _outputs(keypoints: KeypointSet) -> Iterator[tuple[str, list[int]]]:
    """Yields the name and the channels of each output."""
    names, first = keypoints.keypoints, keypoints.num_heatmaps
    for channel, name in enumerate((*names, "background")):
        yield f"heatmap {name}", [channel]
    for limb in keypoints.limbs:
        name = f"PAF {names[limb.start]} to {names[limb.end]}"
        yield name, [first + limb.paf_x, first + limb.paf_y]


def _difference(
    name: str,
    channels: list[int],
    images: Sequence[tuple[ListedId, str]],
    first: Sequence[Maps],
    second: Sequence[Maps],
) -> MapDifference:
    before = [maps_MHW[channels] for maps_MHW in first]
    pairs = zip(before, second, strict=True)
    gaps = [np.abs(maps_MHW[channels] - before_CHW) for before_CHW, maps_MHW in pairs]
    where = int(np.argmax([gap_CHW.max() for gap_CHW in gaps]))
    worst_CHW = gaps[where]
    _, row, column = np.unravel_index(worst_CHW.argmax(), worst_CHW.shape)
    largest = float(worst_CHW.max())
    span = float(max(maps.max() for maps in before) - min(maps.min() for maps in before))
    return MapDifference(
        output=name,
        largest=largest,
        median=float(np.median(np.concatenate([gap_CHW.ravel() for gap_CHW in gaps]))),
        range=span,
        relative=largest / span if span else None,
        image_id=images[where][0],
        file_name=images[where][1],
        row=int(row),
        column=int(column),
    )

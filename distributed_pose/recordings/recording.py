"""Reads and writes the maps of a folder whose layout is known.

Array legend: K heatmaps, P PAF channels, H and W map size in cells.
"""

from dataclasses import dataclass
from pathlib import Path

from distributed_pose.recordings.layout import Layout
from distributed_pose.recordings.values import Array, read_maps, write_maps

# The layout that `ais_bench` writes for a model with only the last stage.
LAYOUT = Layout(".bin", (0, 1), 0, 1)


@dataclass(frozen=True)
class Recording:
    """The maps of a run in files; several threads may use it at once.

    Attributes:
        folder: path of the folder, which must be the same for all processes that read from it.
        layout: layout of the files.
    """

    folder: str
    layout: Layout = LAYOUT

    def read(
        self, name: str, channels: tuple[int, int], grid: tuple[int, int]
    ) -> tuple[Array, Array]:
        """Returns heatmaps [K, H, W] and PAFs [P, H, W] of the last stage.

        Args:
            name: base name of the image's files.
            channels: K and P.
            grid: H and W.

        Raises:
            SetupError: if a file is missing or damaged; names it.
        """
        numbers = self.layout.heatmaps, self.layout.pafs
        heatmaps_KHW, pafs_PHW = (
            read_maps(self._path(name, number), self.layout.dtype, (size, *grid))
            for number, size in zip(numbers, channels, strict=True)
        )
        return heatmaps_KHW, pafs_PHW

    def write(self, name: str, heatmaps_KHW: Array, pafs_PHW: Array) -> None:
        """Writes the maps of an image as float32.

        Raises:
            ExecutionError: if a file cannot be written; names it.
        """
        write_maps(self._path(name, self.layout.heatmaps), heatmaps_KHW)
        write_maps(self._path(name, self.layout.pafs), pafs_PHW)

    def _path(self, name: str, number: int) -> Path:
        return Path(self.folder, self.layout.file_name(name, number))

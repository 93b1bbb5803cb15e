"""A result folder whose layout is known.

Array legend: K heatmaps, P PAF channels, H and W map size in cells.
"""

from dataclasses import dataclass
from pathlib import Path

from distributed_pose.pose.skeleton import NUM_HEATMAPS, NUM_PAFS
from distributed_pose.recordings.layout import Layout
from distributed_pose.recordings.values import Array, read_maps, write_maps

# As `ais_bench` writes the outputs of a model that has the last stage alone.
LAYOUT = Layout(".bin", (0, 1), 0, 1)


@dataclass(frozen=True)
class Recording:
    """The maps of a run in files; may be used by several threads.

    Attributes:
        folder: that every process which reads from it can see.
        layout: of the files.
    """

    folder: str
    layout: Layout = LAYOUT

    def read(self, name: str, grid: tuple[int, int]) -> tuple[Array, Array]:
        """Returns heatmaps [19, H, W] and PAFs [38, H, W] of the last stage.

        Args:
            name: of the image's files.
            grid: H and W.

        Raises:
            SetupError: if a file is missing or damaged; names it.
        """
        parts = ((self.layout.heatmaps, NUM_HEATMAPS), (self.layout.pafs, NUM_PAFS))
        heatmaps_KHW, pafs_PHW = (
            read_maps(self._path(name, number), self.layout.dtype, (channels, *grid))
            for number, channels in parts
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

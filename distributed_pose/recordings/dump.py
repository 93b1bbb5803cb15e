"""Prepares and completes the folder in which the workers of a run record their maps."""

from collections.abc import Collection, Mapping, Sequence
from math import prod
from pathlib import Path

from distributed_pose.errors import ExecutionError, SetupError
from distributed_pose.files.local import write_atomically
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.recordings.card import Card, read_card, write_card
from distributed_pose.recordings.pads import PAD_FILE, output_names, pads_content
from distributed_pose.recordings.recording import LAYOUT
from distributed_pose.records.images import STRIDE, ImageRecord, InputSize
from distributed_pose.vision.profiles import PROFILES

_FLOAT_BYTES = 4


class MapsDump:
    """A folder for the maps of one run, which its workers write image by image.

    Args:
        folder: path of the folder, which must be the same on every node of a cluster.
        images: images of the run.
        fingerprint: fingerprint of the run, by part.
        keypoints: keypoint set of the run.

    Raises:
        SetupError: if two images would have files of the same name.
    """

    def __init__(
        self,
        folder: Path,
        images: Sequence[ImageRecord],
        fingerprint: Mapping[str, str],
        keypoints: KeypointSet,
    ) -> None:
        self._folder = folder
        self._images = images
        self._names = output_names(images)
        self._fingerprint = dict(fingerprint)
        self._channels = keypoints.num_heatmaps, keypoints.num_pafs
        self._profile = PROFILES[fingerprint["profile"]].sized(
            InputSize.parse(fingerprint["input"])
        )

    def check_owner(self, *, restart: bool) -> None:
        """Checks that the folder is empty or belongs to this run, before any file is deleted.

        Args:
            restart: whether the maps of another run may be deleted.

        Raises:
            SetupError: if it holds any other files.
        """
        card = read_card(self._folder)
        if card is None and self._folder.exists() and any(self._folder.iterdir()):
            raise SetupError(
                f"{self._folder} holds files that are not maps of this run",
                "choose another --dump-maps",
            )
        if card and not restart and card.fingerprint != self._fingerprint:
            own = self._fingerprint
            differing = sorted(part for part in own if card.fingerprint.get(part) != own[part])
            raise SetupError(
                f"{self._folder} holds the maps of another run: {', '.join(differing)} differ",
                "choose another --dump-maps, or --restart to delete them",
            )

    def begin(self, settled: Collection[int], *, restart: bool) -> None:
        """Prepares the folder for this run.

        Args:
            settled: ids of images for which earlier sessions have results.
            restart: whether to delete the maps of another run.

        Raises:
            SetupError: if the folder lacks maps of settled images.
        """
        if restart:
            self._clear()
        if missing := self._first_missing(settled):
            raise SetupError(
                f"{self._folder} lacks {missing}: its image was evaluated without --dump-maps",
                "use --restart to evaluate all images again",
            )
        write_card(self._folder, Card(self._fingerprint))

    def finish(self, settled: Collection[int], backend: str, precision: str) -> None:
        """Writes `pad.txt` and the card after the workers have written all maps.

        Args:
            settled: ids of the images that have a result.
            backend: backend that computed the maps.
            precision: precision that the maps were computed in.

        Raises:
            ExecutionError: if maps are missing.
        """
        if missing := self._first_missing(settled):
            raise ExecutionError(
                f"{self._folder} lacks {missing}, although a worker has written it",
                "--dump-maps must be a folder that all nodes of the cluster share",
            )
        for image in self._images:
            if image.image_id not in settled:
                self._drop(self._names[image.image_id])
        pads = sorted(
            (Path(image.file_name).name, self._profile.geometry(image.height, image.width))
            for image in self._images
            if image.image_id in settled
        )
        write_atomically(self._folder / PAD_FILE, pads_content(pads))
        write_card(self._folder, Card(self._fingerprint, backend, precision))

    def _clear(self) -> None:
        for path in (*self._folder.glob("*_[01].bin"), self._folder / PAD_FILE):
            path.unlink(missing_ok=True)

    def _drop(self, name: str) -> None:
        """Deletes the maps of an image that failed after its inference."""
        for number in LAYOUT.numbers:
            (self._folder / LAYOUT.file_name(name, number)).unlink(missing_ok=True)

    def _first_missing(self, settled: Collection[int]) -> str:
        """Returns the name of the first missing or incomplete file, or "" if there is none.

        A file can be incomplete after a power failure.
        """
        for image in self._images:
            if image.image_id in settled:
                cells = prod(self._profile.input_shape(image.height, image.width)[1:]) // STRIDE**2
                for number, channels in enumerate(self._channels):
                    name = LAYOUT.file_name(self._names[image.image_id], number)
                    if _size(self._folder / name) != cells * channels * _FLOAT_BYTES:
                        return name
        return ""


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None

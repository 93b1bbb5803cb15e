"""Step 3 of the guide: writes network inputs to files, and the list of these files."""

import logging
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from distributed_pose.data.packed_groups import MAX_FILE_BYTES
from distributed_pose.devices.host import num_cpus
from distributed_pose.errors import SetupError
from distributed_pose.files.local import check_not_input, read_regular, write_atomically
from distributed_pose.recordings.pads import output_name, pads_content
from distributed_pose.records.images import Damage, Geometry, InputSize
from distributed_pose.report.run_report import damage_summary
from distributed_pose.vision.decode import Decoded, decode_unlisted_image
from distributed_pose.vision.headers import UndecodableImageError
from distributed_pose.vision.preprocess import preprocess
from distributed_pose.vision.profiles import PROFILES, Profile

# Called with the total number of images and the number done.
Progress = Callable[[int, int], None]

_LOG = logging.getLogger(__name__)

_PROFILE = PROFILES["modelzoo"]


def preprocess_folder(
    images: Path,
    output: Path,
    pad_file: Path,
    on_progress: Progress | None = None,
    size: InputSize | None = None,
) -> int:
    """Writes a `.bin` file and a line in `pad.txt` for each image; returns the number of images.

    A `.bin` file is the network input of profile `modelzoo`: float32 [3, 368, 640] by default,
    little-endian, without a header. The lines are in the order of the file names.

    Args:
        images: folder of images; files whose name starts with a dot are skipped.
        output: folder for the `.bin` files.
        pad_file: path of `pad.txt`, which is written after all images.
        on_progress: called after each image with the total number and the number done.
        size: size of the network inputs; None for that of the profile.

    Raises:
        SetupError: if the folder has no images, or one cannot be read; names it.
        ExecutionError: if a file cannot be written; names it.
    """
    names = _image_names(images)
    _check_outputs([pad_file, *(_input_file(output, name) for name in names)], images, names)
    pads: list[tuple[str, Geometry]] = []
    damaged: list[Damage] = []
    write = _Writer(images, output, _PROFILE.sized(size))
    # Decoding, resizing and writing release the interpreter lock.
    with ThreadPoolExecutor(num_cpus()) as pool:
        for name, (geometry, damage) in zip(names, pool.map(write, names), strict=True):
            pads.append((name, geometry))
            if damage:
                damaged.append(Damage(len(pads), name, damage))
            if on_progress:
                on_progress(len(names), len(pads))
    write_atomically(pad_file, pads_content(pads))
    if damaged:
        _LOG.warning("%s", damage_summary(damaged))
    return len(pads)


def write_info(folder: str, info_file: Path, width: int, height: int) -> int:
    """Writes a line `INDEX PATH.bin WIDTH HEIGHT` per file in order; returns the number of lines.

    Args:
        folder: folder of the `.bin` files, in the form that the paths begin with.
        info_file: path of the info file.
        width: width of the network input in pixels.
        height: height of the network input in pixels.

    Raises:
        SetupError: if the folder has no `.bin` files.
        ExecutionError: if the info file cannot be written.
    """
    names = sorted(name for name in _listed(Path(folder)) if name.endswith(".bin"))
    if not names:
        raise SetupError(
            f"{folder} holds no .bin files", "write them with `distributed-pose guide preprocess`"
        )
    _check_outputs([info_file], Path(folder), names)
    lines = (
        f"{index} {os.path.join(folder, name)} {width} {height}\n"  # noqa: PTH118 - as it was given
        for index, name in enumerate(names)
    )
    write_atomically(info_file, "".join(lines).encode(errors="surrogateescape"))
    return len(names)


class _Writer:
    """Preprocesses an image by name; several threads may call it.

    Each thread reuses one buffer, because new memory per image would take a third of the time.
    """

    def __init__(self, images: Path, output: Path, profile: Profile) -> None:
        self._images = images
        self._output = output
        self._profile = profile
        self._own = threading.local()

    def __call__(self, name: str) -> tuple[Geometry, str]:
        """Writes the network input of an image; returns its geometry and the damage of its file."""
        if not hasattr(self._own, "input_3HW"):
            self._own.input_3HW = np.empty((3, *self._profile.size), "<f4")
        image_HW3, damage = self._decoded(name)
        _, geometry = preprocess(image_HW3, self._profile, self._own.input_3HW)
        content = memoryview(self._own.input_3HW)
        write_atomically(_input_file(self._output, name), content, durable=False)
        return geometry, damage

    def _decoded(self, name: str) -> Decoded:
        path = self._images / name
        try:
            return decode_unlisted_image(read_regular(path, MAX_FILE_BYTES))
        except OSError as error:
            raise SetupError(f"cannot read {path}: {error.strerror}") from None
        except UndecodableImageError as error:
            hint = "every file in the folder must be an image"
            raise SetupError(f"{path}: {error}", hint) from None


def _input_file(folder: Path, name: str) -> Path:
    """Returns the path of an image's network input."""
    return folder / f"{output_name(name)}.bin"


def _check_outputs(outputs: Iterable[Path], folder: Path, names: Collection[str]) -> None:
    """Checks that no output is a file of the folder that is read."""
    listed = set(names)
    for path in outputs:
        if path.name in listed:
            check_not_input(path, {f"a file of {folder}": folder / path.name})


def _image_names(folder: Path) -> list[str]:
    names = sorted(name for name in _listed(folder) if not name.startswith("."))
    if not names:
        raise SetupError(f"{folder} holds no images", "set --src-path to a folder of images")
    owners: dict[str, str] = {}
    for name in names:
        before = owners.setdefault(output_name(name), name)
        if before != name:
            raise SetupError(
                f"{folder}: {before} and {name} would both be {output_name(name)}.bin",
                "rename one of them",
            )
    return names


def _listed(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            yield from [entry.name for entry in entries if entry.is_file()]
    except OSError as error:
        raise SetupError(f"cannot list {folder}: {error.strerror}", "it must be a folder") from None

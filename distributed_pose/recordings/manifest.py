"""Writes and reads the manifest of a recording, which the recorded backend gets instead of a model.

It names the files of each image. The maps stay on disk, 839,040 bytes per image, and each worker
reads those of its images.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from distributed_pose.errors import SetupError, shown
from distributed_pose.files.local import sha256_hex
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.recordings.card import Card, read_card
from distributed_pose.recordings.layout import Found, Layout, find_layout, missing_file, scan
from distributed_pose.recordings.pads import PAD_FILE, check_pads, output_names, read_pads
from distributed_pose.recordings.recording import Recording
from distributed_pose.records.images import STRIDE, ImageRecord, InputSize
from distributed_pose.vision.profiles import Profile


@dataclass(frozen=True)
class Manifest:
    """The recorded maps of a run's images.

    Attributes:
        recording: folder and layout of the files.
        names: name of each image's files, by image id.
        missing: ids of the images for which the recorded run has no result.
        precision: precision that the maps were computed in; `unknown` without a card.
    """

    recording: Recording
    names: dict[int, str]
    missing: frozenset[int]
    precision: str


def describe_recording(
    folder: Path, images: Sequence[ImageRecord], profile: Profile, keypoints: KeypointSet
) -> tuple[bytes, str]:
    """Returns the manifest of a folder for a run, serialised, and a digest of its files.

    Args:
        folder: folder of recorded maps, in any layout that `recordings.layout` detects.
        images: images of the run.
        profile: profile of the run.
        keypoints: keypoint set of the run.

    Raises:
        SetupError: if the folder is ambiguous, lacks a file, or has another profile, input size or
            keypoint set; names it.
    """
    card = read_card(folder) or Card()
    for key, own in (
        ("profile", profile.name),
        ("input", str(profile.size)),
        ("keypoints", keypoints.identity),
    ):
        recorded = card.fingerprint.get(key, own)
        if recorded != own:
            value = "FILE of that set" if key == "keypoints" else recorded
            raise SetupError(
                f"{folder} was recorded with {key} {recorded}, but the run has {key} {own}",
                f"set {key}={value}",
            )
    names = output_names(images)
    shapes = ((i, profile.input_shape(i.height, i.width)) for i in images)
    grids = {names[i.image_id]: (rows // STRIDE, cols // STRIDE) for i, (_, rows, cols) in shapes}
    found = scan(folder)
    layout = find_layout(folder, found, grids, keypoints)
    values = {
        "folder": str(folder),
        "layout": asdict(layout),
        "names": names,
        "missing": _missing(folder, found, layout, images, profile),
        "precision": card.precision or "unknown",
    }
    files = sorted((key, asdict(facts)) for key, facts in found.items() if key[0] in grids)
    return json.dumps(values).encode(), sha256_hex(json.dumps(files).encode())


def recorded_input(folder: Path) -> InputSize | None:
    """Returns the input size of a recording; None if its folder does not say it.

    Raises:
        SetupError: if the card of the folder is damaged.
    """
    card = read_card(folder)
    text = card.fingerprint.get("input", "") if card else ""
    try:
        return InputSize.parse(text) if text else None
    except ValueError:
        raise SetupError(
            f"{folder} has a card with input {shown(text)}, which is not HEIGHTxWIDTH",
            "record the maps again",
        ) from None


def load_manifest(content: bytes) -> Manifest:
    """Returns a manifest from its serialised form."""
    values = json.loads(content)
    layout = Layout(**{**values["layout"], "numbers": tuple(values["layout"]["numbers"])})
    return Manifest(
        Recording(values["folder"], layout),
        {int(image_id): name for image_id, name in values["names"].items()},
        frozenset(values["missing"]),
        values["precision"],
    )


def _missing(
    folder: Path, found: Found, layout: Layout, images: Sequence[ImageRecord], profile: Profile
) -> list[int]:
    """Returns ids of the images without result in the recorded run; `pad.txt` does not list them.

    Raises:
        SetupError: if an output of a listed image is missing; names its file.
    """
    pad_file = folder / PAD_FILE
    pads = read_pads(pad_file) if pad_file.exists() else None
    if pads is not None:
        check_pads(pad_file, pads, images, profile)
    names = output_names(images)
    lacking = {i: missing_file(found, layout, names[i.image_id]) for i in images}
    for image, file_name in lacking.items():
        if file_name and (pads is None or Path(image.file_name).name in pads):
            raise SetupError(
                f"{folder / file_name} is missing", "data.limit=N evaluates only the first N images"
            )
    return [image.image_id for image, file_name in lacking.items() if file_name]

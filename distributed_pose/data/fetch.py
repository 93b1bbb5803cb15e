"""Fetches the published dataset and checkpoint into a folder."""

import stat
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath, PureWindowsPath

from distributed_pose.data.download import Download, OnProgress, download
from distributed_pose.errors import SetupError
from distributed_pose.files.local import write_atomically

# Sizes and SHA-256: TensorFlow Datasets, tensorflow_datasets/url_checksums/coco.txt.
COCO_VAL2017 = (
    Download(
        url="http://images.cocodataset.org/zips/val2017.zip",
        file_name="val2017.zip",
        size_bytes=815_585_330,
        sha256="4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        members=("val2017/*.jpg",),
        max_extracted_bytes=2 * 10**9,
    ),
    Download(
        url="http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
        file_name="annotations_trainval2017.zip",
        size_bytes=252_907_541,
        sha256="113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
        members=("annotations/person_keypoints_val2017.json",),
        max_extracted_bytes=10**8,
    ),
)
# The authors publish neither the size nor a digest.
LIGHTWEIGHT_OPENPOSE = Download(
    url=(
        "https://download.01.org/opencv/openvino_training_extensions/models/"
        "human_pose_estimation/checkpoint_iter_370000.pth"
    ),
    file_name="checkpoint_iter_370000.pth",
)

_CHUNK_BYTES = 2**20
_Archive = zipfile.ZipFile
_Member = zipfile.ZipInfo


@dataclass(frozen=True)
class CocoFiles:
    """Paths of a COCO dataset.

    Attributes:
        images: folder of the JPEG files.
        annotations: COCO person-keypoint annotation file.
    """

    images: Path
    annotations: Path


def fetch_coco_val2017(
    folder: Path,
    on_progress: OnProgress | None = None,
    sources: tuple[Download, Download] = COCO_VAL2017,
) -> CocoFiles:
    """Returns the paths of COCO val2017, downloaded and extracted into the folder.

    Files that exist and are complete are neither downloaded nor extracted again.

    Args:
        folder: target folder; created if it does not exist.
        on_progress: called with the name of the current step, the bytes done, and the total bytes
            or None.
        sources: archives of the images and of the annotations.

    Raises:
        SetupError: if a file cannot be downloaded, or an archive is damaged or unsafe; says what
            to do next.
        ExecutionError: if an extracted file cannot be written; names it.
    """
    for source, archive in zip(sources, download(sources, folder, on_progress), strict=True):
        extract(source, archive, folder, on_progress)
    annotations = folder / "annotations" / "person_keypoints_val2017.json"
    return CocoFiles(folder / "val2017", annotations)


def fetch_checkpoint(
    folder: Path,
    on_progress: OnProgress | None = None,
    source: Download = LIGHTWEIGHT_OPENPOSE,
) -> Path:
    """Returns the path of the published checkpoint of Lightweight OpenPose in the folder.

    Args:
        folder: target folder; created if it does not exist.
        on_progress: called with the file's name, the bytes done, and the total bytes or None.
        source: the checkpoint.

    Raises:
        SetupError: if the file cannot be downloaded or written; says what to do next.
    """
    return download([source], folder, on_progress)[0]


def extract(
    source: Download, archive: Path, folder: Path, on_progress: OnProgress | None = None
) -> None:
    """Extracts the wanted members of an archive; complete files of earlier calls are kept.

    Raises:
        SetupError: if the archive is damaged, lacks a wanted member, or has a member that leaves
            the folder; no member of such an archive is extracted.
        ExecutionError: if a file cannot be written; names it.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            members = _wanted(source, archive, content.infolist())
            _extract(content, members, folder, archive.name, on_progress)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        hint = "remove it, then run this command again"
        raise SetupError(f"{archive} is damaged: {error}", hint) from None
    except OSError as error:
        raise SetupError(f"cannot extract {archive}: {error}") from None


def _wanted(source: Download, archive: Path, members: list[_Member]) -> list[_Member]:
    for member in members:
        if fault := _danger(member):
            raise SetupError(
                f"{archive}: member {member.filename!r} {fault}, so nothing was extracted",
                f"download the archive again from {source.url}",
            )
    wanted = [member for pattern in source.members for member in _matching(members, pattern)]
    if sum(member.file_size for member in wanted) > source.max_extracted_bytes:
        raise SetupError(f"{archive}: extracts to more than {source.max_extracted_bytes} bytes")
    return wanted


def _matching(members: list[_Member], pattern: str) -> Iterator[_Member]:
    found = [m for m in members if not m.is_dir() and fnmatchcase(m.filename, pattern)]
    if not found:
        raise zipfile.BadZipFile(f"holds no {pattern}")
    yield from found


def _danger(member: _Member) -> str:
    # Both kinds of paths, because an archive may have been written on another system.
    paths = PurePosixPath(member.filename), PureWindowsPath(member.filename)
    if any(path.anchor or ".." in path.parts for path in paths):
        return "is outside the folder"
    # The upper 16 bits hold the file's Unix mode.
    return "is a symbolic link" if stat.S_ISLNK(member.external_attr >> 16) else ""


def _extract(
    content: _Archive,
    members: list[_Member],
    folder: Path,
    name: str,
    on_progress: OnProgress | None,
) -> None:
    done, total = 0, sum(member.file_size for member in members)
    for member in members:
        path = folder / member.filename
        if not _is_extracted(path, member):
            write_atomically(path, _read(content, member))
        done += member.file_size
        if on_progress:
            on_progress(f"extracting {name}", done, total)


def _is_extracted(path: Path, member: _Member) -> bool:
    if not path.is_file() or path.stat().st_size != member.file_size:
        return False
    return zlib.crc32(path.read_bytes()) == member.CRC


def _read(content: _Archive, member: _Member) -> bytes:
    # In chunks, because one read would inflate a whole zip bomb before it checks the declared size.
    with content.open(member) as stream:
        return b"".join(iter(lambda: stream.read(_CHUNK_BYTES), b""))

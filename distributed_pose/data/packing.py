"""Packs a dataset into Parquet files, for workers that read from an object store or shared disk."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distributed_pose.data.coco import CocoIndex
from distributed_pose.data.packed_images import PACKED
from distributed_pose.data.shards import read_image
from distributed_pose.data.sources import ImageSource
from distributed_pose.errors import ExecutionError, SetupError
from distributed_pose.files.local import one_line
from distributed_pose.files.storage import Folder, filesystem_of
from distributed_pose.locations import Location
from distributed_pose.records.images import Failure, ImageRecord

# A worker reads one row group at a time: one or two batches, in a few megabytes. Groups of large
# images have fewer of them, because readers accept no more than the largest image takes.
_IMAGES_PER_GROUP = 16
_BYTES_PER_GROUP = 2**26
_IMAGES_PER_FILE = 1024

ANNOTATIONS = "annotations.json"

_PARTIAL = ".partial"


def pack_dataset(
    index: CocoIndex,
    source: ImageSource,
    location: str | Location,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes the images and annotations of a dataset into a folder, as a complete dataset.

    Args:
        index: index of the dataset.
        source: source of its images.
        location: path or URI of the folder, which must be empty or not exist.
        on_progress: called with the total number of images and the number of packed images.

    Raises:
        SetupError: if the folder is not empty, or no filesystem supports its URI.
        ExecutionError: if an image cannot be read, or a file cannot be written. All files of this
            call are deleted in that case.
    """
    folder = Folder(location)
    filesystem, path = filesystem_of(location, "the folder")
    if not folder.is_empty():
        raise SetupError(f"{folder} is not empty", "choose an empty folder, or a new one")
    with _removed_on_failure(folder) as made:
        # Written first, so that a folder that has images always has their annotations.
        made.append(ANNOTATIONS)
        folder.write(ANNOTATIONS, json.dumps(_ground_truth(index)))
        for number, start in enumerate(range(0, len(index.images), _IMAGES_PER_FILE)):
            part = index.images[start : start + _IMAGES_PER_FILE]
            name = f"images-{number:05d}.parquet"
            made += [name, f"{name}{_PARTIAL}"]
            try:
                _write(filesystem, f"{path}/{name}", part, source)
            except (OSError, pa.ArrowException) as error:
                reason = folder.location.cleaned(one_line(error))
                raise ExecutionError(f"cannot write to {folder}: {reason}") from None
            if on_progress:
                on_progress(len(index.images), start + len(part))


@contextmanager
def _removed_on_failure(folder: Folder) -> Iterator[list[str]]:
    """Yields a list for names of files, which are deleted if the `with` block fails."""
    made: list[str] = []
    try:
        yield made
    # Also after Ctrl-C, because the next call needs an empty folder.
    except BaseException:
        for name in made:
            # The original failure is the more useful message.
            with suppress(ExecutionError):
                folder.delete(name)
        raise


def _write(filesystem: Any, path: str, images: Sequence[ImageRecord], source: ImageSource) -> None:
    """Writes one file atomically."""
    partial = f"{path}{_PARTIAL}"
    with (
        filesystem.open_output_stream(partial) as stream,
        # The images are already compressed.
        closing(pq.ParquetWriter(stream, PACKED, compression="none")) as writer,
    ):
        for group in _groups(images, source):
            writer.write_table(group)
    filesystem.move(partial, path)


def _groups(images: Sequence[ImageRecord], source: ImageSource) -> Iterator[pa.Table]:
    names: list[str] = []
    contents: list[bytes] = []
    for image in images:
        encoded = read_image(image, source)
        if isinstance(encoded, Failure):
            raise ExecutionError(encoded.reason, "repair or remove the image, then pack again")
        total = sum(map(len, contents)) + len(encoded)
        if contents and (len(contents) == _IMAGES_PER_GROUP or total > _BYTES_PER_GROUP):
            yield _table(names, contents)
            names, contents = [], []
        names.append(image.file_name)
        contents.append(encoded)
    yield _table(names, contents)


def _table(names: Sequence[str], contents: Sequence[bytes]) -> pa.Table:
    sizes = [len(content) for content in contents]
    return pa.table([names, sizes, contents], schema=PACKED)


def _ground_truth(index: CocoIndex) -> dict[str, Any]:
    """Returns the content of an annotation file for the images of an index, with the file's ids."""
    kept = {image.image_id for image in index.images}
    truth = index.ground_truth
    people = [one for one in truth["annotations"] if one["image_id"] in kept]
    content = {
        "images": [
            {**image, "id": index.listed_id(image["id"])}
            for image in truth["images"]
            if image["id"] in kept
        ],
        "categories": [{**truth["categories"][0], "id": index.category_id}],
    }
    # A file without the key means unlabelled images; an empty list means images without people.
    return {**content, "annotations": [*index.as_listed(people)]} if index.is_labelled else content

"""A dataset as Parquet files, for workers that read from an object store or a shared disk."""

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distributed_pose.data.coco import CocoIndex
from distributed_pose.data.shards import read_image
from distributed_pose.data.sources import PACKED, ImageSource, is_packed
from distributed_pose.errors import ExecutionError, SetupError
from distributed_pose.files import Folder, filesystem_of
from distributed_pose.records import Failure, ImageRecord

# A group is what a worker reads at once: a batch or two, in a few megabytes.
_IMAGES_A_GROUP = 16
_IMAGES_A_FILE = 1024

ANNOTATIONS = "annotations.json"


def pack_dataset(
    index: CocoIndex,
    source: ImageSource,
    location: str,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes images and annotations of a dataset into a folder, which then holds all of it.

    Args:
        index: of the dataset.
        source: of its images.
        location: path or URI of the folder, in which nothing is packed yet.
        on_progress: called with how many images there are and how many are packed.

    Raises:
        SetupError: if the folder holds packed images, or there is no filesystem for it.
        ExecutionError: if an image cannot be read, or a file cannot be written.
    """
    filesystem, path = filesystem_of(location, "the folder")
    if is_packed(filesystem, path):
        raise SetupError(f"{location} holds packed images", "choose an empty folder")
    # First, so that a folder with images has what they are for.
    Folder(location).write(ANNOTATIONS, json.dumps(_ground_truth(index)))
    for number, start in enumerate(range(0, len(index.images), _IMAGES_A_FILE)):
        part = index.images[start : start + _IMAGES_A_FILE]
        try:
            _write(filesystem, f"{path}/images-{number:05d}.parquet", part, source)
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())
            raise ExecutionError(f"cannot write to {location}: {reason}") from None
        if on_progress:
            on_progress(len(index.images), start + len(part))


def _write(filesystem: Any, path: str, images: Sequence[ImageRecord], source: ImageSource) -> None:
    """Writes one file, of which readers see all or nothing."""
    partial = f"{path}.partial"
    with (
        filesystem.open_output_stream(partial) as stream,
        # The images are compressed already, each by itself.
        closing(pq.ParquetWriter(stream, PACKED, compression="none")) as writer,
    ):
        for start in range(0, len(images), _IMAGES_A_GROUP):
            writer.write_table(_group(images[start : start + _IMAGES_A_GROUP], source))
    filesystem.move(partial, path)


def _group(images: Sequence[ImageRecord], source: ImageSource) -> pa.Table:
    contents = []
    for image in images:
        encoded = read_image(image, source)
        if isinstance(encoded, Failure):
            raise ExecutionError(encoded.reason, "mend or remove the image and pack anew")
        contents.append(encoded)
    names, sizes = [image.file_name for image in images], [len(content) for content in contents]
    return pa.table([names, sizes, contents], schema=PACKED)


def _ground_truth(index: CocoIndex) -> dict[str, Any]:
    """Returns the annotation file of the images of an index alone, with the ids of the file."""
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
    # Without annotations there is nothing to score, which is not the same as with none.
    return {**content, "annotations": index.as_listed(people)} if index.is_labelled else content

"""A dataset as Parquet files, for workers that read from an object store or a shared disk."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distributed_pose.data.coco import CocoIndex
from distributed_pose.data.shards import read_image
from distributed_pose.data.sources import PACKED, ImageSource
from distributed_pose.errors import ExecutionError, SetupError
from distributed_pose.files import one_line
from distributed_pose.locations import Location
from distributed_pose.records import Failure, ImageRecord
from distributed_pose.storage import Folder, filesystem_of

# A group is what a worker reads at once: a batch or two, in a few megabytes. Large images make
# smaller groups, since readers take no more than the largest image.
_IMAGES_A_GROUP = 16
_BYTES_A_GROUP = 2**26
_IMAGES_A_FILE = 1024

ANNOTATIONS = "annotations.json"

_PARTIAL = ".partial"


def pack_dataset(
    index: CocoIndex,
    source: ImageSource,
    location: str | Location,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes images and annotations of a dataset into a folder, which then holds all of it.

    Args:
        index: of the dataset.
        source: of its images.
        location: path or URI of the folder, which is empty or not there.
        on_progress: called with how many images there are and how many are packed.

    Raises:
        SetupError: if the folder holds anything, or there is no filesystem for it.
        ExecutionError: if an image cannot be read, or a file cannot be written. No file of this
            call is left then.
    """
    folder = Folder(location)
    filesystem, path = filesystem_of(location, "the folder")
    if not folder.is_empty():
        raise SetupError(f"{folder} is not empty", "choose an empty folder, or one to be made")
    with _removed_on_failure(folder) as made:
        # First, so that a folder with images has what they are for.
        made.append(ANNOTATIONS)
        folder.write(ANNOTATIONS, json.dumps(_ground_truth(index)))
        for number, start in enumerate(range(0, len(index.images), _IMAGES_A_FILE)):
            part = index.images[start : start + _IMAGES_A_FILE]
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
    """Yields a list for names of files, which are deleted where what is within fails."""
    made: list[str] = []
    try:
        yield made
    # Ctrl-C too: the next call needs an empty folder.
    except BaseException:
        for name in made:
            # The failure is the better message.
            with suppress(ExecutionError):
                folder.delete(name)
        raise


def _write(filesystem: Any, path: str, images: Sequence[ImageRecord], source: ImageSource) -> None:
    """Writes one file, of which readers see all or nothing."""
    partial = f"{path}{_PARTIAL}"
    with (
        filesystem.open_output_stream(partial) as stream,
        # The images are compressed already, each by itself.
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
            raise ExecutionError(encoded.reason, "mend or remove the image and pack anew")
        total = sum(map(len, contents)) + len(encoded)
        if contents and (len(contents) == _IMAGES_A_GROUP or total > _BYTES_A_GROUP):
            yield _table(names, contents)
            names, contents = [], []
        names.append(image.file_name)
        contents.append(encoded)
    yield _table(names, contents)


def _table(names: Sequence[str], contents: Sequence[bytes]) -> pa.Table:
    sizes = [len(content) for content in contents]
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

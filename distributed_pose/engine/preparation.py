"""From the images of a shard to network inputs, on the CPU.

Array legend: N images, H and W size in pixels, 3 the channels blue, green, red.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distributed_pose.backends.base import InputBatch
from distributed_pose.data.digests import content_digest
from distributed_pose.data.shards import read_image, rows_to_read
from distributed_pose.data.sources import ImageSource
from distributed_pose.records import Damage, Failure, ImageRecord
from distributed_pose.vision.decode import decode_image
from distributed_pose.vision.headers import UndecodableImageError
from distributed_pose.vision.preprocess import preprocess
from distributed_pose.vision.profiles import Profile

# An input is as wide as its image where the profile scales by height, however long and thin the
# image: one pixel high and 60,000 wide, it has 22 million columns. This is 70 times a usual input.
_MAX_INPUT_PIXELS = 2**24


class _Decoded(NamedTuple):
    image_id: int
    image_HW3: npt.NDArray[np.uint8]


@dataclass
class Prepared:
    """The prepared images of a shard.

    Attributes:
        batches: network inputs; all inputs of a batch have one shape.
        encoded_bytes: file size, by image id.
        digests: digest of the encoded bytes, by image id.
        failures: images that could not be read or decoded.
        damaged: images that were decoded although their file is damaged.
        durations: nanoseconds per image, by stage.
    """

    batches: list[InputBatch] = field(default_factory=list)
    encoded_bytes: dict[int, int] = field(default_factory=dict)
    digests: dict[int, str] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    damaged: list[Damage] = field(default_factory=list)
    durations: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))


class Preparation:
    """Reads, decodes and preprocesses images. It is thread-safe.

    Args:
        profile: preprocessing profile.
        source: place of the images that shards only list by name; None if shards carry them.
        fails_damaged: whether a damaged file is a failure even if it can be decoded.
    """

    def __init__(
        self, profile: Profile, source: ImageSource | None, *, fails_damaged: bool = False
    ) -> None:
        self._profile = profile
        self._source = source
        self._fails_damaged = fails_damaged

    def prepare(self, images: pa.RecordBatch, batch_size: int) -> Prepared:
        """Returns the inputs of a shard's images.

        Args:
            images: schema `data.shards.IMAGES` or `LISTED`.
            batch_size: largest number of images in a batch.
        """
        found = Prepared()
        by_shape: dict[tuple[int, ...], list[_Decoded]] = defaultdict(list)
        for record, encoded in rows_to_read(images):
            try:
                item = self._decode(record, encoded, found)
            except UndecodableImageError as error:
                found.failures.append(Failure(record.image_id, record.file_name, str(error)))
                continue
            by_shape[self._profile.input_shape(*item.image_HW3.shape[:2])].append(item)
        for shape, items in by_shape.items():
            for start in range(0, len(items), batch_size):
                part = items[start : start + batch_size]
                found.batches.append(self._batch(part, shape, found))
        return found

    def _decode(self, record: ImageRecord, encoded: bytes | None, found: Prepared) -> _Decoded:
        content = self._read(record, found) if encoded is None else encoded
        start = perf_counter_ns()
        self._check_input(record)
        image_HW3, damage = decode_image(content, record.height, record.width)
        if damage and self._fails_damaged:
            raise UndecodableImageError(f"the file is damaged: {damage}")
        found.durations["decode_jpeg"].append(perf_counter_ns() - start)
        if damage:
            found.damaged.append(Damage(record.image_id, record.file_name, damage))
        found.encoded_bytes[record.image_id] = len(content)
        found.digests[record.image_id] = content_digest(content)
        return _Decoded(record.image_id, image_HW3)

    def _read(self, record: ImageRecord, found: Prepared) -> bytes:
        start = perf_counter_ns()
        # Shards list images only for workers that have a source.
        answer = read_image(record, cast("ImageSource", self._source))
        if isinstance(answer, Failure):
            raise UndecodableImageError(answer.reason)
        found.durations["read"].append(perf_counter_ns() - start)
        return answer

    def _check_input(self, record: ImageRecord) -> None:
        _, height, width = self._profile.input_shape(record.height, record.width)
        if height * width > _MAX_INPUT_PIXELS:
            raise UndecodableImageError(
                f"an image of {record.width}x{record.height} needs a network input of "
                f"{width}x{height}, over the limit of {_MAX_INPUT_PIXELS} pixels"
            )

    def _batch(self, items: list[_Decoded], shape: tuple[int, ...], found: Prepared) -> InputBatch:
        inputs_N3HW = np.empty((len(items), *shape), self._profile.input_dtype)
        geometries = []
        for item, input_3HW in zip(items, inputs_N3HW, strict=True):
            start = perf_counter_ns()
            geometries.append(preprocess(item.image_HW3, self._profile, input_3HW)[1])
            found.durations["preprocess"].append(perf_counter_ns() - start)
        image_ids = tuple(item.image_id for item in items)
        return InputBatch(image_ids, tuple(geometries), inputs_N3HW)

"""From the images of a shard to network inputs, on the CPU.

Array legend: N images, H and W size in pixels, 3 the channels blue, green, red.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import NamedTuple, Protocol, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distributed_pose.backends.base import InputBatch
from distributed_pose.data.digests import content_digest
from distributed_pose.data.shards import image_records, read_image, rows_to_read
from distributed_pose.data.sources import ImageSource
from distributed_pose.engine.host_stages import HostStages
from distributed_pose.records.images import Damage, Failure, Geometry, ImageRecord
from distributed_pose.vision.decode import Decoded
from distributed_pose.vision.headers import UndecodableImageError
from distributed_pose.vision.preprocess import InputArray
from distributed_pose.vision.profiles import Profile

# An input is as wide as its image where the profile scales by height, however long and thin the
# image: one pixel high and 60,000 wide, it has 22 million columns. This is 70 times a usual input.
_MAX_INPUT_PIXELS = 2**24


# Makes an array of a shape and type, with any content.
NewArray = Callable[[tuple[int, ...], npt.DTypeLike], InputArray]

# An image, and its bytes unless the worker reads them.
_Row = tuple[ImageRecord, bytes | None]


class _Target(NamedTuple):
    """An image to prepare, and the arrays that its network inputs are written to, per scale."""

    record: ImageRecord
    encoded: bytes | None
    inputs_3HW: tuple[InputArray, ...]


class _Group(NamedTuple):
    """Network inputs of one shape: an array, and image and scale of each of its rows."""

    inputs_N3HW: InputArray
    rows: Sequence[tuple[int, int]]


class _Image(NamedTuple):
    """A prepared image, with its geometry at each scale; times are in nanoseconds."""

    geometries: tuple[Geometry, ...]
    encoded_bytes: int
    digest: str
    damage: str
    read_ns: int | None
    decode_ns: int
    preprocess_ns: int


@dataclass
class Prepared:
    """The prepared images of a shard.

    Attributes:
        batches: network inputs; all inputs of a batch have one shape, and each image has one input
            per scale.
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


class Preparing(Protocol):
    """Prepares images; several threads may use it at once."""

    def prepare(self, images: pa.RecordBatch, batch_size: int) -> Prepared:
        """Returns the inputs of a shard's images; see `Preparation`."""

    def close(self) -> None:
        """Frees threads and processes."""


class Preparation:
    """Reads, decodes and preprocesses images. It is thread-safe.

    Each calling thread prepares its images itself, until `feed` starts threads for it.

    Args:
        profile: preprocessing profile.
        stages: stages that run on the host.
        source: place of the images that shards only list by name; None if shards carry them.
        scales: scale factors; each image has one network input per scale.
        fails_damaged: whether a damaged file is a failure even if it can be decoded.
    """

    def __init__(
        self,
        profile: Profile,
        stages: HostStages,
        source: ImageSource | None,
        *,
        scales: Sequence[float] = (1.0,),
        fails_damaged: bool = False,
    ) -> None:
        self._profiles = profile.at_scales(scales)
        self._stages = stages
        self._source = source
        self._fails_damaged = fails_damaged
        self._threads: ThreadPoolExecutor | None = None

    def feed(self, feeders: int) -> None:
        """Sets the number of images that are prepared at once, each in a thread of its own."""
        self._threads = ThreadPoolExecutor(feeders, "feeder") if feeders > 1 else None

    def prepare(
        self, images: pa.RecordBatch, batch_size: int, new_array: NewArray = np.empty
    ) -> Prepared:
        """Returns the inputs of a shard's images.

        Args:
            images: schema `data.shards.IMAGES` or `LISTED`.
            batch_size: largest number of inputs in a batch.
            new_array: makes the arrays of the inputs.
        """
        found = Prepared()
        rows = self._accepted(images, found)
        groups = [*self._groups([record for record, _ in rows], batch_size, new_array)]
        inputs = {place: array for group in groups for array, place in zip(*group, strict=True)}
        targets = [
            _Target(*row, tuple(inputs[image, scale] for scale in range(len(self._profiles))))
            for image, row in enumerate(rows)
        ]
        run = self._threads.map if self._threads else map
        outcomes = [*run(self._image, targets)]
        for group in groups:
            _add_batch(found, group, targets, outcomes)
        return found

    @property
    def has_source(self) -> bool:
        """Whether shards may list their images by name only."""
        return self._source is not None

    def read(self, name: str) -> None:
        """Reads an image that shards could list, to measure how long it takes."""
        if self._source:
            self._source.read(name)

    def close(self) -> None:
        if self._threads:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _accepted(self, images: pa.RecordBatch, found: Prepared) -> list[_Row]:
        """Returns the images without those whose input would be too large, which are failures."""
        rows = []
        for record, encoded in rows_to_read(images):
            shapes = (p.input_shape(record.height, record.width) for p in self._profiles)
            if reason := next(filter(None, (_too_large(record, shape) for shape in shapes)), ""):
                found.failures.append(Failure(record.image_id, record.file_name, reason))
            else:
                rows.append((record, encoded))
        return rows

    def _groups(
        self, records: Sequence[ImageRecord], batch_size: int, new_array: NewArray
    ) -> Iterator[_Group]:
        """Yields an array per batch, whose rows are network inputs of one shape."""
        by_shape: dict[tuple[int, int, int], list[tuple[int, int]]] = defaultdict(list)
        for image, record in enumerate(records):
            for scale, profile in enumerate(self._profiles):
                by_shape[profile.input_shape(record.height, record.width)].append((image, scale))
        for input_shape, rows in by_shape.items():
            for start in range(0, len(rows), batch_size):
                part = rows[start : start + batch_size]
                # The threads write the inputs into the batch, so that they are not copied again.
                inputs_N3HW = new_array((len(part), *input_shape), self._profiles[0].input_dtype)
                yield _Group(inputs_N3HW, part)

    def _image(self, target: _Target) -> _Image | Failure:
        """Prepares an image, in any thread."""
        record = target.record
        try:
            content, read_ns = self._content(target)
            start = perf_counter_ns()
            image_HW3, damage = self._decode(content, record)
            decode_ns = perf_counter_ns() - start
        except UndecodableImageError as error:
            return Failure(record.image_id, record.file_name, str(error))
        digest = content_digest(content)
        start = perf_counter_ns()
        geometries = self._stages.preprocess(image_HW3, self._profiles, target.inputs_3HW)
        preprocess_ns = perf_counter_ns() - start
        return _Image(geometries, len(content), digest, damage, read_ns, decode_ns, preprocess_ns)

    def _decode(self, content: bytes, record: ImageRecord) -> Decoded:
        decoded = self._stages.decode(content, record.height, record.width)
        if decoded.damage and self._fails_damaged:
            raise UndecodableImageError(f"the file is damaged: {decoded.damage}")
        return decoded

    def _content(self, target: _Target) -> tuple[bytes, int | None]:
        """Returns the bytes of an image, and the time to read them; None if the shard has them."""
        if target.encoded is not None:
            return target.encoded, None
        start = perf_counter_ns()
        # Shards list images only for workers that have a source.
        answer = read_image(target.record, cast("ImageSource", self._source))
        if isinstance(answer, Failure):
            raise UndecodableImageError(answer.reason)
        return answer, perf_counter_ns() - start


def input_shapes(images: pa.RecordBatch, profiles: Sequence[Profile]) -> list[tuple[int, int, int]]:
    """Returns the shapes of the inputs of a shard's images, without those that are too large.

    Args:
        images: images of the shard.
        profiles: profile of each scale.
    """
    shapes = (
        profile.input_shape(one.height, one.width)
        for one in image_records(images)
        for profile in profiles
    )
    return [shape for shape in shapes if shape[1] * shape[2] <= _MAX_INPUT_PIXELS]


def _too_large(record: ImageRecord, shape: tuple[int, int, int]) -> str:
    """Returns why an image is too large to be prepared; empty if it is not."""
    _, height, width = shape
    if height * width <= _MAX_INPUT_PIXELS:
        return ""
    return (
        f"an image of {record.width}x{record.height} needs a network input of "
        f"{width}x{height}, over the limit of {_MAX_INPUT_PIXELS} pixels"
    )


def _add_batch(
    found: Prepared,
    group: _Group,
    targets: Sequence[_Target],
    outcomes: Sequence[_Image | Failure],
) -> None:
    """Adds a batch without the inputs of images that failed, and its images at the first scale."""
    kept: list[tuple[int, int, int, Geometry]] = []
    for row, (image, scale) in enumerate(group.rows):
        record, outcome = targets[image].record, outcomes[image]
        if not isinstance(outcome, Failure):
            kept.append((row, scale, record.image_id, outcome.geometries[scale]))
        if scale == 0:
            _add_image(found, record, outcome)
    if kept:
        rows, scales, image_ids, geometries = zip(*kept, strict=True)
        # The inputs move up in their array, which may be in memory that other processes see.
        for place, row in enumerate(rows):
            if place < row:
                group.inputs_N3HW[place] = group.inputs_N3HW[row]
        inputs_N3HW = group.inputs_N3HW[: len(rows)]
        found.batches.append(InputBatch(image_ids, geometries, inputs_N3HW, scales))


def _add_image(found: Prepared, record: ImageRecord, image: _Image | Failure) -> None:
    if isinstance(image, Failure):
        found.failures.append(image)
        return
    found.encoded_bytes[record.image_id] = image.encoded_bytes
    found.digests[record.image_id] = image.digest
    if image.damage:
        found.damaged.append(Damage(record.image_id, record.file_name, image.damage))
    if image.read_ns is not None:
        found.durations["read"].append(image.read_ns)
    found.durations["decode_jpeg"].append(image.decode_ns)
    found.durations["preprocess"].append(image.preprocess_ns)

"""Network inputs in memory that processes of one host share, so that they are passed uncopied.

The memory is anonymous (`memfd_create`), so that the kernel frees it with the last process that has
it, however the processes end. Other processes of the same user open it by its path below `/proc`.
"""

import mmap
import os
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from distributed_pose.backends.base import InputBatch
from distributed_pose.engine.preparation import Prepared
from distributed_pose.records.images import Geometry
from distributed_pose.vision.preprocess import InputArray

# Runtimes read aligned inputs faster, and some refuse others.
ALIGNMENT_BYTES = 64

# Whether this system has anonymous memory that another process can open.
CAN_SHARE = hasattr(os, "memfd_create")

Memory = npt.NDArray[np.uint8]


class Segment(NamedTuple):
    """Shared memory as other processes open it: a path, and the size in bytes."""

    path: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacedBatch:
    """A batch whose inputs are in shared memory.

    Attributes:
        image_ids: see `InputBatch`.
        geometries: see `InputBatch`.
        start: position of the inputs in the memory, in bytes.
        shape: shape of the inputs.
        dtype: type of the inputs.
        scales: see `InputBatch`.
    """

    image_ids: tuple[int, ...]
    geometries: tuple[Geometry, ...]
    start: int
    shape: tuple[int, ...]
    dtype: str
    scales: tuple[int, ...]


class SegmentPool:
    """Segments that are used again once no array refers to them. It is thread-safe."""

    def __init__(self) -> None:
        # Appending and removing are atomic. The last one is used again first, so that few are used.
        self._free: deque[tuple[int, mmap.mmap]] = deque()

    def take(self, size_bytes: int) -> tuple[Segment, Memory]:
        """Returns an unused segment of at least this size, and its memory.

        The memory is read-only here. The segment is used again when the memory and all arrays that
        are views of it are gone.
        """
        try:
            descriptor, mapped = self._free.pop()
        except IndexError:
            descriptor, mapped = _grown(os.memfd_create("network inputs"), size_bytes)
        if len(mapped) < size_bytes:
            descriptor, mapped = _grown(descriptor, size_bytes)
        memory = np.frombuffer(mapped, np.uint8)
        weakref.finalize(memory, self._free.append, (descriptor, mapped)).atexit = False
        return Segment(f"/proc/{os.getpid()}/fd/{descriptor}", len(mapped)), memory


class SegmentViews:
    """The segments of another process, each mapped once. It is thread-safe."""

    def __init__(self) -> None:
        self._known: dict[str, Memory] = {}

    def memory(self, segment: Segment) -> Memory:
        """Returns the memory of a segment, which can be written to."""
        memory = self._known.get(segment.path)
        if memory is None or len(memory) < segment.size_bytes:
            with Path(segment.path).open("r+b") as file:
                memory = np.frombuffer(mmap.mmap(file.fileno(), segment.size_bytes), np.uint8)
            self._known[segment.path] = memory
        return memory


class Allocator:
    """Makes arrays in a memory, one behind the other.

    Args:
        memory: memory that has room for all of the arrays; see `room_bytes`.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._used = 0

    def array(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> InputArray:
        """Returns an array with any content."""
        start, size = self._used, prod(shape) * np.dtype(dtype).itemsize
        self._used = start + -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        return _array(self._memory, start, shape, dtype)


def room_bytes(shapes: Sequence[tuple[int, ...]], dtype: npt.DTypeLike) -> int:
    """Returns the bytes that inputs of these shapes take, however they are put into batches."""
    itemsize = np.dtype(dtype).itemsize
    return sum(prod(shape) * itemsize + ALIGNMENT_BYTES for shape in shapes)


def placed(prepared: Prepared, memory: Memory) -> tuple[Prepared, list[PlacedBatch]]:
    """Returns prepared images without their inputs, and where the inputs are in the memory."""
    batches = [
        PlacedBatch(
            image_ids=batch.image_ids,
            geometries=batch.geometries,
            start=batch.inputs_N3HW.ctypes.data - memory.ctypes.data,
            shape=batch.inputs_N3HW.shape,
            dtype=batch.inputs_N3HW.dtype.str,
            scales=batch.scales,
        )
        for batch in prepared.batches
    ]
    return replace(prepared, batches=[]), batches


def found(prepared: Prepared, batches: Sequence[PlacedBatch], memory: Memory) -> Prepared:
    """Returns prepared images with their inputs, which are views of the memory."""
    whole = [
        InputBatch(
            one.image_ids,
            one.geometries,
            _array(memory, one.start, one.shape, one.dtype),
            one.scales,
        )
        for one in batches
    ]
    return replace(prepared, batches=whole)


def _array(memory: Memory, start: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> InputArray:
    size = prod(shape) * np.dtype(dtype).itemsize
    array: InputArray = memory[start : start + size].view(dtype).reshape(shape)
    return array


def _grown(descriptor: int, size_bytes: int) -> tuple[int, mmap.mmap]:
    """Returns a segment after it has got this size, and its memory, which is read-only."""
    os.ftruncate(descriptor, size_bytes)
    return descriptor, mmap.mmap(descriptor, size_bytes, access=mmap.ACCESS_READ)

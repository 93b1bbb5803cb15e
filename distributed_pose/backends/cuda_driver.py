"""Calls CUDA's driver API on one device: memory, copies, streams and events.

The API is part of every driver, so that it fits the CUDA version of any runtime. It shares the
device's primary context with that runtime: pointers and streams of one are valid in the other.

Source: CUDA Driver API, sections Memory Management, Stream Management and Event Management.
"""

import ctypes
from contextlib import suppress
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

# Streams must not wait for the legacy default stream, which runtimes use for small tasks.
_STREAM_NON_BLOCKING = 1

# A thread that waits for an event sleeps, which leaves the processor to preprocessing and decoding.
_EVENT_BLOCKING_SYNC = 1

_NS_PER_MS = 1e6


class CudaError(Exception):
    """A call of the driver failed; the message has CUDA's name of the reason."""


class CudaDriver:
    """The driver on one device, which belongs to the thread that makes it.

    Args:
        index: index of the device among those that the process sees.
        library: loaded library of the driver; None loads it.

    Raises:
        CudaError: if the driver refuses a call, also in every method that does not say otherwise.
        OSError: if no driver is installed.
    """

    def __init__(self, index: int, library: Any = None) -> None:
        self._library = library or ctypes.CDLL("libcuda.so.1")
        self._device = c_int()
        context = c_void_p()
        self._call("cuInit", c_uint(0))
        self._call("cuDeviceGet", byref(self._device), c_int(index))
        self._call("cuDevicePrimaryCtxRetain", byref(context), self._device)
        self._call("cuCtxSetCurrent", context)

    def new_stream(self) -> int:
        """Returns the handle of a new stream."""
        stream = c_void_p()
        self._call("cuStreamCreate", byref(stream), c_uint(_STREAM_NON_BLOCKING))
        return _value(stream)

    def new_event(self) -> int:
        """Returns the handle of a new event that records its time."""
        event = c_void_p()
        self._call("cuEventCreate", byref(event), c_uint(_EVENT_BLOCKING_SYNC))
        return _value(event)

    def record(self, event: int, stream: int) -> None:
        """Queues an event, which the stream records after all work queued on it so far."""
        self._call("cuEventRecord", c_void_p(event), c_void_p(stream))

    def wait(self, stream: int, event: int) -> None:
        """Makes a stream wait for an event before it starts work that is queued later."""
        self._call("cuStreamWaitEvent", c_void_p(stream), c_void_p(event), c_uint(0))

    def synchronize(self, event: int) -> None:
        """Waits until an event has been recorded."""
        self._call("cuEventSynchronize", c_void_p(event))

    def elapsed_ns(self, start: int, end: int) -> int:
        """Returns the device's time in nanoseconds between two events that have been recorded."""
        milliseconds = c_float()
        self._call("cuEventElapsedTime", byref(milliseconds), c_void_p(start), c_void_p(end))
        return int(milliseconds.value * _NS_PER_MS)

    def copy_in(self, address: int, host: Bytes, stream: int) -> None:
        """Starts a copy to the device's memory.

        Args:
            address: address in the device's memory.
            host: uint8, contiguous, unchanged until the copy is done; in pinned memory if the copy
                must overlap with other work.
            stream: handle of the stream that copies.
        """
        source, size = c_void_p(host.ctypes.data), c_size_t(host.nbytes)
        self._call("cuMemcpyHtoDAsync_v2", c_uint64(address), source, size, c_void_p(stream))

    def copy_out(self, host: Bytes, address: int, stream: int) -> None:
        """Starts a copy from the device's memory; see `copy_in` for the arguments."""
        target, size = c_void_p(host.ctypes.data), c_size_t(host.nbytes)
        self._call("cuMemcpyDtoHAsync_v2", target, c_uint64(address), size, c_void_p(stream))

    def allocate(self, num_bytes: int) -> int:
        """Allocates memory of the device and returns its address."""
        address = c_uint64()
        self._call("cuMemAlloc_v2", byref(address), c_size_t(num_bytes))
        return int(address.value)

    def free(self, address: int) -> None:
        """Frees memory of the device."""
        self._call("cuMemFree_v2", c_uint64(address))

    def allocate_pinned(self, num_bytes: int) -> Bytes:
        """Allocates pinned memory of the host, which the device's copies access directly."""
        address = c_void_p()
        self._call("cuMemHostAlloc", byref(address), c_size_t(num_bytes), c_uint(0))
        return np.ctypeslib.as_array((ctypes.c_uint8 * num_bytes).from_address(_value(address)))

    def free_pinned(self, host: Bytes) -> None:
        """Frees memory of `allocate_pinned`; the array must not be used afterwards."""
        self._call("cuMemFreeHost", c_void_p(host.ctypes.data))

    def finish(self) -> None:
        """Waits until the device has finished all queued work, or has failed."""
        with suppress(CudaError):
            self._call("cuCtxSynchronize")

    def close(self, streams: list[int], events: list[int]) -> None:
        """Releases streams, events and the device in any state; ignores errors."""
        for name, handles in (("cuEventDestroy_v2", events), ("cuStreamDestroy_v2", streams)):
            for handle in handles:
                with suppress(CudaError):
                    self._call(name, c_void_p(handle))
        with suppress(CudaError):
            self._call("cuDevicePrimaryCtxRelease_v2", self._device)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            text = c_char_p()
            self._library.cuGetErrorName(c_int(code), byref(text))
            reason = (text.value or b"").decode(errors="replace") or f"error {code}"
            raise CudaError(f"{name}: {reason}")


class DeviceBuffer:
    """Memory of the device that grows to the largest requested size."""

    def __init__(self, driver: CudaDriver) -> None:
        self._driver = driver
        self._address = 0
        self._size = 0

    def reserve(self, num_bytes: int) -> int:
        """Returns the address of at least `num_bytes`; the contents are lost if it grows."""
        if num_bytes > self._size:
            self.free()
            self._address = self._driver.allocate(num_bytes)
            self._size = num_bytes
        return self._address

    def free(self) -> None:
        """Frees the memory; may be called again."""
        address, self._address, self._size = self._address, 0, 0
        if address:
            self._driver.free(address)


class PinnedBuffer:
    """Pinned memory of the host that grows to the largest requested size."""

    def __init__(self, driver: CudaDriver) -> None:
        self._driver = driver
        self._host: Bytes | None = None

    def reserve(self, num_bytes: int) -> Bytes:
        """Returns `num_bytes` bytes; the contents are lost if the buffer grows."""
        if self._host is None or num_bytes > self._host.nbytes:
            self.free()
            self._host = self._driver.allocate_pinned(num_bytes)
        return self._host[:num_bytes]

    def free(self) -> None:
        """Frees the memory; may be called again."""
        host, self._host = self._host, None
        if host is not None:
            self._driver.free_pinned(host)


def _value(handle: c_void_p) -> int:
    return int(handle.value or 0)

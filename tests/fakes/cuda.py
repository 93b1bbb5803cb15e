"""A fake of CUDA's driver library with the functions that the package calls.

Memory of the device is memory of the host, and work is done as soon as it is submitted. Operations
that take time are recorded: each stream runs its operations in sequence, and so do the engines for
copies in, execution and copies out. Work on memory that other unfinished work reads or writes is
recorded as a race.
"""

import ctypes
from collections.abc import Sequence
from ctypes import c_uint8
from typing import Any, NamedTuple

INVALID_VALUE, OUT_OF_MEMORY, NO_DEVICE, ILLEGAL_ADDRESS = 1, 2, 100, 700
_NAMES = {
    INVALID_VALUE: b"CUDA_ERROR_INVALID_VALUE",
    OUT_OF_MEMORY: b"CUDA_ERROR_OUT_OF_MEMORY",
    NO_DEVICE: b"CUDA_ERROR_NO_DEVICE",
    ILLEGAL_ADDRESS: b"CUDA_ERROR_ILLEGAL_ADDRESS",
}


class Work(NamedTuple):
    """An operation that took time; start and end in milliseconds."""

    engine: str
    start: float
    end: float


class FakeLibcuda:
    """`libcuda.so.1` of a machine with one device.

    Args:
        copy_in_ms: duration of each copy to the device.
        copy_out_ms: duration of each copy from the device.
        memory_bytes: memory of the device.
    """

    def __init__(
        self, copy_in_ms: float = 0.0, copy_out_ms: float = 0.0, memory_bytes: int = 2**30
    ) -> None:
        self.copy_ms = {"in": copy_in_ms, "out": copy_out_ms}
        self.memory_bytes = memory_bytes
        self.host_ms = 0.0
        self.timeline: list[Work] = []
        self.races: list[str] = []
        self.failing: dict[str, int] = {}
        self.contexts = 0
        self.memory: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, float] = {}
        self.events: dict[int, float | None] = {}
        self._engines = {"in": 0.0, "execute": 0.0, "out": 0.0}
        self._read_until: dict[int, float] = {}
        self._written_until: dict[int, float] = {}
        self._adopted: dict[int, int] = {}
        self._handles = 0

    def execute(
        self, stream: int, milliseconds: float, reads: Sequence[int], writes: Sequence[int]
    ) -> None:
        """Executes an operation on memory at these addresses, as a runtime does on its stream."""
        self._work("execute", stream, milliseconds, reads, writes)

    def adopt(self, address: int, num_bytes: int) -> None:
        """Treats memory that a runtime has allocated as memory of the device."""
        self._adopted[address] = num_bytes

    def cuInit(self, _flags: Any) -> int:  # noqa: N802 - these are the vendor's names
        return 0

    def cuDeviceGet(self, device: Any, index: Any) -> int:  # noqa: N802
        device._obj.value = index.value
        return 0 if index.value == 0 else NO_DEVICE

    def cuDevicePrimaryCtxRetain(self, context: Any, _device: Any) -> int:  # noqa: N802
        self.contexts += 1
        context._obj.value = 1
        return 0

    def cuDevicePrimaryCtxRelease_v2(self, _device: Any) -> int:  # noqa: N802
        self.contexts -= 1
        return 0

    def cuCtxSetCurrent(self, _context: Any) -> int:  # noqa: N802
        return 0

    def cuCtxSynchronize(self) -> int:  # noqa: N802
        self.host_ms = max([self.host_ms, *self.streams.values()])
        return 0

    def cuStreamCreate(self, stream: Any, _flags: Any) -> int:  # noqa: N802
        stream._obj.value = self._new_handle()
        self.streams[stream._obj.value] = 0.0
        return 0

    def cuStreamDestroy_v2(self, stream: Any) -> int:  # noqa: N802
        del self.streams[stream.value]
        return 0

    def cuStreamWaitEvent(self, stream: Any, event: Any, _flags: Any) -> int:  # noqa: N802
        reached = self.events[event.value]
        # Waiting for an event that was never recorded returns at once.
        self.streams[stream.value] = max(self.streams[stream.value], reached or 0.0)
        return 0

    def cuEventCreate(self, event: Any, _flags: Any) -> int:  # noqa: N802
        event._obj.value = self._new_handle()
        self.events[event._obj.value] = None
        return 0

    def cuEventDestroy_v2(self, event: Any) -> int:  # noqa: N802
        del self.events[event.value]
        return 0

    def cuEventRecord(self, event: Any, stream: Any) -> int:  # noqa: N802
        self.events[event.value] = max(self.streams[stream.value], self.host_ms)
        return self.failing.pop("cuEventRecord", 0)

    def cuEventSynchronize(self, event: Any) -> int:  # noqa: N802
        self.host_ms = max(self.host_ms, self.events[event.value] or 0.0)
        return self.failing.pop("cuEventSynchronize", 0)

    def cuEventElapsedTime(self, milliseconds: Any, start: Any, end: Any) -> int:  # noqa: N802
        times = self.events[start.value], self.events[end.value]
        if times[0] is None or times[1] is None:
            return INVALID_VALUE
        milliseconds._obj.value = times[1] - times[0]
        return 0

    def cuMemAlloc_v2(self, address: Any, size: Any) -> int:  # noqa: N802
        if size.value + sum(map(ctypes.sizeof, self.memory.values())) > self.memory_bytes:
            return OUT_OF_MEMORY
        address._obj.value = self._new_memory(self.memory, size.value)
        return 0

    def cuMemFree_v2(self, address: Any) -> int:  # noqa: N802
        # The call waits until no work uses the memory.
        self.cuCtxSynchronize()
        del self.memory[address.value]
        return 0

    def cuMemHostAlloc(self, address: Any, size: Any, _flags: Any) -> int:  # noqa: N802
        address._obj.value = self._new_memory(self.pinned, size.value)
        return 0

    def cuMemFreeHost(self, address: Any) -> int:  # noqa: N802
        self.cuCtxSynchronize()
        del self.pinned[address.value]
        return 0

    def cuMemcpyHtoDAsync_v2(  # noqa: N802
        self, address: Any, host: Any, size: Any, stream: Any
    ) -> int:
        if not self._is_allocated(address.value, size.value):
            return ILLEGAL_ADDRESS
        ctypes.memmove(address.value, host.value, size.value)
        self._work("in", stream.value, self.copy_ms["in"], [host.value], [address.value])
        return self.failing.pop("cuMemcpyHtoDAsync_v2", 0)

    def cuMemcpyDtoHAsync_v2(  # noqa: N802
        self, host: Any, address: Any, size: Any, stream: Any
    ) -> int:
        if not self._is_allocated(address.value, size.value):
            return ILLEGAL_ADDRESS
        ctypes.memmove(host.value, address.value, size.value)
        self._work("out", stream.value, self.copy_ms["out"], [address.value], [host.value])
        return 0

    def cuGetErrorName(self, code: Any, name: Any) -> int:  # noqa: N802
        name._obj.value = _NAMES.get(code.value, b"CUDA_ERROR_UNKNOWN")
        return 0

    def _work(
        self, engine: str, stream: int, ms: float, reads: Sequence[int], writes: Sequence[int]
    ) -> None:
        start = max(self.streams[stream], self._engines[engine], self.host_ms)
        end = start + ms
        late_writes = [a for a in reads if self._written_until.get(a, 0.0) > start]
        late_uses = [
            a
            for a in writes
            if max(self._read_until.get(a, 0.0), self._written_until.get(a, 0.0)) > start
        ]
        if late_writes or late_uses:
            self.races.append(f"{engine} at {start}: {late_writes} {late_uses}")
        self._read_until.update(dict.fromkeys(reads, end))
        self._written_until.update(dict.fromkeys(writes, end))
        self.streams[stream] = self._engines[engine] = end
        self.timeline.append(Work(engine, start, end))

    def _is_allocated(self, address: int, size: int) -> bool:
        own = {start: ctypes.sizeof(block) for start, block in self.memory.items()}
        return any(
            start <= address and address + size <= start + length
            for start, length in {**own, **self._adopted}.items()
        )

    def _new_memory(self, memory: dict[int, Any], size: int) -> int:
        block = (c_uint8 * size)()
        memory[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def _new_handle(self) -> int:
        self._handles += 1
        return self._handles

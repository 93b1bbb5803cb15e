"""A stand-in for ais_bench that computes with ONNX Runtime and polices how it is called.

`release` is the year whose names it has: 2023 or 2024. `fail_at` is the position in `calls` of the
one call that fails; `open_sessions` counts those whose memory was not freed, `batches` are the
sizes that were run, and `execute_ms` is what an execution takes by its own account.
"""

import enum
import os
import stat
from pathlib import Path
from typing import Any

import fake_om
import numpy as np

release = 2024
soc = "Ascend310P3"
devices = 2
fail_at: int | None = None
calls: list[str] = []
batches: list[int] = []
open_sessions = 0
execute_ms = 4.5


class dtype(enum.Enum):  # noqa: N801 - as in aclruntime
    int32 = 1
    uint8 = 2
    float16 = 3
    float32 = 4


class TensorDesc:
    def __init__(self, tensor: fake_om.Tensor) -> None:
        self.name = tensor.name
        self.shape = list(tensor.dims)
        self.datatype = dtype[tensor.dtype]
        self.format = 1 if tensor.dims[-1] == 3 else 0
        self.size = self.realsize = tensor.size


class Summary:
    def __init__(self, session: "InferSession") -> None:
        self._session = session

    @property
    def exec_time_list(self) -> list[Any]:
        """A new list at each access: durations, or pairs of times in single precision."""
        times = [(float(np.float32(s)), float(np.float32(e))) for s, e in self._session.times]
        return times if release > 2023 else [end - start for start, end in times]


class InferSession:
    def __init__(
        self,
        device_id: int,
        model_path: str,
        acl_json_path: str | None = None,
        debug: bool = False,
        loop: int = 1,
    ) -> None:
        _enter("InferSession")
        assert (acl_json_path, debug, loop) == (None, False, 1)
        _check_file(model_path)
        if not 0 <= device_id < devices:
            message = "[107001][ACL: invalid device]"
            raise RuntimeError(message)
        try:
            self._om = fake_om.load(Path(model_path).read_bytes())
        except ValueError as error:
            message = f"[1][ACL: load model failed]\n{error}"
            raise RuntimeError(message) from None
        if self._om.soc != soc:
            message = "[500002][ACL: load model failed]"
            raise RuntimeError(message)
        self._freed = False
        # A dynamic model has no batch size before it is set.
        self._batch = None if self._om.dynamic else self._om.batches[0]
        self._clock_ms = 0.0
        self.times: list[tuple[float, float]] = []
        globals()["open_sessions"] += 1

    def __getattribute__(self, name: str) -> Any:
        names = {
            2023: {"sumary", "reset_sumaryinfo"},
            2024: {"summary", "reset_summaryinfo", "free_resource", "get_max_dym_batchsize"},
        }
        if name in set().union(*names.values()) - names[release]:
            raise AttributeError(name)
        return super().__getattribute__(name)

    def __del__(self) -> None:
        if release == 2023 and hasattr(self, "_freed"):
            globals()["open_sessions"] -= 1

    def get_inputs(self) -> list[TensorDesc]:
        self._enter("get_inputs")
        return [TensorDesc(self._om.inputs()[0])]

    def get_outputs(self) -> list[TensorDesc]:
        self._enter("get_outputs")
        return [TensorDesc(tensor) for tensor in self._om.outputs()]

    def get_max_dym_batchsize(self) -> int:
        self._enter("get_max_dym_batchsize")
        return max(self._om.batches)

    def set_staticbatch(self) -> None:
        self._batch = self._om.batches[0]

    def set_dynamic_batchsize(self, dym_batch: int) -> None:
        self._enter("set_dynamic_batchsize")
        if not self._om.dynamic or dym_batch not in self._om.batches:
            message = "[1003][ACL: the dymBatch parameter is not correct]"
            raise RuntimeError(message)
        self._batch = dym_batch

    def infer(
        self,
        feeds: list[Any],
        mode: str = "static",
        custom_sizes: int = 100000,
    ) -> list[np.ndarray]:
        assert (mode, custom_sizes) == ("static", 100000)
        if release > 2023:
            self.set_staticbatch()
        return self._run("infer", feeds)

    def run(self, feeds: list[Any], out_array: bool = False) -> list[np.ndarray]:
        assert out_array
        return self._run("run", feeds)

    def summary(self) -> Summary:
        self._enter("summary")
        return Summary(self)

    def sumary(self) -> Summary:
        self._enter("sumary")
        return Summary(self)

    def reset_summaryinfo(self) -> None:
        self._enter("reset_summaryinfo")
        self.times.clear()

    def reset_sumaryinfo(self) -> None:
        self._enter("reset_sumaryinfo")
        self.times.clear()

    def free_resource(self) -> None:
        self._enter("free_resource")
        self._freed = True
        globals()["open_sessions"] -= 1

    def _run(self, name: str, feeds: list[Any]) -> list[np.ndarray]:
        self._enter(name)
        assert len(feeds) == 1
        assert feeds[0].flags.c_contiguous
        # The real session compares only sizes, and does not convert other types and layouts.
        assert feeds[0].dtype == self._om.input_dtype
        assert feeds[0].shape[1:] == self._om.image_in_memory
        if len(feeds[0]) != self._batch:
            message = "[1004][ACL: invalid input size]"
            raise RuntimeError(message)
        batches.append(len(feeds[0]))
        self.times.append((self._clock_ms, self._clock_ms + execute_ms))
        self._clock_ms += execute_ms + 100
        return self._om.run(feeds[0])

    def _enter(self, name: str) -> None:
        # The real session crashes.
        assert not self._freed, f"{name} after free_resource"
        _enter(name)


def _check_file(path: str) -> None:
    """Checks a file as `path_security_check` of ais_bench does."""
    found = os.stat(path)  # noqa: PTH116
    if Path(path).resolve() != Path(path):
        message = f"path :{path} is a soft link, not supported"
        raise RuntimeError(message)
    for checked in (Path(path), Path(path).parent):
        if checked.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            message = f"The file {checked} is group writable, or is others writable"
            raise RuntimeError(message)
    if found.st_uid != os.geteuid():
        message = f"current user isn't path:{path}'s owner or ownergroup"
        raise RuntimeError(message)
    if (
        set(path)
        - set("_/.-")
        - set(map(chr, range(48, 58)))
        - {c for c in path if c.isascii() and c.isalpha()}
    ):
        message = f"path:{path} contains illegal char"
        raise RuntimeError(message)


def _enter(name: str) -> None:
    calls.append(name)
    if len(calls) - 1 == fail_at:
        message = f"[507899][ACL: {name} failed]"
        raise RuntimeError(message)

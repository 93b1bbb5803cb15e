"""A stand-in for ais_bench that computes with ONNX Runtime and polices how it is called.

`fail_at` is the position in `calls` of the one call that fails; `open_sessions` counts those whose
memory was not freed, `batches` are the sizes that were run.
"""

import enum
from pathlib import Path
from typing import Any

import fake_om
import numpy as np

soc = "Ascend310P3"
devices = 2
fail_at: int | None = None
calls: list[str] = []
batches: list[int] = []
open_sessions = 0


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


class InferSession:
    def __init__(self, device_id: int, model_path: str) -> None:
        _enter("InferSession")
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
        self._batch: int | None = None
        globals()["open_sessions"] += 1

    def get_inputs(self) -> list[TensorDesc]:
        self._enter("get_inputs")
        return [TensorDesc(self._om.inputs()[0])]

    def get_outputs(self) -> list[TensorDesc]:
        self._enter("get_outputs")
        return [TensorDesc(tensor) for tensor in self._om.outputs()]

    def get_max_dym_batchsize(self) -> int:
        self._enter("get_max_dym_batchsize")
        return max(self._om.batches)

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
        out_array: bool = True,
    ) -> list[np.ndarray]:
        self._enter("infer")
        assert custom_sizes == 100000
        assert out_array
        assert len(feeds) == 1
        assert feeds[0].flags.c_contiguous
        self._batch = self._om.batches[0]
        if mode == "dymbatch":
            self.set_dynamic_batchsize(len(feeds[0]))
        elif mode != "static" or self._om.dynamic:
            message = f"wrong infer_mode:{mode}"
            raise RuntimeError(message)
        # The real one compares sizes alone, and reads an array of another type or layout as it is.
        assert feeds[0].dtype == self._om.input_dtype
        assert feeds[0].shape[1:] == self._om.image_in_memory
        if len(feeds[0]) != self._batch:
            message = "[1004][ACL: invalid input size]"
            raise RuntimeError(message)
        batches.append(len(feeds[0]))
        return self._om.run(feeds[0])

    def free_resource(self) -> None:
        self._enter("free_resource")
        self._freed = True
        globals()["open_sessions"] -= 1

    def _enter(self, name: str) -> None:
        # The real one dies of it.
        assert not self._freed, f"{name} after free_resource"
        _enter(name)


def _enter(name: str) -> None:
    calls.append(name)
    if len(calls) - 1 == fail_at:
        message = f"[507899][ACL: {name} failed]"
        raise RuntimeError(message)

"""An Ascend NPU through ais_bench, for those who have its `InferSession`.

Source: `ais_bench.infer.interface` and the `aclruntime` that it is made of, both of the vendor's
wheels. A session copies an input to the device, executes and copies back, one after the other.
"""

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from ais_bench.infer.interface import InferSession  # type: ignore[import-not-found]

from distributed_pose.backends.base import BackendOptions, InputBatch, Maps, SynchronousBackend
from distributed_pose.backends.om import Chunk, empty_maps, image_input, map_outputs, om_port
from distributed_pose.errors import ExecutionError, SetupError, first_line
from distributed_pose.records import ModelPort

_STATIC, _DYNAMIC = "static", "dymbatch"


class AisBackend(SynchronousBackend):
    """An `.om` on one NPU.

    The session tells neither chip nor precision. It is the one asked for, since the compiler
    refuses what the chip lacks, and half precision where none is.
    """

    def __init__(self, content: bytes, options: BackendOptions) -> None:
        super().__init__()
        self.precision = "f16" if options.precision == "auto" else options.precision
        self.description = f"Ascend NPU {options.index}"
        self._limit = options.batch_size
        self._session: Any = None
        try:
            self._session = _session(content, options.index)
            self._describe()
        # Also after Ctrl-C: a session's memory on the device outlives the object.
        except BaseException as error:
            with suppress(ExecutionError):
                self._free()
            # The extension raises what it likes: RuntimeError, ValueError, SystemError.
            if isinstance(error, Exception) and not isinstance(error, SetupError):
                raise SetupError(
                    f"ais_bench cannot load the model: {first_line(error)}",
                    "see that the .om was compiled for this chip, and npu-smi info for its health",
                ) from None
            raise

    def run(self, batch: InputBatch) -> Maps:
        if self._session is None:
            raise SetupError("the backend is closed")
        self._input.check(batch, self._limit)
        images_N3HW = batch.inputs_N3HW
        answers = empty_maps(len(images_N3HW), self._outputs)
        for chunk in self._input.chunks(len(images_N3HW)):
            outputs = self._run(batch, chunk)
            for answer, index in zip(answers, self._indices, strict=True):
                answer[chunk.start : chunk.stop] = outputs[index][: chunk.stop - chunk.start]
        return Maps(*answers)

    def close(self) -> None:
        self._free()

    def _describe(self) -> None:
        """Reads what the model takes and gives."""
        inputs = [_port(tensor) for tensor in self._session.get_inputs()]
        dynamic = bool(inputs) and inputs[0].shape[:1] == (None,)
        self._mode = _DYNAMIC if dynamic else _STATIC
        self._input = image_input(inputs, self._batch_sizes() if dynamic else ())
        outputs = [_port(tensor) for tensor in self._session.get_outputs()]
        self._indices = map_outputs(outputs)
        self._outputs = [outputs[index] for index in self._indices]

    def _batch_sizes(self) -> list[int]:
        """Returns the sizes of a dynamic batch, which the session only tells when asked for one."""
        most = self._session.get_max_dym_batchsize()
        return [size for size in range(1, most + 1) if self._accepts(size)]

    def _accepts(self, batch_size: int) -> bool:
        try:
            self._session.set_dynamic_batchsize(batch_size)
        except RuntimeError:
            return False
        return True

    def _run(self, batch: InputBatch, chunk: Chunk) -> list[Any]:
        sent = np.empty((chunk.size, *self._input.image_shape), self._input.port.dtype)
        self._input.pack(batch.inputs_N3HW[chunk.start : chunk.stop], sent)
        try:
            outputs: list[Any] = self._session.infer([sent], mode=self._mode)
        except Exception as error:  # noqa: BLE001 - see above
            raise ExecutionError(
                f"ais_bench cannot run the batch: {first_line(error)}",
                "see npu-smi info for the device's health",
                image_ids=batch.image_ids,
            ) from None
        return outputs

    def _free(self) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        try:
            session.free_resource()
        except Exception as error:  # noqa: BLE001 - see above
            raise ExecutionError(f"the NPU was not left clean: {first_line(error)}") from None


def _session(content: bytes, index: int) -> Any:
    with tempfile.TemporaryDirectory(prefix="om-") as folder:
        file = Path(folder) / "model.om"
        file.write_bytes(content)
        # The whole file is read here.
        return InferSession(index, str(file))


def _port(tensor: Any) -> ModelPort:
    return om_port(tensor.name, tensor.shape, tensor.datatype.name)

"""Runs models on an Ascend NPU through the `InferSession` of ais_bench.

Names that the versions of 2023 and 2024 spell differently are looked up under both spellings.

Source: `ais_bench.infer.interface` and the `aclruntime` under it, of June 2023 and of May 2024.
"""

import os
import tempfile
from collections import deque
from contextlib import suppress
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import numpy.typing as npt
from ais_bench.infer.interface import InferSession  # type: ignore[import-not-found]

from distributed_pose.backends.base import (
    Backend,
    BackendOptions,
    DeviceTimes,
    Inference,
    InputBatch,
    NetworkOutput,
    check_precision,
)
from distributed_pose.backends.om import Chunk, empty_maps, image_input, map_outputs, om_port
from distributed_pose.errors import ExecutionError, SetupError, first_line
from distributed_pose.model.om_file import (
    UNKNOWN,
    compile_options,
    compiled_precision,
    compiled_soc,
)
from distributed_pose.records.models import ModelPort

_SUMMARY = ("summary", "sumary")
_RESET_SUMMARY = ("reset_summaryinfo", "reset_sumaryinfo")

_NS_PER_MS = 1e6
_OWNER_ONLY = 0o600


class AisBackend(Backend):
    """An `.om` on one NPU.

    A session copies an input to the device, executes the model and copies the outputs back, in
    sequence. Compute time is the time that ais_bench itself reports, by its host clock around
    `aclmdlExecute`. The rest of a call's time counts as copy out, and packing as copy in.

    Sessions of 2024 keep times since their start as single precision milliseconds, which are
    rounded to 0.06 ms after 17 minutes and to 1 ms after 3 hours.
    """

    def __init__(self, content: bytes, options: BackendOptions) -> None:
        self._answers: deque[Inference] = deque()
        # An `.om` runs only on the chip that it was compiled for, so that it names the device.
        self.description = compiled_soc(content) or f"Ascend NPU {options.index}"
        self._limit = options.batch_size
        self._keypoints = options.keypoints
        self._session: Any = None
        try:
            self._session = _session(content, options.index)
            self._describe(content)
            self.precision = compiled_precision(content, [port.dtype for port in self._outputs])
            if self.precision != UNKNOWN:
                check_precision(options.precision, self.precision)
        # Also catches Ctrl-C, because a session's memory on the device outlives the object.
        except BaseException as error:
            with suppress(ExecutionError):
                self._free()
            # The extension raises many types, such as RuntimeError, ValueError and SystemError.
            if isinstance(error, Exception) and not isinstance(error, SetupError):
                raise SetupError(
                    f"ais_bench cannot load the model: {first_line(error)}",
                    "check that the .om was compiled for this chip, and the chip's health with "
                    "npu-smi info",
                ) from None
            raise

    def submit(self, batch: InputBatch) -> None:
        if self._session is None:
            raise SetupError("the backend is closed")
        self._input.check(batch, self._limit)
        images_N3HW = batch.inputs_N3HW
        answers = empty_maps(len(images_N3HW), self._outputs)
        times_ns = np.zeros(3, np.int64)
        for chunk in self._input.chunks(len(images_N3HW)):
            try:
                times_ns += self._run(images_N3HW, chunk, answers)
            except Exception as error:  # noqa: BLE001 - see above
                self._answers.clear()
                raise ExecutionError(
                    f"ais_bench cannot run the batch: {first_line(error)}",
                    "check the device's health with npu-smi info",
                    image_ids=batch.image_ids,
                ) from None
        compute_ns, copy_in_ns, copy_out_ns = map(int, times_ns)
        times = DeviceTimes(compute_ns, copy_in_ns, copy_out_ns)
        self._answers.append(Inference(NetworkOutput(*answers), times))

    def collect(self) -> Inference:
        return self._answers.popleft()

    def close(self) -> None:
        self._free()

    def _describe(self, content: bytes) -> None:
        """Reads the inputs and outputs of the model from the session."""
        inputs = [_port(tensor) for tensor in self._session.get_inputs()]
        self._is_dynamic = bool(inputs) and inputs[0].shape[:1] == (None,)
        sizes = self._batch_sizes(content) if self._is_dynamic else []
        self._input = image_input(inputs, sizes)
        outputs = [_port(tensor) for tensor in self._session.get_outputs()]
        self._indices = map_outputs(outputs, self._keypoints)
        self._outputs = [outputs[index] for index in self._indices]

    def _batch_sizes(self, content: bytes) -> list[int]:
        """Returns the sizes of a dynamic batch, read from the file or else tried out."""
        listed = compile_options(content).get("dynamic_batch_size", "")
        sizes = listed.strip("\"'").split(",")
        if all(size.isdecimal() for size in sizes):
            return sorted(int(size) for size in sizes)
        if not hasattr(self._session, "get_max_dym_batchsize"):
            raise SetupError(
                "neither the .om nor this ais_bench reports the sizes of its dynamic batch",
                "install an ais_bench of 2024 or later, or compile the model with another CANN",
            )
        most = self._session.get_max_dym_batchsize()
        return [size for size in range(1, most + 1) if self._accepts(size)]

    def _accepts(self, batch_size: int) -> bool:
        try:
            self._session.set_dynamic_batchsize(batch_size)
        except RuntimeError:
            return False
        return True

    def _run(
        self, images_N3HW: npt.NDArray[Any], chunk: Chunk, answers: list[npt.NDArray[Any]]
    ) -> tuple[int, int, int]:
        """Runs a part and fills in its answers; returns the ns of compute, copy in and copy out."""
        start_ns = perf_counter_ns()
        sent = np.empty((chunk.size, *self._input.image_shape), self._input.port.dtype)
        self._input.pack(images_N3HW[chunk.start : chunk.stop], sent)
        packed_ns = perf_counter_ns()
        _either(self._session, _RESET_SUMMARY)()
        outputs = self._infer(sent)
        compute_ns = _execution_ns(_either(self._session, _SUMMARY)())
        for answer, index in zip(answers, self._indices, strict=True):
            answer[chunk.start : chunk.stop] = outputs[index][: chunk.stop - chunk.start]
        rest_ns = perf_counter_ns() - packed_ns - compute_ns
        return compute_ns, packed_ns - start_ns, max(0, rest_ns)

    def _infer(self, sent: npt.NDArray[Any]) -> list[Any]:
        if not self._is_dynamic:
            static: list[Any] = self._session.infer([sent])
            return static
        # The session of 2023 has no mode of `infer` for a dynamic batch.
        self._session.set_dynamic_batchsize(len(sent))
        dynamic: list[Any] = self._session.run([sent], out_array=True)
        return dynamic

    def _free(self) -> None:
        session, self._session = self._session, None
        # The session of 2023 has no such method, and frees its memory when the object is deleted.
        free = getattr(session, "free_resource", None)
        if free is None:
            return
        try:
            free()
        except Exception as error:  # noqa: BLE001 - see above
            raise ExecutionError(
                f"the NPU's resources are not all released: {first_line(error)}"
            ) from None


def _session(content: bytes, index: int) -> Any:
    # The path is resolved and the file is private, because ais_bench refuses links and files that
    # others than their owner may write to.
    with tempfile.TemporaryDirectory(
        prefix="om_", dir=Path(tempfile.gettempdir()).resolve()
    ) as folder:
        file = Path(folder) / "model.om"
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        # The constructor reads the whole file, so that the folder may be deleted afterwards.
        return InferSession(index, str(file))


def _execution_ns(summary: Any) -> int:
    """Returns the time of the last execution, in nanoseconds.

    The list has durations, or pairs of start and end since the session's start, in milliseconds.
    """
    last = summary.exec_time_list[-1]
    duration_ms = last[1] - last[0] if isinstance(last, tuple | list) else last
    return int(duration_ms * _NS_PER_MS)


def _either(session: Any, names: tuple[str, ...]) -> Any:
    """Returns the method that a session has under one of several names."""
    return next(getattr(session, name) for name in names if hasattr(session, name))


def _port(tensor: Any) -> ModelPort:
    return om_port(tensor.name, tensor.shape, tensor.datatype.name)

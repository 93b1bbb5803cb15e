"""Runs models with ONNX Runtime on Ascend NPUs, on its CANN provider.

Array legend: N images, H and W network input size in pixels.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter_ns
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from distributed_pose.backends.base import (
    Backend,
    BackendOptions,
    DeviceTimes,
    Inference,
    InputBatch,
    NetworkOutput,
    check_precision,
)
from distributed_pose.backends.fixed_batch import run_in_batches
from distributed_pose.backends.onnxruntime import open_session, port_of
from distributed_pose.backends.ports import check_fits, check_input, select_outputs
from distributed_pose.backends.providers import CANN, PROVIDERS, cann_options, require
from distributed_pose.devices.ascend import driver_soc_name, has_hf32
from distributed_pose.errors import ExecutionError, SetupError, first_line
from distributed_pose.model.onnx_graph import parse
from distributed_pose.model.onnx_precision import precision_of

Array = npt.NDArray[Any]


class OnnxRuntimeCannBackend(Backend):
    """A session on the CANN provider, which runs the whole model or refuses it.

    A batch is copied to the device, run and copied back in sequence, because the provider has one
    stream. Compute time is measured by the host's clock around a run whose input and outputs are in
    the device's memory. It therefore includes the launch of the execution.
    """

    def __init__(self, content: bytes, options: BackendOptions) -> None:
        require(CANN, onnxruntime.get_available_providers())
        soc = driver_soc_name()
        self.description = soc or "Ascend NPU"
        self.precision = _precision(content, options, soc)
        check_precision(options.precision, self.precision)
        provider_options = cann_options(options.index, half=options.precision != "f32")
        session = open_session(content, options, PROVIDERS[CANN], provider_options)
        inputs = [port_of(node) for node in session.get_inputs()]
        found = [port_of(node) for node in session.get_outputs()]
        outputs = select_outputs(found, options.keypoints)
        check_input(inputs)
        self._batch_size = inputs[0].shape[0]
        self._input = replace(inputs[0], shape=(None, *inputs[0].shape[1:]))
        device = ("cann", options.index)
        self._run: DeviceRun | None = DeviceRun(session, self._input.name, outputs, device)
        self._answers: deque[Inference] = deque()

    def submit(self, batch: InputBatch) -> None:
        run = self._run
        if run is None:
            raise SetupError("the backend is closed")
        check_fits(self._input, batch)
        run.times_ns[:] = 0
        try:
            inputs_N3HW = batch.inputs_N3HW.astype(self._input.dtype, copy=False)
            maps = NetworkOutput(*run_in_batches(run, inputs_N3HW, self._batch_size))
        except Exception as error:  # noqa: BLE001 - the runtime's own have no common base class
            self._answers.clear()
            raise ExecutionError(
                f"ONNX Runtime cannot run the model: {first_line(error)}", image_ids=batch.image_ids
            ) from None
        compute_ns, copy_in_ns, copy_out_ns = map(int, run.times_ns)
        times = DeviceTimes(compute_ns, copy_in_ns, copy_out_ns)
        self._answers.append(Inference(maps, times))

    def collect(self) -> Inference:
        return self._answers.popleft()

    def close(self) -> None:
        self._run = None


class DeviceRun:
    """Runs a session whose input and outputs are in a device's memory, and times its three steps.

    Args:
        session: session on a provider of the device.
        input_name: name of the image input.
        output_names: names of the outputs, in the order in which they are returned.
        device: kind of the device in ONNX Runtime's terms, and index of the device among those that
            the process sees.

    Attributes:
        times_ns: int64 [3], nanoseconds of compute, copy in and copy out, summed over the calls.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        input_name: str,
        output_names: Sequence[str],
        device: tuple[str, int],
    ) -> None:
        self.times_ns = np.zeros(3, np.int64)
        self._session = session
        self._input_name = input_name
        self._output_names = output_names
        self._device = device

    def __call__(self, inputs_N3HW: Array) -> list[Array]:
        start_ns = perf_counter_ns()
        # Each call makes a new value, because values of CANN cannot be updated in place.
        value = onnxruntime.OrtValue.ortvalue_from_numpy(
            np.ascontiguousarray(inputs_N3HW), *self._device
        )
        # Each call makes a new binding, because a binding keeps outputs that may not fit later.
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._input_name, value)
        for name in self._output_names:
            binding.bind_output(name, *self._device)
        binding.synchronize_inputs()
        copied_ns = perf_counter_ns()
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        run_ns = perf_counter_ns()
        outputs = [output.numpy() for output in binding.get_outputs()]
        end_ns = perf_counter_ns()
        self.times_ns += (run_ns - copied_ns, copied_ns - start_ns, end_ns - run_ns)
        return outputs


def _precision(content: bytes, options: BackendOptions, soc: str) -> str:
    """Returns the precision in which the provider will compute convolutions.

    CANN compiles any model to half precision, unless an option makes it keep the model's types. It
    then computes float32 in HF32 on chips that have it, which no option of the provider changes.
    """
    if options.precision != "f32":
        return "f16"
    found = precision_of(parse(content), fuses=False)
    if found != "f32":
        return found
    return "hf32" if has_hf32(soc) else "f32" if soc else "unknown"

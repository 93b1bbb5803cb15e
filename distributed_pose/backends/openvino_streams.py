"""Runs the images of a batch in the streams of a compiled OpenVINO model.

Array legend: N images, B images in a request, H and W network input size in pixels.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_pose.backends.fixed_batch import filled


def num_streams(threads: int, num_images: int, size: int) -> int:
    """Returns the largest number of streams among which threads and requests divide evenly.

    Args:
        threads: number of threads of all streams together.
        num_images: number of images in a batch.
        size: number of images in a request.
    """
    return gcd(threads, -(-num_images // size))


class Streams:
    """The requests of a compiled model, one per stream, each of which runs B images at a time.

    Args:
        new_request: returns a new request of the compiled model.
        count: number of streams of the compiled model.
        input_name: name of its input.
        output_names: names of the outputs to return.
        size: number B of images in a request.
    """

    def __init__(
        self,
        new_request: Callable[[], Any],
        count: int,
        input_name: str,
        output_names: Sequence[str],
        size: int,
    ) -> None:
        self.count = count
        self._new_request = new_request
        self._requests = self._new_requests()
        self._inputs: dict[int, npt.NDArray[Any]] = {}
        self._input_name = input_name
        self._output_names = output_names
        self._size = size

    def run(self, inputs_N3HW: npt.NDArray[Any]) -> list[npt.NDArray[np.float32]]:
        """Returns new output arrays, whose first dimension is N.

        A smaller last request is filled with copies of its last image.

        Args:
            inputs_N3HW: network inputs [N, 3, H, W] of at least one image.

        Raises:
            RuntimeError: if OpenVINO raises it; no request is running then.
        """
        starts = range(0, len(inputs_N3HW), self._size)
        outputs: list[npt.NDArray[np.float32]] = []
        try:
            for number, start in enumerate(starts):
                if number >= self.count:
                    self._collect(number - self.count, len(inputs_N3HW), outputs)
                self._start(number, inputs_N3HW[start : start + self._size])
            for number in range(max(0, len(starts) - self.count), len(starts)):
                self._collect(number, len(inputs_N3HW), outputs)
        except BaseException:
            self._stop()
            # A request that has failed raises its error again at the next wait.
            self._requests = self._new_requests()
            raise
        return outputs

    def _start(self, number: int, inputs_B3HW: npt.NDArray[Any]) -> None:
        # A request reads its inputs without a copy, so they are kept until its next start.
        inputs = self._inputs[number % self.count] = filled(inputs_B3HW, self._size)
        # In one thread, `infer` (2026.4.1) hides failures and leaves the outputs of the last call.
        self._request(number).start_async({self._input_name: inputs}, share_inputs=True)

    def _collect(
        self, number: int, num_images: int, outputs: list[npt.NDArray[np.float32]]
    ) -> None:
        """Waits for a request, and copies its outputs, which its next start overwrites."""
        request = self._request(number)
        request.wait()
        answers = [request.get_tensor(name).data for name in self._output_names]
        if not outputs:
            outputs += [np.empty((num_images, *one.shape[1:]), np.float32) for one in answers]
        for output, answer in zip(outputs, answers, strict=True):
            rows = output[number * self._size : (number + 1) * self._size]
            rows[:] = answer[: len(rows)]

    def _new_requests(self) -> list[Any]:
        return [self._new_request() for _ in range(self.count)]

    def _stop(self) -> None:
        """Waits until no request reads the caller's inputs."""
        for request in self._requests:
            request.cancel()
            # A request that was cancelled or has failed raises its error again.
            with suppress(RuntimeError):
                request.wait()

    def _request(self, number: int) -> Any:
        return self._requests[number % self.count]

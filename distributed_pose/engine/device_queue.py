"""Batches from several threads on their way through one device."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import NamedTuple

from distributed_pose.backends.base import Backend, Inference, InputBatch
from distributed_pose.errors import SetupError


class _Job(NamedTuple):
    batch: InputBatch
    answer: Future[Inference]


class DeviceQueue:
    """Runs batches on a backend, which lives in a thread of its own.

    As many batches are under way as the backend has slots, whoever submitted them: while one is
    executed, the next is copied to the device and the last is copied back.

    Args:
        name: of the device.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._lock = Lock()
        self._pipeline: _Pipeline | None = None

    def open(self, make: Callable[[], Backend]) -> Backend:
        """Returns the backend that `make` makes, of which other threads may read the attributes.

        Its errors are those of `make`.
        """
        backend = self._thread.submit(make).result()
        self._pipeline = _Pipeline(backend)
        return backend

    def prepare(self, batch: InputBatch) -> None:
        """Returns when the backend is ready for batches like this one; see `Backend.prepare`.

        Raises:
            ExecutionError: if the batch cannot be run.
            SetupError: if the device is not open.
        """
        with self._lock:
            preparing = self._thread.submit(self._opened().backend.prepare, batch)
        preparing.result()

    def submit(self, batch: InputBatch) -> "Future[Inference]":
        """Returns the answer to a batch, which is there when the device has worked it off.

        Any thread may call it. Batches start in the order in which they are submitted. One that
        fails fails alone: those that were under way beside it are run again. A batch that has not
        started can be cancelled.

        Raises:
            SetupError: if the device is not open.
        """
        job = _Job(batch, Future())
        with self._lock:
            pipeline = self._opened()
            pipeline.ready.append(job)
            self._thread.submit(pipeline.run)
        return job.answer

    def close(self) -> None:
        """Frees the device once all batches so far are worked off; may be called again."""
        with self._lock:
            pipeline, self._pipeline = self._pipeline, None
            closing = self._thread.submit(pipeline.backend.close) if pipeline else None
            self._thread.shutdown(wait=False)
        if closing:
            closing.result()
        self._thread.shutdown()

    def _opened(self) -> "_Pipeline":
        if self._pipeline is None:
            raise SetupError("the worker is not started")
        return self._pipeline


class _Pipeline:
    """What the device's thread does. Other threads only append to `ready`."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.ready: deque[_Job] = deque()
        self._under_way: deque[_Job] = deque()

    def run(self) -> None:
        """Works off all batches, those that become ready meanwhile too.

        It waits for the oldest only if there is no free slot or nothing to fill it with.
        """
        while self.ready or self._under_way:
            if self.ready and len(self._under_way) < self.backend.slots:
                self._start(self.ready.popleft())
            else:
                self._finish()

    def _start(self, job: _Job) -> None:
        if not job.answer.set_running_or_notify_cancel():
            return
        self._under_way.append(job)
        try:
            self.backend.submit(job.batch)
        # Vendors' runtimes raise what they like, and whoever waits must hear of it.
        except BaseException as error:  # noqa: BLE001
            self._fail(error)

    def _finish(self) -> None:
        try:
            inference = self.backend.collect()
        except BaseException as error:  # noqa: BLE001
            self._fail(error)
        else:
            self._under_way.popleft().answer.set_result(inference)

    def _fail(self, error: BaseException) -> None:
        """Finds the batch whose error it is: of several under way, any may have failed.

        After an error the backend has nothing under way.
        """
        jobs = [*self._under_way]
        self._under_way.clear()
        if len(jobs) == 1:
            jobs[0].answer.set_exception(error)
        else:
            self._run_alone(jobs)

    def _run_alone(self, jobs: Sequence[_Job]) -> None:
        for job in jobs:
            try:
                self.backend.submit(job.batch)
                inference = self.backend.collect()
            except BaseException as error:  # noqa: BLE001
                job.answer.set_exception(error)
            else:
                job.answer.set_result(inference)

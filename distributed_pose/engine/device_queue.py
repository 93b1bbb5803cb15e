"""A queue that runs the batches of several threads on one device."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from time import monotonic_ns

from distributed_pose.backends.base import Backend, Inference, InputBatch
from distributed_pose.errors import SetupError


@dataclass(eq=False, slots=True)
class _Job:
    batch: InputBatch
    answer: Future[Inference]
    started_ns: int = 0

    def set_result(self, inference: Inference) -> None:
        """Sets the answer, with the times between which the device had the batch."""
        self.answer.set_result(
            inference._replace(started_ns=self.started_ns, answered_ns=monotonic_ns())
        )


class DeviceQueue:
    """Runs batches on a backend, which a dedicated thread owns.

    As many batches are in flight as the backend has slots, whichever threads submitted them. While
    the device executes one batch, the next is copied to it and the last is copied back.

    Args:
        name: name of the device.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._lock = Lock()
        self._pipeline: _Pipeline | None = None

    def open(self, make: Callable[[], Backend]) -> Backend:
        """Opens the backend in the thread of the queue, and returns it.

        Other threads may only read the attributes of the backend. Errors of `make` are passed on.

        Args:
            make: returns the backend.
        """
        backend = self._thread.submit(make).result()
        self._pipeline = _Pipeline(backend)
        return backend

    def prepare(self, batch: InputBatch) -> None:
        """Makes the backend ready for batches like this one; see `Backend.prepare`.

        Raises:
            ExecutionError: if the batch cannot be run.
            SetupError: if the device is not open.
        """
        with self._lock:
            preparing = self._thread.submit(self._opened().backend.prepare, batch)
        preparing.result()

    def submit(self, batch: InputBatch) -> "Future[Inference]":
        """Queues a batch, and returns its pending answer, which is set when the batch has run.

        Any thread may call it. Batches start in the order in which they are submitted. A batch that
        fails does not affect others: batches that were in flight with it are run again. A batch
        that has not started can be cancelled.

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
        """Frees the device once all submitted batches have run; further calls do nothing."""
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
    """Runs batches in the thread of the queue. Other threads only append to `ready`."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.ready: deque[_Job] = deque()
        self._under_way: deque[_Job] = deque()

    def run(self) -> None:
        """Runs all ready batches, including those that become ready in the meantime.

        Waits for the oldest batch in flight only if no slot is free or no other batch is ready.
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
            job.started_ns = monotonic_ns()
            self.backend.submit(job.batch)
        # The runtimes of vendors raise exceptions of any type, and the waiting thread needs them.
        except BaseException as error:  # noqa: BLE001
            self._fail(error)

    def _finish(self) -> None:
        try:
            inference = self.backend.collect()
        except BaseException as error:  # noqa: BLE001
            self._fail(error)
        else:
            self._under_way.popleft().set_result(inference)

    def _fail(self, error: BaseException) -> None:
        """Sets the error of the batch that failed.

        If several batches are in flight, any of them may have failed, so each is run alone. After
        an error the backend has no batch in flight.
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
                job.started_ns = monotonic_ns()
                self.backend.submit(job.batch)
                inference = self.backend.collect()
            except BaseException as error:  # noqa: BLE001
                job.answer.set_exception(error)
            else:
                job.set_result(inference)

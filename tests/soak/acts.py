"""What the processes of workers and reducers do instead of their work."""

import fcntl
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import nan
from threading import Lock
from typing import Any, cast

import numpy as np

from distributed_pose.backends.base import Backend, Inference, InputBatch
from distributed_pose.data.shards import detected_images, pack_detections, unpack_images
from distributed_pose.pose.assemble import Poses
from distributed_pose.records.devices import DeviceReady, WorkerSpec
from tests.faults import FaultyWorker, Scene, Work

# What a call of the runs may take beside ten times the slowest one so far.
DEADLINE_S = 0.5

# Takes what the process was given, its work, and its answer before, and returns its answer.
Act = Callable[[Any, Work, Any], Any]

_STRANGE = 10**9


def kill(_given: Any, _work: Work, _before: Any) -> Any:
    """Ends the process, as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def stop(_given: Any, _work: Work, _before: Any) -> Any:
    """Stops all threads of the process, as a debugger or a disk that hangs does."""
    os.kill(os.getpid(), signal.SIGSTOP)


def answer_late(given: Any, work: Work, _before: Any) -> Any:
    """Answers after the deadline, when others may have been asked too."""
    time.sleep(6 * DEADLINE_S)
    return work(given)


def answer_as_before(_given: Any, _work: Work, before: Any) -> Any:
    """Answers as to the call before, so that its images come twice."""
    return before


def answer_for_others(given: Any, work: Work, _before: Any) -> Any:
    """Answers for images that nobody has asked for."""
    return _with_ids(work(given), lambda ids: [image_id + _STRANGE for image_id in ids])


def answer_twice(given: Any, work: Work, _before: Any) -> Any:
    """Answers for the first image once more, in place of the last."""
    return _with_ids(work(given), lambda ids: [ids[0], *ids[: max(1, len(ids) - 1)]])


def swap_part(given: Any, work: Work, before: Any) -> Any:
    """Answers with its own report, and the maps or people of the call before."""
    return before[0], work(given)[1]


def swap_people(given: Any, work: Work, before: Any) -> Any:
    """Answers for the right images, with people in those of the call before."""
    return replace(work(given), detections=before.detections)


def answer_garbage(given: Any, work: Work, _before: Any) -> Any:
    """Answers with bytes that are no detections."""
    return replace(work(given), detections=b"garbage")


def answer_not_finite(given: Any, work: Work, _before: Any) -> Any:
    """Answers with a score that is not a number."""
    reduction = work(given)
    poses = Poses(np.zeros((1, 51)), np.array([nan]))
    people = pack_detections(np.array(reduction.image_ids[:1]), poses)
    return replace(reduction, detections=people)


def answer_other_type(_given: Any, _work: Work, _before: Any) -> Any:
    """Answers with something that is no answer at all."""
    return None, b"garbage"


class BrokenError(Exception):
    """Cannot be read back, as some of vendors: what it keeps is not what it takes."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


def raise_unreadable(_given: Any, _work: Work, _before: Any) -> Any:
    """Raises what the driver cannot read."""
    raise BrokenError(507018, "the card fell off the bus")


def raise_stop(_given: Any, _work: Work, _before: Any) -> Any:
    """Raises what ends a generator in silence."""
    raise StopIteration


def exit_process(_given: Any, _work: Work, _before: Any) -> Any:
    """Ends the process as a library does that gives up."""
    raise SystemExit(1)


def answer_nan(given: Any, work: Work, _before: Any) -> Any:
    """Has the device answer with a value that is not a number."""
    _STATE.is_not_finite = True
    return work(given)


# Their answer is that of a call before, and at first there is none.
_NEED_BEFORE = {answer_as_before, swap_part, swap_people}


class _State:
    """What a process knows of its faults.

    Attributes:
        turn: held during a fault, so that no process dies twice.
        before: an answer that can stand for another.
        due: faults that are planned and have not been yet.
        is_not_finite: whether the next batch of the device has a NaN.
    """

    def __init__(self) -> None:
        self.turn = Lock()
        self.before: Any = None
        self.due = 0
        self.is_not_finite = False


_STATE = _State()


class SoakedWorker(FaultyWorker):
    """A worker whose device answers nonsense when it is told to."""

    def start(self, spec: WorkerSpec, model: bytes) -> DeviceReady:
        ready = super().start(spec, model)
        pipeline = cast("Any", self._worker)._queue._pipeline
        pipeline.backend = _Moody(pipeline.backend)
        return ready


class _Moody(Backend):
    """A backend with a NaN now and then."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.precision, self.description = backend.precision, backend.description
        self.slots = backend.slots

    def submit(self, batch: InputBatch) -> None:
        self._backend.submit(batch)

    def collect(self) -> Inference:
        answer = self._backend.collect()
        if _STATE.is_not_finite:
            _STATE.is_not_finite = False
            answer.maps.heatmaps_NKHW[-1, 3, 7, 11] = nan
        return answer

    def close(self) -> None:
        self._backend.close()


def at_planned_calls(
    scene: Scene, _name: str, given: Any, work: Work, *, plan: frozenset[int], acts: Sequence[Act]
) -> Any:
    """Works as it should but at the calls of a plan."""
    if _is_fresh(scene, _image_ids(given)):
        with _STATE.turn:
            call = _next_number(scene)
            _STATE.due += call in plan
            act = acts[call % len(acts)]
            if _STATE.due and (_STATE.before or act not in _NEED_BEFORE):
                _STATE.due -= 1
                scene.mark("fault")
                return act(given, work, _STATE.before)
    answer = work(given)
    if _can_be_swapped(answer):
        _STATE.before = answer
    return answer


def _with_ids(answer: Any, change: Callable[[list[int]], list[int]]) -> Any:
    """Returns the answer of a worker or a reducer with other ids of images."""
    if isinstance(answer, tuple):
        return answer[0], _with_ids(answer[1], change)
    return replace(answer, image_ids=tuple(change([*answer.image_ids])))


def _image_ids(given: Any) -> list[int]:
    """Returns the images of a call, to a worker or with maps to a reducer."""
    batches = given if isinstance(given, list) else [unpack_images(given)]
    return [image_id for batch in batches for image_id in batch.column("image_id").to_pylist()]


def _is_fresh(scene: Scene, image_ids: Sequence[int]) -> bool:
    """Returns whether no call of the run was for any of these images before."""
    # Each is to be known from now on, also if one of them was known before.
    is_new = [scene.once(f"image-{image_id}") for image_id in image_ids]
    return all(is_new)


def _next_number(scene: Scene) -> int:
    """Returns the number of a call among those of all processes."""
    with (scene.folder / "calls").open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.write(b".")
        return stream.tell()


def _can_be_swapped(answer: Any) -> bool:
    # Only what has people can be told from others.
    part = answer[0] if isinstance(answer, tuple) else answer
    return not hasattr(part, "detections") or bool(detected_images(part.detections))

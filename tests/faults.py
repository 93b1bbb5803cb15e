"""Faults to inject into the actors of a run on Ray, which must not change its results."""

import json
import math
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, ClassVar
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
import ray

from distributed_pose.cluster import actors as ray_actors
from distributed_pose.cluster import feeders as ray_feeders
from distributed_pose.data.shards import detected_images, pack_detections, unpack_images
from distributed_pose.engine.preparation import Prepared
from distributed_pose.engine.shared_inputs import PlacedBatch, Segment
from distributed_pose.errors import ExecutionError
from distributed_pose.pose.assemble import Poses
from distributed_pose.records.devices import DeviceReady, WorkerSpec

# The work of an actor: images to maps and report, or maps to detections.
Work = Callable[[Any], Any]

# A fault in place of the work, given a scene, the actor's name, its input, and its work.
Fault = Callable[["Scene", str, Any, Work], Any]


@dataclass(frozen=True)
class Scene:
    """A folder in which actors and the test leave marks for each other."""

    folder: Path

    def once(self, name: str) -> bool:
        """Returns True to the first caller, and False to all others."""
        return self.first(name, 1)

    def first(self, name: str, count: int) -> bool:
        """Returns True to the first `count` callers, and False to all others."""
        for number in range(count):
            try:
                (self.folder / f"{name}.{number}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return True
        return False

    def count(self, name: str) -> int:
        """Returns the number of marks with a name."""
        return len([*self.folder.glob(f"{name}.*")])

    def mark(self, name: str) -> None:
        """Leaves another mark with a name."""
        (self.folder / f"{name}.{time.monotonic_ns()}-{os.getpid()}").touch()

    def wait_for(self, name: str, count: int = 1, timeout_s: float = 60.0) -> None:
        """Waits until there are `count` marks with a name."""
        end = time.monotonic() + timeout_s
        while self.count(name) < count:
            assert time.monotonic() < end, f"no {name} in {timeout_s:.0f} s"
            time.sleep(0.01)


class FaultyWorker(ray_actors._WorkerActor):
    """A worker with a fault."""

    scene: ClassVar[Scene]
    fault: ClassVar[Fault]

    def start(self, spec: WorkerSpec, model: bytes) -> DeviceReady:
        self._name = spec.plan.name
        return super().start(spec, model)

    def process(self, images: pa.RecordBatch) -> Any:
        return type(self).fault(self.scene, self._name, images, super().process)


class FaultyReducer(ray_actors._ReducerActor):
    """A reducer with a fault."""

    scene: ClassVar[Scene]
    fault: ClassVar[Fault]

    def reduce(self, maps: Any, image_ids: Sequence[int]) -> Any:
        reduce = super().reduce
        return type(self).fault(self.scene, "reducer", maps, lambda given: reduce(given, image_ids))


# The image of which `DyingFeeder` dies.
KILLING_ID = 7


class DyingFeeder(ray_feeders._FeederActor):
    """A process that prepares images, and dies of one of them."""

    def prepare(
        self, images: pa.RecordBatch | bytes, batch_size: int, segment: Segment
    ) -> tuple[Prepared, list[PlacedBatch]]:
        if KILLING_ID in unpack_images(images).column("image_id").to_pylist():
            _die()
        return super().prepare(images, batch_size, segment)


class WorkerWithDyingFeeders(ray_actors._WorkerActor):
    """A worker whose feeders die of one image."""

    def start(self, spec: WorkerSpec, model: bytes) -> DeviceReady:
        ray_feeders._FeederActor = DyingFeeder  # type: ignore[misc]
        return super().start(spec, model)


@dataclass(frozen=True)
class Stage:
    """Puts faulty actors in the place of the real ones."""

    scene: Scene
    monkeypatch: pytest.MonkeyPatch

    def workers(self, fault: Fault) -> None:
        """Gives all workers a fault."""
        self._replace("_WorkerActor", FaultyWorker, fault)

    def reducers(self, fault: Fault) -> None:
        """Gives all reducers a fault."""
        self._replace("_ReducerActor", FaultyReducer, fault)

    def _replace(self, name: str, base: type, fault: Fault) -> None:
        # Made here, so that it travels to its process with its fault.
        faulty = type("Faulty", (base,), {"scene": self.scene, "fault": staticmethod(fault)})
        self.monkeypatch.setattr(ray_actors, name, faulty)


def kill_first(scene: Scene, _name: str, given: Any, work: Work) -> Any:
    """Ends three processes in the middle of their work."""
    # A process that works on two batches dies once.
    with _DYING:
        if scene.first("kill", 3):
            _die()
    return work(given)


_DYING = Lock()


def record_place(scene: Scene, name: str, given: Any, work: Work) -> Any:
    """Records the node and devices of a process; the process of one device dies once."""
    context = ray.get_runtime_context()
    ids = context.get_accelerator_ids()["NPU"]
    seen = os.environ.get("ASCEND_RT_VISIBLE_DEVICES")
    node = context.get_node_id()
    place = {"name": name, "node": node, "ids": ids, "seen": seen, "pid": os.getpid()}
    # Another thread of the process may die while this one writes.
    whole = scene.folder / f"written.{uuid4().hex}"
    whole.write_text(json.dumps(place))
    whole.rename(scene.folder / f"place.{name}.{os.getpid()}")
    # Waits until all devices have had work, and the restarted one has had some again.
    scene.wait_for("place", scene.count("devices"))
    if name == "npu:1":
        with _DYING:
            if scene.once("kill"):
                _die()
    elif scene.count("devices"):
        scene.wait_for("place.npu:1", 2)
    return work(given)


def grow_once(scene: Scene, _name: str, given: Any, work: Work) -> Any:
    """Takes more and more memory once, until something ends its process."""
    if scene.once("grow"):
        taken = []
        while True:
            taken.append(np.ones(2**22))
            time.sleep(0.01)
    return work(given)


def hang_once(scene: Scene, _name: str, given: Any, work: Work) -> Any:
    """Never answers once."""
    if scene.once("hang"):
        time.sleep(3600)
    return work(given)


def hang(_scene: Scene, _name: str, _given: Any, _work: Work) -> Any:
    """Never answers."""
    time.sleep(3600)


def late_once(scene: Scene, _name: str, given: Any, work: Work) -> Any:
    """Answers once when another has answered for the same images; the two end the run."""
    mark = f"asked-for-{_image_ids(given)[0]}"
    scene.mark(mark)
    if scene.once("late"):
        scene.wait_for(mark, 2)
    elif scene.count(mark) == 2:
        # Otherwise the run could end before the late answer arrives.
        scene.wait_for("answered-late")
    answer = work(given)
    if scene.count(mark) == 2:
        scene.mark("answered-late")
    return answer


def answer_again(scene: Scene, _name: str, given: Any, work: Work) -> Any:
    """Answers once for the batch before, in place of its own."""
    answer = work(given)
    if _ANSWERS and scene.once("again"):
        return _ANSWERS.pop()
    _ANSWERS.append(answer)
    return answer


# In the process of an actor.
_ANSWERS: list[Any] = []


def maps_of_another(scene: Scene, _name: str, given: Any, work: Work) -> Any:
    """Answers once with its own report and the maps of the batch before."""
    maps, report = work(given)
    if _ANSWERS and scene.once("again"):
        return _ANSWERS[-1], report
    _ANSWERS.append(maps)
    return maps, report


def poses_of_another(scene: Scene, _name: str, given: Any, work: Work) -> Any:
    """Answers once with its own report and the people of the batch before."""
    reduction, report = work(given)
    if _ANSWERS and scene.once("again"):
        return _ANSWERS[-1], report
    _ANSWERS.append(reduction)
    return reduction, report


def people_elsewhere(scene: Scene, _name: str, given: Any, work: Work) -> Any:
    """Answers once for the right images, with people in others."""
    reduction = work(given)
    if _ANSWERS and scene.once("again"):
        return replace(reduction, detections=_ANSWERS[-1].detections)
    # Only reductions with people can be distinguished from others.
    if detected_images(reduction.detections):
        _ANSWERS.append(reduction)
    return reduction


def garbage_once(scene: Scene, _name: str, given: Any, work: Work) -> Any:
    """Answers once with bytes that are not detections."""
    reduction = work(given)
    return replace(reduction, detections=b"garbage") if scene.once("again") else reduction


def other_type_once(scene: Scene, _name: str, given: Any, work: Work) -> Any:
    """Answers once with a value of another type than an answer."""
    return (None, b"garbage") if scene.once("again") else work(given)


def not_finite_once(scene: Scene, _name: str, given: Any, work: Work) -> Any:
    """Answers once with a score that is not a number."""
    reduction = work(given)
    ids = sorted(detected_images(reduction.detections))
    if ids and scene.once("again"):
        poses = Poses(np.zeros((1, 51)), np.array([math.nan]))
        return replace(reduction, detections=pack_detections(np.array(ids[:1]), poses))
    return reduction


def fail_on_cpu_1(scene: Scene, name: str, given: Any, work: Work) -> Any:
    """Fails on one device; the others wait until four of its processes have failed."""
    if name == "cpu:1":
        (scene.folder / f"nonsense.{os.getpid()}").touch()
        raise ExecutionError("the model's output has values that are not finite")
    scene.wait_for("nonsense", 4)
    return work(given)


# Ids of the demo's images count from 1.
POISONOUS = {7}


def poison(scene: Scene, _name: str, given: Any, work: Work) -> Any:
    """Dies of one image."""
    if set(_image_ids(given)) & POISONOUS:
        scene.mark("kill")
        _die()
    return work(given)


def fail_after_six(scene: Scene, _name: str, given: Any, work: Work) -> Any:
    """Fails for good after six batches on all devices together, once results can have come."""
    if scene.first("well", 6):
        return work(given)
    # Grouping goes on meanwhile, which a run that ends does not wait for.
    time.sleep(2)
    raise RuntimeError("the card fell off the bus")


def stop_where_marked(scene: Scene, _name: str, given: Any, work: Work) -> Any:
    """Stops working on the node of a mark after three batches, until which the others wait."""
    # Nodes are in the order of random identifiers, so a device's name does not determine its node.
    is_marked = scene.count(f"leaving-{ray.get_runtime_context().get_node_id()}")
    if not is_marked:
        scene.wait_for("stopped")
    elif not scene.first("served", 3):
        scene.mark("stopped")
        time.sleep(3600)
    return work(given)


def serve(scene: Scene, _name: str, given: Any, work: Work) -> Any:
    """Works no faster than `killer` kills processes, and offers it its own process."""
    mark = scene.folder / f"batch.{_image_ids(given)[0]}"
    end = time.monotonic() + _PATIENCE_S
    # A repeated batch does not wait, because it would be the target of most kills.
    if not mark.exists():
        mark.touch()
        while scene.count("kill") < _kills_due(scene) and time.monotonic() < end:
            time.sleep(0.01)
    answer = work(given)
    (scene.folder / f"pid.{os.getpid()}").touch()
    return answer


def _kills_due(scene: Scene) -> int:
    return scene.count("batch") // _BATCHES_A_KILL


_BATCHES_A_KILL = 8
_PATIENCE_S = 5.0


def _die() -> None:
    # As the kernel does when memory runs out.
    os.kill(os.getpid(), signal.SIGKILL)


def _image_ids(images: pa.RecordBatch) -> list[int]:
    ids: list[int] = images.column("image_id").to_pylist()
    return ids


@contextmanager
def killer(scene: Scene, seed: int) -> Iterator[None]:
    """Kills random processes that have worked, as long as the context is entered."""
    stop = Event()
    thread = Thread(target=_kill, args=(scene, random.Random(seed), stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _kill(scene: Scene, choice: random.Random, stop: Event) -> None:
    while not stop.wait(choice.uniform(0, 0.2)):
        pids = sorted(scene.folder.glob("pid.*"))
        if pids and scene.count("kill") < _kills_due(scene):
            victim = choice.choice(pids)
            victim.unlink()
            try:
                os.kill(int(victim.suffix[1:]), signal.SIGKILL)
            except ProcessLookupError:
                continue
            scene.mark("kill")


def is_spilling() -> bool:
    """Returns whether Ray's object store has spilled to disk."""
    from ray._private.internal_api import memory_summary

    return "Spilled" in memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)

"""The base class of the actor processes of a run."""

from functools import partial
from time import process_time

import cv2
import ray

from distributed_pose.cluster.diagnosis import describe_threads
from distributed_pose.devices.host import keep_freed_memory, peak_rss_bytes

# The concurrency group has its own thread, so that an actor answers questions while it is at work.
ASIDE = "aside"
remote = partial(ray.remote, concurrency_groups={ASIDE: 1}, max_restarts=0)


class ActorProcess:
    """A process of the run, which answers questions while it is at work."""

    def __init__(self) -> None:
        # The reserved CPUs are for the model, and OpenCV would use all CPUs of the machine.
        cv2.setNumThreads(1)
        keep_freed_memory()

    @ray.method(concurrency_group=ASIDE)
    def peak_rss_bytes(self) -> int:
        return peak_rss_bytes()

    @ray.method(concurrency_group=ASIDE)
    def cpu_s(self) -> float:
        return process_time()

    @ray.method(concurrency_group=ASIDE)
    def doing(self) -> str:
        return describe_threads()

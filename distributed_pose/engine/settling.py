"""Conclusions from a worker's report about its images and about the devices that tried them before.

A broken image fails on every device; a node without the data fails with every image. A second
device that tries the same images shows which of the two it is.
"""

from collections.abc import Mapping
from dataclasses import replace

from distributed_pose.engine.health import Health
from distributed_pose.engine.task_queue import Task, TaskQueue
from distributed_pose.engine.worker_report import WorkerReport


def settle(
    work: TaskQueue, task: Task, device: str, report: WorkerReport, devices: Mapping[str, Health]
) -> WorkerReport:
    """Settles a task with a worker's report, and returns the report with only the final failures.

    Images that failed for the first time are tried again. If this device read images that another
    one refused, that counts against the health of the other one.

    Args:
        work: queue of the run.
        task: the task that the report answers.
        device: name of the worker's device.
        report: report of the worker.
        devices: health of all devices, by name.
    """
    devices[device].evaluated(len(report.image_ids))
    if not task.is_done:
        for refusal in task.refusals:
            for image_id in refusal.reasons.keys() & set(report.image_ids):
                devices[refusal.device].refute(refusal.reasons[image_id])
    # Without failures no other device needs to try the images.
    usable = _usable(devices) if report.failures else ()
    failures = work.settle(task, device, report.failures, usable)
    return replace(report, failures=failures) if report.failures else report


def device_to_exclude(task: Task, devices: Mapping[str, Health]) -> str:
    """Returns the name of a device to exclude because it refuses what others can read, or `""`.

    The last usable device is never excluded.
    """
    if not task.refusals:
        return ""
    usable = _usable(devices)
    found = [
        refusal.device
        for refusal in task.refusals
        if refusal.device in usable and devices[refusal.device].is_refusing
    ]
    return found[0] if found and len(usable) > 1 else ""


def _usable(devices: Mapping[str, Health]) -> list[str]:
    return [name for name, health in devices.items() if not health.is_excluded]

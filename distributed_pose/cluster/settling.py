"""What a worker's report says about its images, and about the devices that had them before.

A broken image fails on every device; a node without the data fails with every image. Which of the
two it is shows when another device has tried the same images.
"""

from collections.abc import Mapping
from dataclasses import replace

from distributed_pose.cluster.health import Health
from distributed_pose.cluster.work import Task, Work
from distributed_pose.cluster.worker import WorkerReport


def settle(
    work: Work, task: Task, device: str, report: WorkerReport, devices: Mapping[str, Health]
) -> WorkerReport:
    """Settles a task with a worker's report, and returns the report with final failures alone.

    Images that failed for the first time are tried again. A device that could not read or decode
    what this one could has it entered into its health.

    Args:
        work: of the run.
        task: that the report is about.
        device: name of the worker's device.
        report: of the worker.
        devices: health of all devices by name.
    """
    devices[device].evaluated(len(report.image_ids))
    if not task.is_done:
        for refusal in task.refusals:
            for image_id in refusal.reasons.keys() & set(report.image_ids):
                devices[refusal.device].refute(refusal.reasons[image_id])
    usable = [name for name, health in devices.items() if not health.is_out]
    failures = work.settle(task, device, report.failures, usable)
    return replace(report, failures=failures)


def out_of_line(task: Task, devices: Mapping[str, Health]) -> str:
    """Returns which device that had a task before is to be taken out; empty for none.

    The last usable device stays: what it can read is better than nothing.
    """
    usable = {name for name, health in devices.items() if not health.is_out}
    found = [
        refusal.device
        for refusal in task.refusals
        if refusal.device in usable and devices[refusal.device].is_out_of_line
    ]
    return found[0] if found and len(usable) > 1 else ""

"""Names the steps of a run's start as they begin, for logs and progress bars."""

import logging

STEPS = logging.getLogger("distributed_pose.steps")


def step(description: str) -> None:
    """Logs that a step begins.

    Args:
        description: description of the step, such as `starting Ray`.
    """
    STEPS.info("%s", description)

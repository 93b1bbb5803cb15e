"""Names the steps of a command as they begin, for logs and progress displays.

The steps of a worker are shown where it runs in the process of the driver, and on Ray they are in
the log of its process.
"""

import logging
from collections.abc import Callable

STEPS = logging.getLogger("distributed_pose.steps")

# Called with the total number of parts of the work, and the number of those that are done.
Progress = Callable[[int, int], None]


def step(description: str) -> None:
    """Logs that a step begins.

    Args:
        description: description of the step, such as `starting Ray`.
    """
    STEPS.info("%s", description)


def is_milestone(count: int) -> bool:
    """Returns whether an event is logged that occurs up to millions of times, given its count.

    The first event is a milestone, and then each that doubles the count.
    """
    return count & (count - 1) == 0

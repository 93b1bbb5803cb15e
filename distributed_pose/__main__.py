"""`python -m distributed_pose` is the command `distributed-pose`."""

from typing import NoReturn

from distributed_pose.cli.main import main
from distributed_pose.cli.supervise import run_supervised


def start() -> NoReturn:
    """Runs the command as the user's shell starts it, in a process that is watched."""
    run_supervised(main)


if __name__ == "__main__":
    start()

"""`python -m distributed_pose` is the command `distributed-pose`."""

from typing import NoReturn

from distributed_pose.cli.supervise import run_supervised


def start() -> NoReturn:
    """Runs the command as the user's shell starts it, in a process that is watched."""
    run_supervised(_main)


def _main() -> NoReturn:
    # The imports take a second, and a signal must not end them with a traceback.
    from distributed_pose.cli.main import main

    main()


if __name__ == "__main__":
    start()

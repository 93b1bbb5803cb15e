"""`python -m distributed_pose` is the command `distributed-pose`."""

from distributed_pose.cli import main

if __name__ == "__main__":
    main()

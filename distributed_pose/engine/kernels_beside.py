"""Compiles the decoder's kernels while a run starts.

The module does not import Numba, because the driver imports it before anything else.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from distributed_pose.devices.host import num_cpus
from distributed_pose.pose.sources import completion_mark, kernels_folder

# The kernels are the same for all keypoint sets.
_WARM_UP = (
    "from distributed_pose.keypoints.reading import coco_body; "
    "from distributed_pose.pose.{} import {} as Decoder; Decoder(coco_body()).warm_up()"
)
_ONE_SCALE, _SEVERAL_SCALES = ("decode", "Decoder"), ("mean_decode", "MeanDecoder")

# There are two large kernels, so a third process would find none to compile.
_MAX_PROCESSES = 2


def are_kernels_missing(*, several_scales: bool) -> bool:
    """Returns whether this machine has yet to compile the decoder's kernels.

    Args:
        several_scales: whether the run decodes maps at several scales.
    """
    return not completion_mark(kernels_folder(), several_scales=several_scales).exists()


@contextmanager
def kernels_compiled_beside(*, several_scales: bool) -> Iterator[None]:
    """Compiles the kernels in processes of their own during the block, unless they are cached.

    The processes end with the block. The kernels that they have compiled by then stay cached.

    Args:
        several_scales: whether the run decodes maps at several scales.
    """
    with ExitStack() as stack:
        if are_kernels_missing(several_scales=several_scales):
            # One processor is left to the start of the run.
            for _ in range(max(1, min(num_cpus() - 1, _MAX_PROCESSES))):
                # An interpreter that is embedded in another program may have no executable.
                with suppress(OSError):
                    stack.callback(_end, _start(several_scales=several_scales))
        yield


def _start(*, several_scales: bool) -> subprocess.Popen[bytes]:
    code = _WARM_UP.format(*(_SEVERAL_SCALES if several_scales else _ONE_SCALE))
    # It runs this copy of the package, and a signal from the terminal reaches the driver alone.
    return subprocess.Popen(  # noqa: S603 - a constant command
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()

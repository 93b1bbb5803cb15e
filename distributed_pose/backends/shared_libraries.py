"""Finds out whether ONNX Runtime's providers for NVIDIA cards can be loaded, by loading them.

`onnxruntime.get_available_providers()` lists the providers that the package was built with, whether
or not their libraries load. A separate process loads them: an unsuitable library can end the
process that loads it, and no library stays loaded in the caller's process.
"""

import json
import subprocess
import sys
from functools import cache

from distributed_pose.devices.lacks import Lack
from distributed_pose.devices.nvidia_libraries import missing_libraries, unloadable_provider
from distributed_pose.errors import first_line

_TIMEOUT_S = 120.0


@cache
def probe_provider(variant: str) -> tuple[Lack, ...]:
    """Returns what a provider of ONNX Runtime lacks on this machine; empty if it can be loaded.

    A separate process loads the provider's library and all its dependencies, which takes about a
    second. The answer is cached for the life of this process.

    Args:
        variant: variant of the provider, `cuda` or `tensorrt`.
    """
    command = [sys.executable, "-m", __name__, variant]
    try:
        answer = subprocess.run(  # noqa: S603 - the variant is one of ours
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return (_unloadable(variant, first_line(error)),)
    try:
        return tuple(Lack(*fields) for fields in json.loads(answer.stdout))
    # A library can end the process that loads it.
    except (ValueError, TypeError):
        return (_unloadable(variant, answer.stderr.strip().rpartition("\n")[2]),)


def _unloadable(variant: str, reason: str) -> Lack:
    what = f"libraries of onnxruntime:{variant} that can be loaded"
    return Lack(what, reason, "pip install --force-reinstall 'onnxruntime-gpu[cuda,cudnn]'")


def _main(variant: str) -> None:
    lacks = list(missing_libraries(variant)) or list(unloadable_provider(variant))
    sys.stdout.write(json.dumps(lacks))


if __name__ == "__main__":
    _main(sys.argv[1])

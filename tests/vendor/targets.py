"""The targets that the package is installed for, and how an index answers to their requirements."""

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

X86, ARM = "x86_64-manylinux_2_28", "aarch64-manylinux_2_28"

# The glibc of the oldest system for OpenVINO's aarch64 wheels, such as Ubuntu 22.04.
NEW_ARM = "aarch64-manylinux_2_35"

PYTHONS = ("3.11", "3.12", "3.13")

# The index has only sources of these, whose build fetches the wheel from NVIDIA's index.
FROM_NVIDIA = ("tensorrt-cu13", "tensorrt-cu13-libs")


@dataclass(frozen=True)
class Target:
    """An environment that the package is installed into.

    Attributes:
        name: name of the extra.
        constraints: file with the versions, relative to the repository.
        pythons: versions of Python that the target supports.
        platforms: supported platforms, by the names of uv.
        with_extras: further extras that the constraints cover.
        beside: requirements in place of those that the index has no wheels of.
        proof: evidence that the installed target works.
        shown: distributions whose versions the table names.
    """

    name: str
    constraints: str
    pythons: tuple[str, ...] = PYTHONS
    platforms: tuple[str, ...] = (X86, ARM)
    with_extras: tuple[str, ...] = ("torch", "cluster", "plots")
    beside: tuple[str, ...] = ()
    proof: str = ""
    shown: tuple[str, ...] = ()


# NumPy 1, which CANN's modules are built for, has no wheels for Python 3.13.
_WITH_NUMPY_1 = PYTHONS[:2]

_STAND_INS = "stand-ins for `acl`, `atc` and `ais_bench`; no NPU"

TARGETS = (
    Target(
        "cpu",
        "constraints.txt",
        platforms=(X86, NEW_ARM),
        with_extras=("dev",),
        proof="every test",
        shown=("openvino", "onnxruntime", "numpy"),
    ),
    Target(
        "gpu",
        "constraints/gpu.txt",
        platforms=(X86,),
        proof="resolving; no card (`tests/device` is skipped without one)",
        shown=("onnxruntime-gpu", "nvidia-cudnn-cu13", "nvidia-cuda-runtime"),
    ),
    Target(
        "tensorrt",
        "constraints/tensorrt.txt",
        platforms=(X86,),
        beside=("tensorrt-cu13-bindings>=10.13,<11",),
        proof="resolving, without TensorRT's libraries; no card",
        shown=("onnxruntime-gpu", "tensorrt-cu13-bindings"),
    ),
    Target(
        "cann",
        "constraints/cann.txt",
        pythons=_WITH_NUMPY_1,
        proof="933 unit tests of data, decoder and metrics beside the vendor's wheel; no NPU",
        shown=("onnxruntime-cann", "numpy", "opencv-python-headless"),
    ),
    Target(
        "ascend",
        "constraints/ascend.txt",
        pythons=_WITH_NUMPY_1,
        proof=_STAND_INS,
        shown=("numpy", "opencv-python-headless"),
    ),
    Target("torch", "constraints.txt", proof="every test, on the CPU", shown=("torch",)),
    Target(
        "int8",
        "constraints.txt",
        platforms=(X86, NEW_ARM),
        proof="every test",
        shown=("nncf", "openvino"),
    ),
    Target("cluster", "constraints.txt", proof="every test", shown=("ray", "grpcio")),
    Target("plots", "constraints.txt", proof="every test", shown=("matplotlib",)),
    Target("tensorboard", "constraints.txt", proof="every test", shown=("tensorboard",)),
    Target(
        "mlflow",
        "constraints/trackers.txt",
        with_extras=("wandb", "tensorboard", "plots"),
        proof="a run in an SQLite store",
        shown=("mlflow-skinny",),
    ),
    Target("wandb", "constraints/trackers.txt", proof="a run in offline mode", shown=("wandb",)),
    Target("dev", "constraints.txt", platforms=(X86,), proof="every test"),
)


class NoAnswerError(Exception):
    """The package index cannot be reached."""


def resolve(
    extras: tuple[str, ...],
    *,
    python: str,
    platform: str,
    constraints: Path | None = None,
    beside: tuple[str, ...] = (),
    preferred: str = "",
) -> str:
    """Returns the resolved versions, as lines of a constraints file.

    Only binary wheels are considered, and none is downloaded.

    Args:
        extras: extras of this package.
        python: version of Python.
        platform: platform by the name of uv.
        constraints: file with required versions.
        beside: further requirements.
        preferred: lines with versions to prefer.

    Raises:
        NoAnswerError: if the index cannot be reached.
        ValueError: if there is no solution; states the reason.
    """
    with tempfile.TemporaryDirectory() as folder:
        names = ("beside.in", "excluded.txt", "constraints.txt", "pins.txt")
        files = [Path(folder, name) for name in names]
        lines = ("\n".join(beside), "\n".join(FROM_NVIDIA))
        pins = constraints.read_text() if constraints else ""
        for file, text in zip(files, (*lines, pins, preferred), strict=True):
            file.write_text(text + "\n")
        requirements, excluded, constrained, output = map(str, files)
        command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet"]
        command += ["--no-annotate", "--no-header", "--no-emit-index-url"]
        command += ["--only-binary", ":all:", "--python-version", python]
        command += ["--python-platform", platform, "--excludes", excluded]
        command += ["--constraints", constrained, "--output-file", output]
        command += [part for extra in extras for part in ("--extra", extra)]
        command += [str(REPOSITORY / "pyproject.toml"), requirements]
        return _answer(command, Path(output))


def _answer(command: list[str], output: Path) -> str:
    # uv uses the certificates that are configured for pip.
    certificate = os.environ.get("PIP_CERT")
    certificates = {"SSL_CERT_FILE": certificate} if certificate else {}
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **certificates, "NO_COLOR": "1"},
        timeout=240,
    )
    if ran.returncode == 0:
        return output.read_text()
    problem = " ".join(ran.stderr.split())
    if re.search(r"Failed to fetch|error sending request|[Cc]onnect", problem):
        raise NoAnswerError(problem)
    raise ValueError(problem)

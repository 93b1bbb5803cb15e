"""Figures of a card, beside TensorRT's own tool: `python -m tests.device [--set KEY=VALUE ...]`.

For each batch size the execution time and images per second of `bench device`, compute only as
`trtexec` counts them, and their share of the half-precision rate that the card reaches in a large
matrix product. Where `trtexec` is on the PATH, it measures the same network.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from distributed_pose.bench.device import bench_device
from distributed_pose.config.loading import load_config
from distributed_pose.demo.default import WEIGHTS
from distributed_pose.devices.nvidia import EngineShapes, cuda_device_facts
from distributed_pose.model.tensorrt import trtexec_command
from tests.checkpoints import exported

BATCH_SIZES = (1, 2, 4, 8, 16, 32)

# Two per multiply-add, at 368x640 and for the last stage alone.
_FLOP_PER_IMAGE = 30.9e9

_MATRIX = 8192
_PRODUCTS = 50
_SECONDS = 2.0


def half_flops_per_s() -> float:
    """Returns the rate of products of large half-precision matrices."""
    one, other = (torch.randn(_MATRIX, _MATRIX, device="cuda").half() for _ in range(2))
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(_PRODUCTS):
        one @ other
    start.record()
    for _ in range(_PRODUCTS):
        one @ other
    end.record()
    end.synchronize()
    return _PRODUCTS * 2 * _MATRIX**3 / (start.elapsed_time(end) / 1e3)


def trtexec_ms(onnx: Path, batch_size: int) -> float | None:
    """Returns the mean GPU compute time of a batch by `trtexec`; None if it is not installed."""
    if not shutil.which("trtexec"):
        return None
    shapes = EngineShapes("data", batch_size, batch_size, 368, 640)
    command = trtexec_command(onnx, shapes=shapes, precision="f16")
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"GPU Compute Time:.*?mean = ([\d.]+) ms", output)
    return float(found[1]) if found else None


def main(overrides: list[str]) -> None:
    config = load_config(None, ["devices=cuda:0", "engine=inline", *overrides])
    peak = half_flops_per_s()
    tell(cuda_device_facts(0), f"half-precision matrix products: {peak / 1e12:.1f} TFLOP/s")
    (sweep,) = bench_device(config, BATCH_SIZES, _SECONDS, lambda *_: None)
    tell(f"{sweep.backend} {sweep.precision}", "batch  execution ms  images/s  share  trtexec ms")
    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "network.onnx"
        onnx.write_bytes(exported(WEIGHTS))
        for figures in sweep.batches:
            share = figures.images_per_s * _FLOP_PER_IMAGE / peak
            beside = trtexec_ms(onnx, figures.batch_size)
            tell(
                f"{figures.batch_size:5}  {figures.mean_ms:12.3f}  {figures.images_per_s:8.1f}  "
                f"{share:5.1%}  {'-' if beside is None else f'{beside:.3f}'}"
            )


def tell(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])

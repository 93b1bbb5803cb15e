"""Converts half precision to single.

NumPy takes ten times as long where its build lacks the processor's conversion instruction.
"""

import numpy as np
import numpy.typing as npt

from distributed_pose.pose.kernels import compiled

_SIGN = np.uint16(0x8000)
_MANTISSA_GAP = np.uint32(23 - 10)
# Shifted into a float32, the exponent bits of a half are too small by a factor of 2 to the 112.
_BIAS_GAP = np.float32(2.0 ** (127 - 15))


def half_to_float(halves: npt.NDArray[np.float16], out: npt.NDArray[np.float32]) -> None:
    """Writes finite halves as single precision, exactly.

    Args:
        halves: float16, C-contiguous.
        out: float32, flat, with as many values as `halves`.
    """
    bits = halves.reshape(-1).view(np.uint16)
    # The kernel is compiled for read-only arrays only, because arrays from Arrow are read-only.
    bits.flags.writeable = False
    _widen(bits, out.view(np.uint32), out)


@compiled
def _widen(
    bits: npt.NDArray[np.uint16], out_bits: npt.NDArray[np.uint32], out: npt.NDArray[np.float32]
) -> None:
    """Converts values; `out_bits` and `out` are views of the same memory."""
    for index in range(len(bits)):
        out_bits[index] = np.uint32(bits[index] & ~_SIGN) << _MANTISSA_GAP
    for index in range(len(bits)):
        magnitude = out[index] * _BIAS_GAP
        out[index] = -magnitude if bits[index] & _SIGN else magnitude

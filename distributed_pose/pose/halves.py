"""Converts between half and single precision.

NumPy takes five to ten times as long where its build lacks the processor's conversion instructions.
"""

import numpy as np
import numpy.typing as npt

from distributed_pose.pose.kernels import compiled

_SIGN = np.uint16(0x8000)
_SIGN_OF_FLOAT = np.uint32(0x80000000)
_MANTISSA_GAP = np.uint32(23 - 10)
# Shifted into a float32, the exponent bits of a half are too small by a factor of 2 to the 112.
_BIAS_GAP = np.float32(2.0 ** (127 - 15))

# Bits of float32 magnitudes: the least normal half, the first that is rounded to infinity, and
# infinity.
_LEAST_NORMAL = np.uint32(0x38800000)
_TOO_LARGE = np.uint32(0x477FF000)
_INFINITY = np.uint32(0x7F800000)
# The last bit of the floats from 0.5 to 1 is that of subnormal halves, so adding 0.5 rounds to it.
_HALF = np.float32(0.5)
_HALF_BITS = np.uint32(0x3F000000)
# Bits of the same exponents in a float32 less those in a half, shifted by the gap.
_EXPONENT_GAP = np.uint32((127 - 15) << 23)
_ALMOST_HALF_A_BIT = np.uint32((1 << 12) - 1)
_INFINITE_HALF = np.uint32(0x7C00)
_MANTISSA_OF_HALF = np.uint32(0x3FF)


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


def float_to_half(floats: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """Returns floats as halves, float16 of the same shape: rounded to nearest, ties to even.

    Values that are too large become infinite, as with NumPy, whose bits all results have.
    """
    values = np.ascontiguousarray(floats).reshape(-1)
    values.flags.writeable = False
    out = np.empty(floats.shape, np.float16)
    _narrow(values, values.view(np.uint32), out.reshape(-1).view(np.uint16))
    return out


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


@compiled
def _narrow(
    values: npt.NDArray[np.float32],
    bits: npt.NDArray[np.uint32],
    out_bits: npt.NDArray[np.uint16],
) -> None:
    """Converts values; `values` and `bits` are views of the same memory."""
    for index in range(len(bits)):
        magnitude = bits[index] & ~_SIGN_OF_FLOAT
        last_bit = (magnitude >> _MANTISSA_GAP) & np.uint32(1)
        rounded = magnitude - _EXPONENT_GAP + _ALMOST_HALF_A_BIT + last_bit
        subnormal = np.float32(np.abs(values[index]) + _HALF).view(np.uint32) - _HALF_BITS
        half = subnormal if magnitude < _LEAST_NORMAL else rounded >> _MANTISSA_GAP
        half = half if magnitude < _TOO_LARGE else _INFINITE_HALF
        payload = (magnitude >> _MANTISSA_GAP) & _MANTISSA_OF_HALF
        half = half if magnitude <= _INFINITY else _INFINITE_HALF | max(payload, np.uint32(1))
        sign = (bits[index] & _SIGN_OF_FLOAT) >> np.uint32(16)
        out_bits[index] = np.uint16(half | sign)

"""Conversion between half and single precision: exact, or rounded as NumPy rounds."""

import numpy as np

from distributed_pose.pose.halves import float_to_half, half_to_float


def test_every_finite_half_is_converted_exactly() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    out = np.empty(len(halves), np.float32)
    half_to_float(halves, out)
    np.testing.assert_array_equal(out.view(np.uint32), halves.astype(np.float32).view(np.uint32))


def test_halves_may_be_read_only_and_are_not_changed() -> None:
    halves = np.array([[0.5, -0.25], [6e-8, 65504]], np.float16)
    halves.flags.writeable = False
    out = np.empty(4, np.float32)
    half_to_float(halves, out)
    np.testing.assert_array_equal(out, halves.reshape(-1).astype(np.float32))


def test_floats_become_the_halves_that_numpy_makes_of_them_bit_by_bit() -> None:
    # All upper halves of a float's bits, with lower halves around the ties of rounding.
    upper = np.arange(2**16, dtype=np.uint32) << 16
    lower = np.array([0, 1, 0xFFF, 0x1000, 0x1001, 0x2FFF, 0x3000, 0x3001, 0xEFFF, 0xF000, 0xFFFF])
    random = np.random.default_rng(0).integers(0, 2**32, 2**20, np.uint32)
    bits = np.concatenate(((upper[:, None] | lower.astype(np.uint32)).ravel(), random))
    floats = bits.view(np.float32)
    with np.errstate(all="ignore"):
        expected = floats.astype(np.float16)
    found = float_to_half(floats)
    np.testing.assert_array_equal(found.view(np.uint16), expected.view(np.uint16))


def test_floats_keep_their_shape_and_may_be_read_only_or_scattered() -> None:
    floats = np.arange(24, dtype=np.float32).reshape(2, 3, 4)[:, :, ::2]
    floats.flags.writeable = False
    np.testing.assert_array_equal(float_to_half(floats), floats.astype(np.float16))
    assert float_to_half(floats[:0]).shape == (0, 3, 2)

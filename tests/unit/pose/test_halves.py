"""Conversion of half precision to single: exact, for every finite value."""

import numpy as np

from distributed_pose.pose.halves import half_to_float


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

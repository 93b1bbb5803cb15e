"""Addresses of Python's memory."""

import ctypes

import numpy as np


def bytes_to_ptr(data: bytes) -> int:
    return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0


def ptr_to_bytes(address: int, size: int) -> bytes:
    return ctypes.string_at(address, size)


def numpy_to_ptr(array: np.ndarray) -> int:
    return array.ctypes.data

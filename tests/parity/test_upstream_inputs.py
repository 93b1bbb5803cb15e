"""Network inputs of profile `upstream` equal those of the reference's val.py, bit for bit."""

import math

import cv2
import numpy as np

from distributed_pose.vision.preprocess import preprocess
from distributed_pose.vision.profiles import PROFILES
from tests.conftest import Dataset


def as_val_py_does(image: np.ndarray) -> np.ndarray:
    """Returns the tensor that val.py computes, in double because NumPy promotes."""
    normalised = (np.array(image, np.float32) - (128, 128, 128)) * (1 / 256)
    assert normalised.dtype == np.float64
    ratio = 368 / float(image.shape[0])
    scaled = cv2.resize(normalised, (0, 0), fx=ratio, fy=ratio, interpolation=cv2.INTER_CUBIC)
    assert scaled.dtype == np.float64
    height, width = scaled.shape[:2]
    rows, columns = 368 - height, math.ceil(max(width, 368) / 8) * 8 - width
    sides = (rows // 2, rows - rows // 2, columns // 2, columns - columns // 2)
    padded = cv2.copyMakeBorder(scaled, *sides, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    return padded.transpose(2, 0, 1).astype(np.float32)


def test_inputs_of_real_images_equal_those_of_val_py_to_the_bit(coco_mini: Dataset) -> None:
    for record in coco_mini.records():
        image = cv2.imread(str(coco_mini.images / record.file_name), cv2.IMREAD_COLOR)
        assert image is not None
        input_3HW, _ = preprocess(np.asarray(image, np.uint8), PROFILES["upstream"])
        assert input_3HW.tobytes() == as_val_py_does(image).tobytes(), record.file_name

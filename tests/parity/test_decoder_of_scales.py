"""The decoder of several scales and the reference decoder return the same keypoints and scores.

The reference decoder enlarges the maps of each scale to the image, and takes their mean. Legend: K
heatmaps, P PAF channels.
"""

import math
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from distributed_pose.backends.base import BackendOptions, InputBatch
from distributed_pose.backends.onnxruntime import OnnxRuntimeBackend
from distributed_pose.backends.registry import compile_spec
from distributed_pose.demo.default import WEIGHTS
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.model.artifacts import load_source
from distributed_pose.model.compile import portable
from distributed_pose.pose.decode import Decoder
from distributed_pose.pose.limits import NoPoseMapsError
from distributed_pose.pose.mean_decode import MeanDecoder
from distributed_pose.pose.reference import reference_decode_scales
from distributed_pose.pose.scale_maps import OneScale
from distributed_pose.records.images import STRIDE
from distributed_pose.vision.decode import decode_image
from distributed_pose.vision.preprocess import preprocess, preprocess_scales
from distributed_pose.vision.profiles import PROFILES
from tests.conftest import Dataset
from tests.parity.test_decoder import CHANGES, KINDS, Scene

SCALE_SETS = ((0.5, 1.0, 1.5, 2.0), (1.0, 1.5), (0.75, 1.0, 1.25), (0.5,))
SIZES = ((480, 640), (64, 91), (200, 37), (1, 5), (333, 500))


@st.composite
def images(draw: st.DrawFn) -> list[Scene]:
    """Returns the scenes of one image, one per scale, which need not show the same."""
    height, width = draw(st.sampled_from(SIZES))
    kind, change = draw(st.sampled_from(KINDS)), draw(st.sampled_from(CHANGES))
    profile = PROFILES["upstream"]
    if kind in {"noise", "storm"}:
        # Noise has candidates everywhere, so the reference decoder would take long on large maps.
        profile = profile.sized(profile.size._replace(height=64, width=64))
        height, width = min(height, 80), min(width, 90)
    seed = draw(st.integers(0, 2**32 - 2**4))
    scenes = []
    for number, scaled in enumerate(profile.at_scales(draw(st.sampled_from(SCALE_SETS)))):
        _, *input_hw = scaled.input_shape(height, width)
        rows, columns = (-(-side // STRIDE) for side in input_hw)
        scenes.append(
            Scene(
                kind,
                change,
                (rows, columns),
                scaled.geometry(height, width),
                people=draw(st.integers(0, 9)),
                amplitude=draw(st.sampled_from((1.0, 0.105, 0.4, 3.0))),
                seed=seed + number * draw(st.integers(0, 1)),
            )
        )
    return scenes


@settings(max_examples=6, derandomize=True, deadline=None, phases=(Phase.generate,))
@given(images())
def test_the_decoders_agree_on_maps_of_any_kind_at_several_scales(scenes: list[Scene]) -> None:
    check_agree([one_scale(scene) for scene in scenes])


@pytest.mark.slow
@settings(max_examples=80, derandomize=True, deadline=None, phases=(Phase.generate,))
@given(images())
def test_the_decoders_agree_on_dozens_of_images_at_several_scales(scenes: list[Scene]) -> None:
    check_agree([one_scale(scene) for scene in scenes])


def test_one_scale_has_the_poses_of_the_usual_decoder(people: Dataset) -> None:
    for scales in network_scales(people, WEIGHTS, (1.0,), limit=4):
        (one,) = scales
        expected = Decoder(coco_body()).decode(*one)
        found = decoder().decode_scales([scales]).poses
        np.testing.assert_array_equal(found.keypoints_PV, expected.keypoints_PV)
        np.testing.assert_array_equal(found.scores_P, expected.scores_P)


def test_the_decoders_agree_on_the_demo_at_several_scales(people: Dataset) -> None:
    images = network_scales(people, WEIGHTS, (0.5, 1.0, 1.25), limit=3)
    assert sum(check_agree(scales) for scales in images) > 3


@pytest.mark.slow
@pytest.mark.parametrize("scales", SCALE_SETS[:3])
def test_the_decoders_agree_on_real_images_at_several_scales(
    coco_mini: Dataset, shared: Path, scales: tuple[float, ...]
) -> None:
    model = shared / "models" / "human_pose_estimation_0001.onnx"
    poses = [check_agree(image) for image in network_scales(coco_mini, model, scales, limit=6)]
    assert sum(poses) > 2


@pytest.mark.parametrize("factor", [0.5, 0.75, 1.25, 1.5, 2.0])
def test_inputs_at_a_scale_equal_those_of_val_py_to_the_bit(
    coco_mini: Dataset, factor: float
) -> None:
    profiles = PROFILES["upstream"].at_scales((factor, 1.0))
    for record in coco_mini.records()[:5]:
        image = cv2.imread(str(coco_mini.images / record.file_name), cv2.IMREAD_COLOR)
        assert image is not None
        outs = [np.empty(p.input_shape(*image.shape[:2]), np.float32) for p in profiles]
        preprocess_scales(np.asarray(image, np.uint8), profiles, outs)
        assert outs[0].tobytes() == as_val_py_does(image, factor).tobytes(), record.file_name
        usual_3HW, _ = preprocess(np.asarray(image, np.uint8), PROFILES["upstream"])
        assert outs[1].tobytes() == usual_3HW.tobytes()


def as_val_py_does(image: np.ndarray, scale: float) -> np.ndarray:
    """Returns the tensor that val.py computes at a scale, padded by its `pad_width`."""
    normalised = (np.array(image, np.float32) - (128, 128, 128)) * (1 / 256)
    ratio = scale * 368 / float(image.shape[0])
    scaled = cv2.resize(normalised, (0, 0), fx=ratio, fy=ratio, interpolation=cv2.INTER_CUBIC)
    height, width = scaled.shape[:2]
    least = [368, max(width, 368)]
    rows = math.ceil(least[0] / 8) * 8 - min(least[0], height)
    columns = math.ceil(max(least[1], width) / 8) * 8 - width
    sides = (rows // 2, rows - rows // 2, columns // 2, columns - columns // 2)
    padded = cv2.copyMakeBorder(scaled, *sides, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    return padded.transpose(2, 0, 1).astype(np.float32)


def one_scale(scene: Scene) -> OneScale:
    return OneScale(*scene.maps(), scene.geometry)


def check_agree(scales: Sequence[OneScale]) -> int:
    """Checks that both decoders return the same poses, or fail alike; returns their number."""
    same = [(as_f32(one.heatmaps_KHW), as_f32(one.pafs_PHW), one.geometry) for one in scales]
    found = decoder().decode_scales([scales])
    if found.failures:
        with pytest.raises(NoPoseMapsError, match=f"^{re.escape(found.failures[0])}$"):
            reference_decode_scales(same, coco_body())
        return 0
    expected = reference_decode_scales(same, coco_body())
    np.testing.assert_array_equal(found.poses.keypoints_PV, expected.keypoints_PV)
    np.testing.assert_array_equal(found.poses.scores_P, expected.scores_P)
    return len(expected.scores_P)


def as_f32(maps: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    return maps.astype(np.float32)


@cache
def decoder() -> MeanDecoder:
    """Returns one decoder for all images, so that its buffers hold data of earlier ones."""
    return MeanDecoder(coco_body())


def network_scales(
    dataset: Dataset, model: Path, factors: Sequence[float], limit: int
) -> Iterator[list[OneScale]]:
    """Yields the maps of images at several scales, computed by ONNX Runtime."""
    order = compile_spec("onnxruntime:cpu", "f32", "upstream")
    content = portable(load_source(model), order).content
    backend = OnnxRuntimeBackend(content, BackendOptions(threads=2))
    profiles = PROFILES["upstream"].at_scales(factors)
    for record in dataset.records()[:limit]:
        encoded = (dataset.images / record.file_name).read_bytes()
        image_HW3, _ = decode_image(encoded, record.height, record.width)
        scales = []
        for profile in profiles:
            input_3HW, geometry = preprocess(image_HW3, profile)
            batch = InputBatch((record.image_id,), (geometry,), input_3HW[None])
            heatmaps_NKHW, pafs_NPHW = backend.infer(batch)
            scales.append(OneScale(heatmaps_NKHW[0], pafs_NPHW[0], geometry))
        yield scales
    backend.close()

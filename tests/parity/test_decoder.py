"""The compiled decoder and the reference decoder return the same keypoints and the same scores.

The maps come from networks on images, or are drawn, with and without distortions. Legend: K
heatmaps, P PAF channels and people, H and W map size in cells.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from distributed_pose.backends.base import BackendOptions, InputBatch
from distributed_pose.backends.onnxruntime import OnnxRuntimeBackend
from distributed_pose.backends.registry import compile_spec
from distributed_pose.data.coco import load_index
from distributed_pose.demo.default import WEIGHTS
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.model.artifacts import load_source
from distributed_pose.model.compile import portable
from distributed_pose.pose.decode import Decoder
from distributed_pose.pose.limits import NoPoseMapsError
from distributed_pose.pose.reference import reference_decode
from distributed_pose.pose.targets import draw_heatmaps, draw_pafs
from distributed_pose.records.images import STRIDE, Geometry
from distributed_pose.vision.decode import decode_image
from distributed_pose.vision.preprocess import preprocess
from distributed_pose.vision.profiles import PROFILES
from tests.conftest import Dataset

NUM_HEATMAPS = coco_body().num_heatmaps
NUM_PAFS = coco_body().num_pafs

Floats = npt.NDArray[np.float32]

NETWORKS = ("human_pose_estimation_0001", "tf_pose_mobilenet_v2_small")
REFERENCE_PROFILES = ("modelzoo", "upstream")

# Without shrinking: a scene is easy to read as it is, and to shrink one takes minutes.
PHASES = (Phase.explicit, Phase.generate)

KINDS = ("people", "twins", "mirrored", "noise", "storm", "empty")
CHANGES = ("none", "ripple", "clipped", "quantised", "negative", "half")
# Height and width in cells.
SMALL_GRIDS = ((1, 1), (1, 9), (6, 8), (7, 5), (9, 13), (12, 16), (17, 11), (23, 30))
LARGE_GRIDS = ((46, 80), (46, 46), (46, 69))
# Height and width in pixels of the images that large maps belong to.
LARGE_IMAGES = ((480, 640), (427, 641), (640, 427), (333, 499), (91, 122), (700, 902))
# Factors from input pixels to image pixels.
SCALES = (0.11, 0.5, 1.0, 1.304, 1.74, 2.5)
TWIN_SHIFT_CELLS = 5


@dataclass(frozen=True)
class Scene:
    """Maps that are generated from few numbers, so that a counterexample can be read and kept."""

    kind: str
    change: str
    grid_hw: tuple[int, int]
    geometry: Geometry
    people: int = 3
    amplitude: float = 1.0
    seed: int = 0

    def maps(self) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]:
        """Returns heatmaps and PAFs, float16 if the change is `half`, otherwise float32."""
        random = np.random.default_rng(self.seed)
        heatmaps_KHW, pafs_PHW = self._unchanged(random)
        heatmaps_KHW *= np.float32(self.amplitude)
        for maps_CHW in (heatmaps_KHW, pafs_PHW):
            self._change(maps_CHW, random)
        if self.change == "half":
            return heatmaps_KHW.astype(np.float16), pafs_PHW.astype(np.float16)
        return heatmaps_KHW, pafs_PHW

    def _unchanged(self, random: np.random.Generator) -> tuple[Floats, Floats]:
        shapes = (NUM_HEATMAPS, *self.grid_hw), (NUM_PAFS, *self.grid_hw)
        if self.kind == "empty":
            return np.zeros(shapes[0], np.float32), np.zeros(shapes[1], np.float32)
        if self.kind in {"noise", "storm"}:
            heatmaps_KHW, pafs_PHW = (random.random(shape, np.float32) for shape in shapes)
            # A field to the lower right, which connects many pairs, or a field without direction.
            return heatmaps_KHW, pafs_PHW * 2 - np.float32(0.5 if self.kind == "storm" else 1)
        keypoints_P18x3 = self._keypoints(random)
        return draw_heatmaps(keypoints_P18x3, self.grid_hw), draw_pafs(
            keypoints_P18x3, coco_body().limbs, self.grid_hw
        )

    def _keypoints(self, random: np.random.Generator) -> Floats:
        height_px, width_px = (STRIDE * cells for cells in self.grid_hw)
        keypoints_P18x3 = np.zeros((self.people, 18, 3), np.float32)
        sizes_px = random.uniform(4, max(height_px, width_px) / 2, self.people)
        # Some people are partly or completely outside the image.
        centres_px = random.uniform(-0.2, 1.2, (self.people, 1, 2)) * [width_px, height_px]
        offsets_px = random.normal(size=(self.people, 18, 2)) * sizes_px[:, None, None] / 2
        keypoints_P18x3[..., :2] = centres_px + offsets_px
        keypoints_P18x3[..., 2] = random.random((self.people, 18)) < 0.85
        twins_P18x3 = keypoints_P18x3.copy()
        if self.kind == "twins":
            twins_P18x3[..., :2] += STRIDE * random.integers(
                -TWIN_SHIFT_CELLS, TWIN_SHIFT_CELLS + 1, 2
            )
        elif self.kind == "mirrored":
            twins_P18x3[..., 0] = width_px - 1 - twins_P18x3[..., 0]
        else:
            return keypoints_P18x3
        return np.concatenate((keypoints_P18x3, twins_P18x3))

    def _change(self, maps_CHW: Floats, random: np.random.Generator) -> None:
        if self.change == "ripple":
            maps_CHW += random.normal(scale=0.03, size=maps_CHW.shape).astype(np.float32)
        elif self.change == "clipped":
            np.minimum(maps_CHW, random.choice([0.1, 0.3, 0.5]), out=maps_CHW)
        elif self.change == "quantised":
            maps_CHW[:] = np.round(maps_CHW * 8) / 8
        elif self.change == "negative":
            maps_CHW -= np.float32(random.choice([0.05, 0.3, 2.0]))


@st.composite
def geometries(draw: st.DrawFn, grid_hw: tuple[int, int]) -> Geometry:
    pads, sizes = [], []
    for cells in grid_hw:
        most = draw(st.sampled_from((0, 3, STRIDE * cells // 2 - 1)))
        before, after = draw(st.integers(0, most)), draw(st.integers(0, most))
        pads.append((before, after))
        scaled = round(draw(st.sampled_from(SCALES)) * (STRIDE * cells - before - after))
        sizes.append(draw(st.one_of(st.just(max(1, scaled)), st.integers(1, 250))))
    (top, bottom), (left, right) = pads
    return Geometry(sizes[0], sizes[1], top, left, bottom, right)


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    kind, change = draw(st.sampled_from(KINDS)), draw(st.sampled_from(CHANGES))
    # Noise has candidates everywhere, so the reference decoder would take long on large maps.
    if kind in {"noise", "storm"}:
        grid_hw = draw(st.sampled_from(SMALL_GRIDS[:6]))
    else:
        grid_hw = draw(st.sampled_from((*SMALL_GRIDS, draw(st.sampled_from(LARGE_GRIDS)))))
    if grid_hw in LARGE_GRIDS:
        height, width = draw(st.sampled_from(LARGE_IMAGES))
        pads = (draw(st.integers(0, 90)) for _ in range(4))
        geometry = Geometry(height, width, *pads)
    else:
        geometry = draw(geometries(grid_hw))
    return Scene(
        kind,
        change,
        grid_hw,
        geometry,
        people=draw(st.integers(0, 15)),
        amplitude=draw(st.sampled_from((1.0, 0.105, 0.3, 3.0))),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


@settings(max_examples=150, derandomize=True, deadline=None, phases=PHASES)
@given(scenes())
@example(Scene("noise", "none", (6, 40), Geometry(1, 6, 0, 0, 0, 0)))
@example(Scene("noise", "none", (46, 92), Geometry(1, 2, 0, 0, 0, 0)))
@example(Scene("noise", "none", (1, 1), Geometry(36, 1, 0, 0, 0, 0), seed=1))
@example(Scene("storm", "ripple", (1, 1), Geometry(113, 1, 2, 0, 3, 0), amplitude=3.0, seed=235830))
@example(Scene("mirrored", "none", (1, 9), Geometry(240, 1, 1, 0, 1, 0), people=7, seed=32))
@example(Scene("mirrored", "negative", (1, 9), Geometry(174, 31, 0, 31, 0, 8), people=8, seed=174))
@example(Scene("noise", "none", (46, 46), Geometry(368, 368, 0, 0, 0, 0)))
@example(Scene("people", "none", (46, 80), Geometry(480, 640, 0, 74, 0, 75), people=120))
def test_the_decoders_agree_on_maps_of_any_kind(scene: Scene) -> None:
    check_agree(scene.geometry, *scene.maps())


@pytest.mark.slow
@settings(max_examples=1000, derandomize=True, deadline=None, phases=PHASES)
@given(scenes())
def test_the_decoders_agree_on_a_thousand_maps_of_any_kind(scene: Scene) -> None:
    check_agree(scene.geometry, *scene.maps())


def test_the_decoders_agree_on_the_demo(people: Dataset) -> None:
    poses = [check_agree(*maps) for maps in network_maps(people, WEIGHTS, "modelzoo")]
    assert len(poses) == 12
    assert sum(poses) > 12


@pytest.mark.slow
@pytest.mark.parametrize("profile", REFERENCE_PROFILES)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_decoders_agree_on_real_images(
    coco_mini: Dataset, shared: Path, network: str, profile: str
) -> None:
    model = shared / "models" / f"{network}.onnx"
    poses = [check_agree(*maps) for maps in network_maps(coco_mini, model, profile)]
    assert len(poses) == 50
    assert sum(poses) > 40


def check_agree(
    geometry: Geometry,
    heatmaps_KHW: npt.NDArray[np.floating],
    pafs_PHW: npt.NDArray[np.floating],
) -> int:
    """Checks that both decoders return the same poses, or fail alike; returns their number."""
    same = heatmaps_KHW.astype(np.float32), pafs_PHW.astype(np.float32)
    try:
        found = decoder().decode(heatmaps_KHW, pafs_PHW, geometry)
    except NoPoseMapsError as error:
        with pytest.raises(NoPoseMapsError, match=f"^{re.escape(error.message)}$"):
            reference_decode(*same, geometry, coco_body())
        return 0
    expected = reference_decode(*same, geometry, coco_body())
    np.testing.assert_array_equal(found.keypoints_PV, expected.keypoints_PV)
    np.testing.assert_array_equal(found.scores_P, expected.scores_P)
    return len(expected.scores_P)


@cache
def decoder() -> Decoder:
    """Returns one decoder for all scenes, so that its buffers hold data of earlier scenes."""
    return Decoder(coco_body())


def network_maps(
    dataset: Dataset, model: Path, profile: str
) -> Iterator[tuple[Geometry, Floats, Floats]]:
    """Yields geometry, heatmaps and PAFs of each image of a dataset, computed by ONNX Runtime."""
    order = compile_spec("onnxruntime:cpu", "f32", profile)
    content = portable(load_source(model), order).content
    backend = OnnxRuntimeBackend(content, BackendOptions(threads=2))
    for record in load_index(dataset.annotations).images:
        encoded = (dataset.images / record.file_name).read_bytes()
        image_HW3, _ = decode_image(encoded, record.height, record.width)
        input_3HW, geometry = preprocess(image_HW3, PROFILES[profile])
        batch = InputBatch((record.image_id,), (geometry,), input_3HW[None])
        heatmaps_NKHW, pafs_NPHW = backend.infer(batch)
        yield geometry, heatmaps_NKHW[0], pafs_NPHW[0]
    backend.close()

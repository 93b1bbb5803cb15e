"""The decoder that the compiled one is compared with: each of its steps on hand-made inputs."""

import numpy as np
import pytest

from distributed_pose.keypoints.reading import coco_body
from distributed_pose.pose.reference import (
    Candidates,
    Limb,
    assemble,
    find_limbs,
    find_peaks,
    full_resolution,
    reference_decode,
)
from distributed_pose.pose.targets import draw_heatmaps, draw_pafs, network_keypoints
from distributed_pose.records.images import Geometry

LIMBS = coco_body().limbs
NUM_KEYPOINTS = coco_body().num_keypoints

NOBODY = Candidates(np.zeros((0, 2), np.float32), np.zeros(0, np.float32))


def points(*xy_score: tuple[float, float, float]) -> Candidates:
    values = np.array(xy_score, np.float32)
    return Candidates(values[:, :2], values[:, 2])


def heatmap(**peaks: float) -> np.ndarray:
    """Returns a map of 20x30 cells with the given values at x<column>y<row>."""
    values = np.zeros((20, 30), np.float32)
    for name, value in peaks.items():
        x, y = name[1:].split("y")
        values[int(y), int(x)] = value
    return values


class TestPeaks:
    def test_are_found_in_order_of_x_then_y_with_their_scores(self) -> None:
        found = find_peaks(heatmap(x20y3=0.4, x2y15=0.9, x2y4=0.5))
        assert found.xy_M2.tolist() == [[2, 4], [2, 15], [20, 3]]
        assert found.scores_M == pytest.approx([0.5, 0.9, 0.4])

    @pytest.mark.parametrize(("value", "number"), [(0.09, 0), (0.1, 1)])
    def test_have_at_least_the_value_of_the_threshold(self, value: float, number: int) -> None:
        assert len(find_peaks(heatmap(x5y5=value))) == number

    def test_are_strictly_greater_than_their_neighbours(self) -> None:
        assert not len(find_peaks(heatmap(x5y5=0.5, x6y5=0.5)))
        assert not len(find_peaks(heatmap(x5y5=0.5, x5y6=0.5)))
        assert len(find_peaks(heatmap(x5y5=0.5, x6y6=0.5))) == 1

    @pytest.mark.parametrize("corner", ["x0y0", "x29y0", "x0y19", "x29y19"])
    def test_may_lie_on_the_border(self, corner: str) -> None:
        assert len(find_peaks(heatmap(**{corner: 0.3}))) == 1

    def test_near_an_earlier_one_are_suppressed_whatever_their_score(self) -> None:
        assert find_peaks(heatmap(x5y5=0.2, x10y5=0.9)).xy_M2.tolist() == [[5, 5]]
        assert len(find_peaks(heatmap(x5y5=0.2, x11y5=0.9))) == 2

    def test_that_are_suppressed_do_not_suppress_others(self) -> None:
        found = find_peaks(heatmap(x5y5=0.2, x10y5=0.9, x15y5=0.3))
        assert found.xy_M2.tolist() == [[5, 5], [15, 5]]


class TestLimbs:
    paf = np.tile(np.array([1, 0], np.float32), (20, 30, 1))

    def test_along_the_field_have_a_score_of_one(self) -> None:
        (limb,) = find_limbs(self.paf, points((3, 5, 1)), points((20, 5, 1)))
        assert limb[:2] == (0, 0)
        assert limb.score == pytest.approx(1)

    @pytest.mark.parametrize("end", [(1, 5, 1), (3, 15, 1), (3, 5, 1)])
    def test_against_or_across_the_field_are_rejected(
        self, end: tuple[float, float, float]
    ) -> None:
        assert not find_limbs(self.paf, points((3, 5, 1)), points(end))

    def test_need_more_than_eight_of_ten_samples(self) -> None:
        gap = self.paf.copy()
        gap[:, 12:15] = 0
        assert find_limbs(gap, points((2, 5, 1)), points((29, 5, 1)))
        gap[:, 11:17] = 0
        assert not find_limbs(gap, points((2, 5, 1)), points((29, 5, 1)))

    def test_have_the_mean_of_the_counting_samples_as_score(self) -> None:
        # Samples lie at x = 2, 5, ..., 29: the second does not count, the third is weaker.
        uneven = self.paf.copy()
        uneven[:, 5], uneven[:, 8] = 0.05, 0.55
        (limb,) = find_limbs(uneven, points((2, 5, 1)), points((29, 5, 1)))
        assert limb.score == pytest.approx((8 + 0.55) / 9, abs=1e-4)

    def test_use_each_candidate_once_and_the_best_pair_first(self) -> None:
        tilted = points((20, 5, 1), (20, 10, 1))
        limbs = find_limbs(self.paf, points((3, 5, 1), (3, 10, 1)), tilted)
        assert [limb[:2] for limb in limbs] == [(1, 1), (0, 0)]
        (single,) = find_limbs(self.paf, points((3, 5, 1)), tilted)
        assert single[:2] == (0, 0)
        (single,) = find_limbs(self.paf, points((3, 5, 1), (3, 10, 1)), points((20, 10, 1)))
        assert single[:2] == (1, 0)

    def test_need_candidates_at_both_ends(self) -> None:
        assert not find_limbs(self.paf, NOBODY, points((3, 5, 1)))
        assert not find_limbs(self.paf, points((3, 5, 1)), NOBODY)


class TestPoses:
    def test_are_chains_of_limbs_in_coco_order_without_the_neck(self) -> None:
        candidates = [NOBODY] * NUM_KEYPOINTS
        candidates[1], candidates[2] = points((10, 10, 0.5)), points((5, 10, 0.6))
        candidates[3] = points((5, 20, 0.7))
        limbs: list[list[Limb]] = [[] for _ in LIMBS]
        limbs[0], limbs[2] = [Limb(0, 0, 0.8)], [Limb(0, 0, 0.9)]
        poses = assemble(candidates, limbs, coco_body())
        keypoints = poses.keypoints_PV.reshape(-1, 17, 3)
        assert poses.scores_P == pytest.approx([(0.5 + 0.6 + 0.8 + 0.7 + 0.9) * 2])
        assert keypoints[0, 6].tolist() == [5.5, 10.5, 1]
        assert keypoints[0, 8].tolist() == [5.5, 20.5, 1]
        assert np.count_nonzero(keypoints[..., 2]) == 2

    def test_need_three_keypoints_and_a_mean_score(self) -> None:
        candidates = [points((number, number, 0.01)) for number in range(NUM_KEYPOINTS)]
        limbs: list[list[Limb]] = [[] for _ in LIMBS]
        limbs[0] = [Limb(0, 0, 5.0)]
        assert not len(assemble(candidates, limbs, coco_body()).scores_P)
        limbs[2] = [Limb(0, 0, 5.0)]
        assert len(assemble(candidates, limbs, coco_body()).scores_P) == 1
        limbs[0], limbs[2] = [Limb(0, 0, 0.25)], [Limb(0, 0, 0.25)]
        assert not len(assemble(candidates, limbs, coco_body()).scores_P)

    def test_receive_a_missing_ear_without_a_change_of_score(self) -> None:
        candidates = [points((number, number, 0.5)) for number in range(NUM_KEYPOINTS)]
        limbs: list[list[Limb]] = [[] for _ in LIMBS]
        limbs[0], limbs[2] = [Limb(0, 0, 0.8)], [Limb(0, 0, 0.8)]
        without = assemble(candidates, limbs, coco_body())
        limbs[17] = [Limb(0, 0, 0.8)]
        with_ear = assemble(candidates, limbs, coco_body())
        assert with_ear.scores_P == pytest.approx(without.scores_P)
        assert with_ear.keypoints_PV.reshape(17, 3)[4].tolist() == [16.5, 16.5, 1]

    def test_receive_a_missing_shoulder_or_ear_but_keep_an_existing_one(self) -> None:
        candidates = [points((k, k, 0.5), (k + 50, k, 0.5)) for k in range(NUM_KEYPOINTS)]
        limbs: list[list[Limb]] = [[] for _ in LIMBS]
        # Nose to eye to ear, without shoulders.
        limbs[13], limbs[14] = [Limb(0, 0, 0.8)], [Limb(0, 0, 0.8)]
        limbs[17] = [Limb(1, 0, 0.8)]
        (shoulder,) = assemble(candidates, limbs, coco_body()).keypoints_PV.reshape(-1, 17, 3)[:, 6]
        assert shoulder.tolist() == [52.5, 2.5, 1]
        limbs[17].append(Limb(1, 1, 0.8))
        (ear,) = assemble(candidates, limbs, coco_body()).keypoints_PV.reshape(-1, 17, 3)[:, 4]
        assert ear.tolist() == [16.5, 16.5, 1]

    def test_are_not_started_by_a_shoulder_and_an_ear(self) -> None:
        candidates = [points((k, k, 5)) for k in range(NUM_KEYPOINTS)]
        limbs: list[list[Limb]] = [[] for _ in LIMBS]
        limbs[17], limbs[18] = [Limb(0, 0, 5)], [Limb(0, 0, 5)]
        assert not len(assemble(candidates, limbs, coco_body()).scores_P)

    def test_may_be_several_and_start_without_a_neck(self) -> None:
        candidates = [points((k, k, 0.5), (k + 50, k, 0.5)) for k in range(NUM_KEYPOINTS)]
        limbs: list[list[Limb]] = [[] for _ in LIMBS]
        # An arm from the neck on, and another from the shoulder on.
        limbs[0], limbs[2] = [Limb(0, 0, 0.8)], [Limb(0, 0, 0.8), Limb(1, 1, 0.8)]
        limbs[3] = [Limb(1, 1, 0.8), Limb(0, 0, 0.8)]
        keypoints = assemble(candidates, limbs, coco_body()).keypoints_PV.reshape(-1, 17, 3)
        assert [np.flatnonzero(person[:, 2]).tolist() for person in keypoints] == [[6, 8, 10]] * 2
        assert keypoints[:, 10, 0].tolist() == [4.5, 54.5]

    def test_are_empty_without_limbs(self) -> None:
        poses = assemble([NOBODY] * NUM_KEYPOINTS, [[] for _ in LIMBS], coco_body())
        assert poses.keypoints_PV.shape == (0, 51)


def test_maps_are_cropped_to_the_image_and_resized_to_it() -> None:
    ramp = np.tile(np.arange(6, dtype=np.float32), (1, 4, 1))
    full = full_resolution(ramp, Geometry(32, 40, 0, 16, 0, 16))
    assert full.shape[:2] == (32, 40)
    # Pixel 20 of 40 is input pixel 24.2 - 0.5 of 48, which is cell 2.525 of 6.
    assert full[16, 20] == pytest.approx(2.525, abs=0.05)


def test_a_constant_map_stays_constant_at_any_size() -> None:
    maps = np.full((2, 46, 80), 0.25, np.float32)
    full = full_resolution(maps, Geometry(427, 640, 0, 44, 0, 44))
    assert full.shape == (427, 640, 2)
    np.testing.assert_allclose(full, 0.25, atol=1e-6)


# Nose, eyes, ears, shoulders, elbows, wrists, hips, knees and ankles, in input pixels.
PERSON = (
    (200, 60), (220, 42), (180, 42), (244, 50), (156, 50),
    (240, 100), (160, 100), (260, 150), (140, 150), (270, 200), (130, 200),
    (220, 210), (180, 210), (224, 270), (176, 270), (226, 330), (174, 330),
)  # fmt: skip


@pytest.mark.parametrize(
    "geometry", [Geometry(368, 640, 0, 0, 0, 0), Geometry(480, 640, 0, 74, 0, 75)]
)
def test_drawn_people_are_found_where_they_were_drawn(geometry: Geometry) -> None:
    coco = np.full((2, 17, 3), 2, np.float32)
    coco[:, :, :2] = PERSON
    coco[1, :, 0] += 200
    keypoints = network_keypoints(coco, coco_body())
    poses = reference_decode(
        draw_heatmaps(keypoints, (46, 80)),
        draw_pafs(keypoints, coco_body().limbs, (46, 80)),
        geometry,
        coco_body(),
    )
    found = poses.keypoints_PV.reshape(-1, 17, 3)
    found = found[found[:, 0, 0].argsort()]
    # From the centres of input pixels to the corners of image pixels.
    expected = (coco[:, :, :2] + 0.5 - [geometry.pad_left, 0]) * geometry.image_height / 368
    assert (found[:, :, 2] == 1).all()
    assert np.abs(found[:, :, :2] - expected).max() < 2


def test_maps_without_people_have_no_poses() -> None:
    nobody = network_keypoints(np.zeros((0, 17, 3)), coco_body())
    maps = draw_heatmaps(nobody, (46, 80)), draw_pafs(nobody, coco_body().limbs, (46, 80))
    assert not len(reference_decode(*maps, Geometry(368, 640, 0, 0, 0, 0), coco_body()).scores_P)

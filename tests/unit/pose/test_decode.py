import numpy as np
import pytest

from distributed_pose.pose.assemble import assemble
from distributed_pose.pose.decode import decode
from distributed_pose.pose.limbs import Limb, find_limbs
from distributed_pose.pose.peaks import Candidates, find_peaks
from distributed_pose.pose.resample import full_resolution
from distributed_pose.pose.skeleton import LIMBS, NUM_KEYPOINTS
from distributed_pose.pose.targets import draw_heatmaps, draw_pafs, network_keypoints
from distributed_pose.records import Geometry

NOBODY = Candidates(np.zeros((0, 2), np.float32), np.zeros(0, np.float32))


def points(*xy_score: tuple[float, float, float]) -> Candidates:
    values = np.array(xy_score, np.float32)
    return Candidates(values[:, :2], values[:, 2])


def heatmap(**peaks: float) -> np.ndarray:
    """Returns a map of 20x30 with values at x<column>y<row>."""
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
    def test_stand_from_the_threshold_on(self, value: float, number: int) -> None:
        assert len(find_peaks(heatmap(x5y5=value))) == number

    def test_are_strictly_greater_than_their_neighbours(self) -> None:
        assert not len(find_peaks(heatmap(x5y5=0.5, x6y5=0.5)))
        assert len(find_peaks(heatmap(x5y5=0.5, x6y6=0.5))) == 1

    @pytest.mark.parametrize("corner", ["x0y0", "x29y0", "x0y19", "x29y19"])
    def test_may_lie_on_the_border(self, corner: str) -> None:
        assert len(find_peaks(heatmap(**{corner: 0.3}))) == 1

    def test_that_are_near_an_earlier_one_go_whatever_their_score(self) -> None:
        assert find_peaks(heatmap(x5y5=0.2, x10y5=0.9)).xy_M2.tolist() == [[5, 5]]
        assert len(find_peaks(heatmap(x5y5=0.2, x11y5=0.9))) == 2

    def test_suppressed_ones_suppress_no_others(self) -> None:
        found = find_peaks(heatmap(x5y5=0.2, x10y5=0.9, x15y5=0.3))
        assert found.xy_M2.tolist() == [[5, 5], [15, 5]]


class TestLimbs:
    paf = np.tile(np.array([1, 0], np.float32), (20, 30, 1))

    def test_along_the_field_have_a_score_of_one(self) -> None:
        (limb,) = find_limbs(self.paf, points((3, 5, 1)), points((20, 5, 1)))
        assert limb[:2] == (0, 0)
        assert limb.score == pytest.approx(1)

    @pytest.mark.parametrize("end", [(1, 5, 1), (3, 15, 1), (3, 5, 1)])
    def test_against_or_across_the_field_are_none(self, end: tuple[float, float, float]) -> None:
        assert not find_limbs(self.paf, points((3, 5, 1)), points(end))

    def test_need_more_than_eight_of_ten_samples(self) -> None:
        gap = self.paf.copy()
        gap[:, 12:15] = 0
        assert find_limbs(gap, points((2, 5, 1)), points((29, 5, 1)))
        gap[:, 11:17] = 0
        assert not find_limbs(gap, points((2, 5, 1)), points((29, 5, 1)))

    def test_use_each_candidate_once_the_best_first(self) -> None:
        tilted = points((20, 5, 1), (20, 10, 1))
        limbs = find_limbs(self.paf, points((3, 5, 1), (3, 10, 1)), tilted)
        assert [limb[:2] for limb in limbs] == [(1, 1), (0, 0)]
        (single,) = find_limbs(self.paf, points((3, 5, 1)), tilted)
        assert single[:2] == (0, 0)

    def test_need_candidates_at_both_ends(self) -> None:
        assert not find_limbs(self.paf, NOBODY, points((3, 5, 1)))


class TestPoses:
    def test_are_chains_of_limbs_in_coco_order_without_the_neck(self) -> None:
        candidates = [NOBODY] * NUM_KEYPOINTS
        candidates[1], candidates[2] = points((10, 10, 0.5)), points((5, 10, 0.6))
        candidates[3] = points((5, 20, 0.7))
        limbs: list[list[Limb]] = [[] for _ in LIMBS]
        limbs[0], limbs[2] = [Limb(0, 0, 0.8)], [Limb(0, 0, 0.9)]
        poses = assemble(candidates, limbs)
        keypoints = poses.keypoints_P51.reshape(-1, 17, 3)
        assert poses.scores_P == pytest.approx([(0.5 + 0.6 + 0.8 + 0.7 + 0.9) * 2])
        assert keypoints[0, 6].tolist() == [5.5, 10.5, 1]
        assert keypoints[0, 8].tolist() == [5.5, 20.5, 1]
        assert np.count_nonzero(keypoints[..., 2]) == 2

    def test_need_three_keypoints_and_a_mean_score(self) -> None:
        candidates = [points((number, number, 0.01)) for number in range(NUM_KEYPOINTS)]
        limbs: list[list[Limb]] = [[] for _ in LIMBS]
        limbs[0] = [Limb(0, 0, 5.0)]
        assert not len(assemble(candidates, limbs).scores_P)
        limbs[2] = [Limb(0, 0, 5.0)]
        assert len(assemble(candidates, limbs).scores_P) == 1
        limbs[0], limbs[2] = [Limb(0, 0, 0.01)], [Limb(0, 0, 0.01)]
        assert not len(assemble(candidates, limbs).scores_P)

    def test_get_a_missing_ear_without_a_change_of_score(self) -> None:
        candidates = [points((number, number, 0.5)) for number in range(NUM_KEYPOINTS)]
        limbs: list[list[Limb]] = [[] for _ in LIMBS]
        limbs[0], limbs[2] = [Limb(0, 0, 0.8)], [Limb(0, 0, 0.8)]
        without = assemble(candidates, limbs)
        limbs[17] = [Limb(0, 0, 0.8)]
        with_ear = assemble(candidates, limbs)
        assert with_ear.scores_P == pytest.approx(without.scores_P)
        assert with_ear.keypoints_P51.reshape(17, 3)[4].tolist() == [16.5, 16.5, 1]

    def test_no_limbs_are_no_poses(self) -> None:
        poses = assemble([NOBODY] * NUM_KEYPOINTS, [[] for _ in LIMBS])
        assert poses.keypoints_P51.shape == (0, 51)


def test_maps_are_cropped_to_the_image_and_resized_to_it() -> None:
    ramp = np.tile(np.arange(6, dtype=np.float32), (1, 4, 1))
    full = full_resolution(ramp, Geometry(32, 40, 0, 16, 0, 16))
    assert full.shape[:2] == (32, 40)
    # Pixel 20 of 40 is input pixel 24.2 - 0.5 of 48, and that is cell 2.525 of 6.
    assert full[16, 20] == pytest.approx(2.525, abs=0.05)


def test_a_drawn_person_is_found_where_it_was_drawn() -> None:
    coco = np.array(
        [
            (200, 60), (206, 52), (194, 52), (214, 56), (186, 56),
            (230, 100), (170, 100), (250, 150), (150, 150), (260, 200), (140, 200),
            (220, 210), (180, 210), (224, 270), (176, 270), (226, 330), (174, 330),
        ],
        np.float32,
    )  # fmt: skip
    visible = np.full((17, 1), 2, np.float32)
    keypoints = network_keypoints(np.concatenate((coco, visible), axis=1)[None])
    geometry = Geometry(368, 368, 0, 0, 0, 0)
    poses = decode(draw_heatmaps(keypoints, (46, 46)), draw_pafs(keypoints, (46, 46)), geometry)
    found = poses.keypoints_P51.reshape(-1, 17, 3)
    assert len(found) == 1
    assert (found[0, 5:, 2] == 1).all()
    assert np.abs(found[0, 5:, :2] - coco[5:]).max() < 2.5

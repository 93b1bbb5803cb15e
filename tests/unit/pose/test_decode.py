"""The compiled decoder: its results on drawn people, its buffers, batches and threads.

Legend: N images, K heatmaps, P PAF channels and people, H and W map size in cells.
"""

import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest

from distributed_pose.keypoints.reading import coco_body
from distributed_pose.pose.assemble import Poses
from distributed_pose.pose.decode import Decoder
from distributed_pose.pose.limits import MAX_CANDIDATES, NoPoseMapsError
from distributed_pose.pose.peaks import MAX_PEAKS, SUPPRESSION_RADIUS_PX
from distributed_pose.pose.reference import reference_decode
from distributed_pose.pose.targets import draw_heatmaps, draw_pafs, network_keypoints
from distributed_pose.records.images import Geometry

KEYPOINTS = coco_body().keypoints
NUM_HEATMAPS = coco_body().num_heatmaps
NUM_PAFS = coco_body().num_pafs

Floats = npt.NDArray[np.float32]

GRID_HW = (46, 80)
WHOLE = Geometry(368, 640, 0, 0, 0, 0)
LEFT_ANKLE = KEYPOINTS.index("left_ankle")

# Nose, eyes, ears, shoulders, elbows, wrists, hips, knees and ankles, in input pixels.
PERSON = (
    (200, 60), (220, 42), (180, 42), (244, 50), (156, 50),
    (240, 100), (160, 100), (260, 150), (140, 150), (270, 200), (130, 200),
    (220, 210), (180, 210), (224, 270), (176, 270), (226, 330), (174, 330),
)  # fmt: skip


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    decoder = Decoder(coco_body())
    decoder.warm_up()
    return decoder


def people_at(*shifts_px: float) -> npt.NDArray[np.float64]:
    coco = np.full((len(shifts_px), 17, 3), 2.0)
    coco[:, :, :2] = PERSON
    coco[:, :, 0] += np.array(shifts_px).reshape(-1, 1)
    return coco


def maps_of(*shifts_px: float) -> tuple[Floats, Floats]:
    keypoints = network_keypoints(people_at(*shifts_px), coco_body())
    return draw_heatmaps(keypoints, GRID_HW), draw_pafs(keypoints, coco_body().limbs, GRID_HW)


def noise(grid_hw: tuple[int, int], seed: int = 0) -> tuple[Floats, Floats]:
    """Returns heatmaps with peaks everywhere and fields that connect many pairs."""
    random = np.random.default_rng(seed)
    heatmaps = random.random((NUM_HEATMAPS, *grid_hw), np.float32)
    return heatmaps, random.random((NUM_PAFS, *grid_hw), np.float32) * 2 - np.float32(0.5)


def empty_maps(number: int) -> tuple[Floats, Floats]:
    shapes = (number, NUM_HEATMAPS, 6, 8), (number, NUM_PAFS, 6, 8)
    return np.zeros(shapes[0], np.float32), np.zeros(shapes[1], np.float32)


def assert_same(found: Poses, expected: Poses) -> None:
    np.testing.assert_array_equal(found.keypoints_PV, expected.keypoints_PV)
    np.testing.assert_array_equal(found.scores_P, expected.scores_P)


class TestDecode:
    @pytest.mark.parametrize("geometry", [WHOLE, Geometry(480, 640, 0, 74, 0, 75)])
    def test_finds_drawn_people_where_they_were_drawn(
        self, decoder: Decoder, geometry: Geometry
    ) -> None:
        coco = people_at(0, 200)
        found = decoder.decode(*maps_of(0, 200), geometry).keypoints_PV.reshape(-1, 17, 3)
        found = found[found[:, 0, 0].argsort()]
        # From the centres of input pixels to the corners of image pixels.
        expected = (coco[:, :, :2] + 0.5 - [geometry.pad_left, 0]) * geometry.image_height / 368
        assert (found[:, :, 2] == 1).all()
        assert np.abs(found[:, :, :2] - expected).max() < 2

    def test_returns_no_poses_for_maps_without_people(self, decoder: Decoder) -> None:
        poses = decoder.decode(*maps_of(), WHOLE)
        assert poses.keypoints_PV.shape == (0, 51)
        assert poses.scores_P.shape == (0,)

    def test_decodes_float16_maps_as_their_values_in_float32(self, decoder: Decoder) -> None:
        heatmaps, pafs = (maps.astype(np.float16) for maps in maps_of(0, 200))
        found = decoder.decode(heatmaps, pafs, WHOLE)
        assert len(found.scores_P) == 2
        same = heatmaps.astype(np.float32), pafs.astype(np.float32)
        assert_same(found, decoder.decode(*same, WHOLE))

    def test_accepts_read_only_maps_and_leaves_others_writable(self, decoder: Decoder) -> None:
        heatmaps, pafs = maps_of(50)
        expected = decoder.decode(heatmaps, pafs, WHOLE)
        assert heatmaps.flags.writeable
        heatmaps.flags.writeable = pafs.flags.writeable = False
        assert_same(decoder.decode(heatmaps, pafs, WHOLE), expected)

    def test_accepts_maps_that_are_not_contiguous(self, decoder: Decoder) -> None:
        heatmaps, pafs = maps_of(0, 200)
        views = np.asfortranarray(heatmaps), np.repeat(pafs, 2, axis=2)[:, :, ::2]
        assert not any(maps.flags.c_contiguous for maps in views)
        assert_same(decoder.decode(*views, WHOLE), decoder.decode(heatmaps, pafs, WHOLE))

    def test_results_stay_unchanged_when_the_next_image_is_decoded(self, decoder: Decoder) -> None:
        first = decoder.decode(*maps_of(0, 200), WHOLE)
        kept = Poses(*(rows.copy() for rows in first))
        assert len(decoder.decode(*maps_of(30, 90, 300), WHOLE).scores_P)
        assert_same(first, kept)

    def test_result_does_not_depend_on_earlier_images(self, decoder: Decoder) -> None:
        scenes = [
            (*maps_of(0, 200), WHOLE),
            (*noise((6, 8)), Geometry(101, 30, 3, 0, 4, 1)),
            (*noise((23, 30)), Geometry(184, 240, 0, 0, 0, 0)),
            (*maps_of(100), Geometry(720, 1253, 0, 0, 0, 0)),
            (*noise((2, 3)), Geometry(1, 1, 0, 0, 0, 0)),
        ]
        expected = [Decoder(coco_body()).decode(*scene) for scene in scenes]
        for scene, poses in [*zip(scenes, expected, strict=True)][::-1] * 2:
            assert_same(decoder.decode(*scene), poses)

    @pytest.mark.parametrize(
        ("grid_hw", "geometry"),
        [
            ((6, 40), Geometry(1, 6, 0, 0, 0, 0)),
            ((46, 92), Geometry(1, 2, 0, 0, 0, 0)),
            ((46, 80), Geometry(1, 1, 0, 0, 0, 0)),
            ((46, 46), Geometry(900, 1, 0, 183, 0, 184)),
            ((1, 1), Geometry(40, 40, 0, 0, 0, 0)),
            ((1, 1), Geometry(3, 50, 7, 0, 0, 7)),
        ],
    )
    def test_images_and_maps_may_be_as_small_as_one_pixel(
        self, grid_hw: tuple[int, int], geometry: Geometry
    ) -> None:
        maps = noise(grid_hw)
        found, expected = (
            Decoder(coco_body()).decode(*maps, geometry),
            reference_decode(*maps, geometry, coco_body()),
        )
        np.testing.assert_array_equal(found.keypoints_PV, expected.keypoints_PV)


class TestBuffers:
    def test_grow_for_thousands_of_pairs_and_are_reused_for_the_next_image(self) -> None:
        decoder = Decoder(coco_body())
        maps, geometry = noise((23, 30)), Geometry(184, 240, 0, 0, 0, 0)
        first = decoder.decode(*maps, geometry)
        assert decoder._candidates.offsets_K[-1] > 1024
        assert len(decoder._pairs.a_R) > 1024
        assert_same(first, reference_decode(*maps, geometry, coco_body()))
        assert_same(decoder.decode(*maps, geometry), first)
        assert len(decoder.decode(*maps_of(0, 200), WHOLE).scores_P) == 2

    def test_grow_for_the_poses_of_a_large_batch(self) -> None:
        decoder, number = Decoder(coco_body()), 140
        heatmaps, pafs = maps_of(0, 200)
        geometry = Geometry(184, 320, 0, 0, 0, 0)
        batch = np.stack([heatmaps] * number), np.stack([pafs] * number)
        counts, poses, *_ = decoder.decode_batch(*batch, [geometry] * number)
        assert counts.tolist() == [2] * number
        assert len(decoder._poses.scores_P) > 256
        single = decoder.decode(heatmaps, pafs, geometry)
        assert_same(poses, Poses(*(np.concatenate([rows] * number) for rows in single)))


class TestDecodeBatch:
    def test_returns_the_poses_of_the_single_images_in_order(self, decoder: Decoder) -> None:
        maps = [maps_of(0, 200), maps_of(), noise(GRID_HW), maps_of(120)]
        geometries = [
            WHOLE,
            WHOLE,
            Geometry(46, 80, 0, 0, 0, 0),
            Geometry(427, 641, 0, 44, 0, 44),
        ]
        heatmaps, pafs = (np.stack(kind) for kind in zip(*maps, strict=True))
        counts, poses, durations_ns, _ = decoder.decode_batch(heatmaps, pafs, geometries)
        singles = [decoder.decode(*m, g) for m, g in zip(maps, geometries, strict=True)]
        assert counts.tolist() == [len(single.scores_P) for single in singles]
        assert_same(poses, Poses(*(np.concatenate(rows) for rows in zip(*singles, strict=True))))
        assert durations_ns.shape == (4, 3)

    def test_returns_no_poses_for_an_empty_batch(self, decoder: Decoder) -> None:
        counts, poses, durations_ns, _ = decoder.decode_batch(*empty_maps(0), [])
        assert counts.shape == (0,)
        assert poses.keypoints_PV.shape == (0, 51)
        assert durations_ns.shape == (0, 3)

    def test_times_peaks_limbs_and_assembly_with_the_given_clock(self) -> None:
        squares = (number**2 for number in itertools.count())
        decoder = Decoder(coco_body(), clock=lambda: next(squares))
        decoded = decoder.decode_batch(*empty_maps(2), [Geometry(48, 64, 0, 0, 0, 0)] * 2)
        assert decoded.durations_ns_N3.tolist() == [[1, 3, 5], [9, 11, 13]]


def test_decoders_in_several_threads_return_the_poses_of_a_single_one(decoder: Decoder) -> None:
    scenes = [(*noise((12, 16), seed), Geometry(96, 128, 0, 0, 0, 0)) for seed in range(20)]
    expected = [decoder.decode(*scene) for scene in scenes]

    def decode_all(_: int) -> list[Poses]:
        own = Decoder(coco_body())
        return [own.decode(*scene) for scene in scenes]

    with ThreadPoolExecutor(2) as threads:
        for found in threads.map(decode_all, range(2)):
            for poses, same in zip(found, expected, strict=True):
                assert_same(poses, same)


class TestLimits:
    def test_flat_heatmaps_have_too_many_candidates(self, decoder: Decoder) -> None:
        heatmaps, pafs = flat_maps()
        with pytest.raises(
            NoPoseMapsError, match=r"^the heatmaps are not pose heatmaps: more than "
        ):
            decoder.decode(heatmaps, pafs, WHOLE)
        with pytest.raises(NoPoseMapsError, match=r"more than 1000 candidates of nose$"):
            decoder.decode(heatmaps.astype(np.float16), pafs, Geometry(480, 640, 0, 74, 0, 75))

    def test_name_the_keypoint_that_has_too_many_candidates(self, decoder: Decoder) -> None:
        heatmaps, pafs = maps_of(0, 200)
        heatmaps[LEFT_ANKLE] = 0.2
        with pytest.raises(NoPoseMapsError, match="1000 candidates of left_ankle"):
            decoder.decode(heatmaps, pafs, WHOLE)

    def test_noise_has_too_many_pairs(self, decoder: Decoder) -> None:
        with pytest.raises(
            NoPoseMapsError, match=r"\d{7,} pairs of candidates \(at most 1000000\)"
        ):
            decoder.decode(*noise(GRID_HW), WHOLE)

    @pytest.mark.parametrize("number", [MAX_CANDIDATES, MAX_CANDIDATES + 1])
    def test_count_candidates_to_the_last_one_as_the_reference_decoder_does(
        self, decoder: Decoder, number: int
    ) -> None:
        heatmaps = np.zeros((NUM_HEATMAPS, 80, 120), np.float32)
        pafs = np.zeros((NUM_PAFS, 80, 120), np.float32)
        rows, columns = np.divmod(np.arange(number), 50)
        heatmaps[LEFT_ANKLE, 2 * rows + 1, 2 * columns + 1] = np.linspace(0.5, 1, number)
        geometry = Geometry(700, 1050, 0, 0, 0, 0)
        for decode in (decoder.decode, partial(reference_decode, keypoints=coco_body())):
            if number > MAX_CANDIDATES:
                with pytest.raises(NoPoseMapsError, match="1000 candidates of left_ankle"):
                    decode(heatmaps, pafs, geometry)
            else:
                assert len(decode(heatmaps, pafs, geometry).scores_P) == 0
                assert decoder._candidates.offsets_K[-1] == MAX_CANDIDATES

    def test_fail_one_image_of_a_batch_and_leave_the_others(self, decoder: Decoder) -> None:
        maps = [maps_of(0, 200), flat_maps(), maps_of(120)]
        heatmaps, pafs = (np.stack(kind) for kind in zip(*maps, strict=True))
        counts, poses, _, failures = decoder.decode_batch(heatmaps, pafs, [WHOLE] * 3)
        assert counts.tolist() == [2, 0, 1]
        assert list(failures) == [1]
        singles = [decoder.decode(*maps[index], WHOLE) for index in (0, 2)]
        assert_same(poses, Poses(*(np.concatenate(rows) for rows in zip(*singles, strict=True))))

    def test_no_more_peaks_are_suppressed_than_there_is_room_for(self) -> None:
        reach = range(-SUPPRESSION_RADIUS_PX, SUPPRESSION_RADIUS_PX + 1)
        later = [
            (x, y)
            for x, y in itertools.product(reach, reach)
            if x * x + y * y < SUPPRESSION_RADIUS_PX**2 and (x, y) > (0, 0)
        ]
        assert MAX_CANDIDATES * (1 + len(later)) == MAX_PEAKS


def flat_maps() -> tuple[Floats, Floats]:
    shapes = (NUM_HEATMAPS, *GRID_HW), (NUM_PAFS, *GRID_HW)
    return np.full(shapes[0], 0.2, np.float32), np.full(shapes[1], 0.2, np.float32)

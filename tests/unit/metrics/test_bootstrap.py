"""Intervals by resampling: what they cover, and that they are paired and repeatable."""

import numpy as np
import pytest

from distributed_pose.metrics.bootstrap import (
    ap_difference,
    ap_interval,
    rate_interval,
    rate_ratio,
)
from distributed_pose.metrics.matches import Floats, Matches
from distributed_pose.metrics.precision_recall import PrecisionRecall


def run(qualities: Floats, seed: int, hit: float) -> PrecisionRecall:
    return PrecisionRecall(matches(qualities, seed, hit))


def matches(qualities: Floats, seed: int, hit: float) -> Matches:
    """Returns the matches of a run: images of higher quality have more people who are found.

    Args:
        qualities: from 0 to 1, one per image.
        seed: seed of the detections.
        hit: share of people who are found in an image of quality 1.
    """
    generator = np.random.default_rng(seed)
    people = 1 + (qualities * 4).astype(int)
    image_P = np.repeat(np.arange(len(qualities)), people)
    quality_P = 0.5 + qualities[image_P] / 2
    is_found_P = generator.random(len(image_P)) < hit * quality_P
    oks_P = is_found_P * (0.5 + generator.random(len(image_P)) / 2)
    scores_P = oks_P + generator.random(len(image_P))
    thresholds = np.linspace(0.5, 0.95, 10)[:, None]
    person_TP = np.where(oks_P >= thresholds, np.arange(len(image_P)), -1)
    return Matches(
        scores_P,
        np.arange(len(image_P)),
        image_P,
        person_TP,
        np.zeros_like(person_TP, bool),
        np.ones(len(image_P), bool),
        image_P,
        len(qualities),
    )


def copied(one: Matches, times: int) -> Matches:
    """Returns the matches of images that are listed several times, one turn after the other."""
    images, people = one.num_images, len(one.image_P)
    image_P = np.concatenate([one.image_P + turn * images for turn in range(times)])
    offsets = people * np.repeat(np.arange(times), people)
    person_TP = np.tile(one.person_TD, times)
    return Matches(
        np.tile(one.scores_D, times),
        np.arange(times * people),
        image_P,
        np.where(person_TP < 0, person_TP, person_TP + offsets),
        np.tile(one.is_ignored_TD, times),
        np.tile(one.is_counted_P, times),
        image_P,
        times * images,
    )


def qualities(seed: int, count: int) -> Floats:
    return np.random.default_rng(seed).random(count)


def test_the_same_run_differs_by_nothing_in_any_resampling() -> None:
    interval = ap_difference(run(qualities(1, 40), 2, 0.8), run(qualities(1, 40), 2, 0.8), 100)
    assert interval is not None
    assert (interval.value, interval.low, interval.high) == (0, 0, 0)
    assert interval.covers(0)


def test_two_runs_of_equal_quality_cover_0_and_a_worse_one_does_not() -> None:
    images = qualities(1, 300)
    equal = ap_difference(run(images, 2, 0.8), run(images, 3, 0.8), 200)
    worse = ap_difference(run(images, 2, 0.8), run(images, 3, 0.5), 200)
    assert equal is not None
    assert worse is not None
    assert equal.covers(0)
    assert worse.high < 0
    assert worse.low < worse.value < worse.high


def test_an_interval_is_the_same_each_time_and_depends_on_the_seed() -> None:
    pair = run(qualities(1, 60), 2, 0.8), run(qualities(1, 60), 3, 0.8)
    assert ap_difference(*pair, 100) == ap_difference(*pair, 100)
    assert ap_difference(*pair, 100) != ap_difference(*pair, 100, seed=1)


def test_copies_of_images_do_not_narrow_an_interval() -> None:
    once = [matches(qualities(1, 120), seed, hit) for seed, hit in ((2, 0.8), (3, 0.7))]
    originals = np.arange(4 * 120) % 120
    single = [PrecisionRecall(one) for one in once]
    grouped = [PrecisionRecall(copied(one, 4), originals) for one in once]
    independent = [PrecisionRecall(copied(one, 4)) for one in once]
    expected = ap_difference(single[0], single[1], 300)
    found = ap_difference(grouped[0], grouped[1], 300)
    narrow = ap_difference(independent[0], independent[1], 300)
    assert expected is not None
    assert found is not None
    assert narrow is not None
    assert found.low == pytest.approx(expected.low, abs=2e-3)
    assert found.high == pytest.approx(expected.high, abs=2e-3)
    assert narrow.high - narrow.low < 0.7 * (found.high - found.low)


def test_nobody_labelled_has_no_interval() -> None:
    empty = np.empty(0, np.int64)
    none = np.empty((10, 0), np.int64)
    nobody = Matches(
        np.empty(0), empty, empty, none, none.astype(bool), np.empty(0, bool), empty, 3
    )
    assert ap_interval(PrecisionRecall(nobody)) is None


def test_rates_of_few_segments_have_no_interval() -> None:
    assert rate_interval([1.0] * 4, 1.0) is None
    assert rate_ratio([1.0] * 9, [1.0] * 4, 1.0) is None


def test_a_ratio_of_rates_is_covered_by_its_interval() -> None:
    noise = np.random.default_rng(5)
    first, second = noise.normal(100, 5, 40), noise.normal(150, 5, 40)
    interval = rate_ratio(first.tolist(), second.tolist(), 1.5)
    assert interval is not None
    assert interval.covers(1.5)
    assert 1.4 < interval.low < interval.high < 1.6


@pytest.mark.slow
def test_a_95_percent_interval_covers_the_true_difference_in_about_95_percent_of_cases() -> None:
    large = qualities(0, 40_000)
    truth = run(large, 1, 0.6).ap() - run(large, 2, 0.8).ap()
    covered = 0
    for trial in range(200):
        images = qualities(100 + trial, 200)
        first, second = run(images, 1000 + trial, 0.8), run(images, 5000 + trial, 0.6)
        interval = ap_difference(first, second, 300, seed=trial)
        assert interval is not None
        covered += interval.covers(truth)
    # Three standard deviations of a binomial of 200 trials are 9.
    assert 190 - 12 <= covered <= 199

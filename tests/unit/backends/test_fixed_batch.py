"""Models of one batch size answer any number of images, by batches that are filled up."""

import numpy as np
import pytest

from distributed_pose.backends.fixed_batch import Array, run_in_batches


class Model:
    """Doubles and negates batches of one size, and keeps its inputs."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.given: list[Array] = []

    def __call__(self, inputs_N3HW: Array) -> list[Array]:
        assert len(inputs_N3HW) == self.batch_size
        self.given.append(inputs_N3HW)
        return [inputs_N3HW * 2, -inputs_N3HW[:, :1]]


def images(count: int) -> Array:
    return np.random.default_rng(count).standard_normal((count, 3, 4, 5)).astype(np.float32)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_any_number_of_images_is_answered_in_order(count: int, batch_size: int) -> None:
    doubled, negated = run_in_batches(Model(batch_size), images(count), batch_size)
    np.testing.assert_array_equal(doubled, images(count) * 2)
    np.testing.assert_array_equal(negated, -images(count)[:, :1])
    assert doubled.flags.c_contiguous


def test_the_last_batch_is_filled_with_copies_of_its_last_image() -> None:
    model = Model(3)
    run_in_batches(model, images(4), 3)
    np.testing.assert_array_equal(model.given[0], images(4)[:3])
    np.testing.assert_array_equal(model.given[1], images(4)[[3, 3, 3]])


def test_a_model_of_any_batch_size_gets_all_images_at_once() -> None:
    model = Model(5)
    run_in_batches(model, images(5), None)
    assert len(model.given) == 1


def test_a_network_that_mixes_images_still_depends_on_the_other_images() -> None:
    def mixing(inputs_N3HW: Array) -> list[Array]:
        return [inputs_N3HW + inputs_N3HW.std()]

    pair = np.concatenate([images(1), np.zeros((1, 3, 4, 5), np.float32)])
    (together,) = run_in_batches(mixing, pair, 2)
    (alone,) = run_in_batches(mixing, pair[:1], 2)
    assert np.abs(together[0] - alone[0]).max() > 0.05

"""A simulated device answers as the oracle does, in the times of the device that it simulates."""

import json
from dataclasses import replace
from time import perf_counter, process_time

import numpy as np
import pytest

from distributed_pose import ConfigError, SetupError
from distributed_pose.backends.base import BackendOptions, DeviceTimes, InputBatch, check_maps
from distributed_pose.backends.oracle import OracleBackend
from distributed_pose.backends.simulated import DEVICES, DeviceModel, SimulatedBackend
from distributed_pose.devices.published import PUBLISHED_INPUT
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.records.devices import Simulation
from distributed_pose.records.images import Geometry
from tests.chain_sets import chain_of

SIZE = (48, 64)
JITTER = 0.02


def truth(num_images: int = 3, num_people: int = 2, keypoints: KeypointSet | None = None) -> bytes:
    """Returns people at random places of images 1 to `num_images`, and none in image 0."""
    generator = np.random.default_rng(0)
    num_keypoints = (keypoints or coco_body()).num_dataset_keypoints
    people = []
    for image_id in range(1, num_images + 1):
        for _ in range(num_people):
            points = generator.uniform(0, SIZE[::-1], (num_keypoints, 2))
            values = np.insert(points, 2, 2, axis=1).ravel().tolist()
            person = {"image_id": image_id, "keypoints": values, "num_keypoints": num_keypoints}
            people.append(person)
    return json.dumps({"annotations": people}).encode()


def batch(*image_ids: int, size: tuple[int, int] = SIZE, padding: int = 0) -> InputBatch:
    geometry = Geometry(*SIZE, padding, padding, 0, 0)
    inputs = np.zeros((len(image_ids), 3, *size), np.float32)
    return InputBatch(image_ids, (geometry,) * len(image_ids), inputs)


@pytest.mark.parametrize("count", [2, 6, 21, 100])
def test_a_simulated_device_and_the_oracle_draw_the_same_maps_of_any_set(count: int) -> None:
    keypoints = chain_of(count)
    options = BackendOptions(variant="t4", keypoints=keypoints)
    content = truth(keypoints=keypoints)
    images = batch(2, 0, 1)
    expected = OracleBackend(content, options).infer(images)
    found = SimulatedBackend(content, options, Clock().read, Clock().sleep).infer(images)
    assert check_maps(found, images, keypoints) is found
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    # Each keypoint and limb of image 2 is drawn, and nothing of image 0.
    assert found.heatmaps_NKHW[0, :-1].any(axis=(1, 2)).all()
    assert not found.pafs_NPHW[1].any()


class Clock:
    """A clock that moves on when it sleeps, and by `step_s` whenever it is read."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.now_s = 100.0
        self.step_s = step_s
        self.slept_s: list[float] = []

    def read(self) -> float:
        self.now_s += self.step_s
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds


@pytest.mark.parametrize(
    ("simulation", "expected_s"),
    [
        (Simulation(images_per_s=50), 4 / 50),
        (Simulation(overhead_s=0.5), 0.5 + 4 / 252.592),
        (Simulation(images_per_s=10, overhead_s=0.1), 0.1 + 4 / 10),
    ],
)
def test_a_device_may_have_another_rate_and_overhead(
    simulation: Simulation, expected_s: float
) -> None:
    clock = Clock()
    options = BackendOptions(variant="t4", simulation=replace(simulation, jitter=0.0))
    backend = SimulatedBackend(truth(), options, clock.read, clock.sleep)
    backend.infer(batch(1, 2, 3, 1, size=PUBLISHED_INPUT))
    assert sum(clock.slept_s) == pytest.approx(expected_s)
    expected = "50 images/s" if simulation.images_per_s == 50 else "simulated"
    assert expected in backend.description


@pytest.mark.parametrize("jitter", [0.0, 0.5])
def test_jitter_spreads_the_times_about_the_mean(jitter: float) -> None:
    clock = Clock()
    options = BackendOptions(simulation=Simulation(images_per_s=1, jitter=jitter))
    backend = SimulatedBackend(truth(), options, clock.read, clock.sleep)
    for _ in range(400):
        backend.infer(batch(1))
    assert np.mean(clock.slept_s) == pytest.approx(1, abs=0.05)
    assert max(clock.slept_s) - min(clock.slept_s) == pytest.approx(2 * jitter, abs=0.05)


def test_copies_take_time_per_image_and_are_timed_apart_from_execution() -> None:
    clock = Clock()
    simulation = Simulation(images_per_s=100, jitter=0.0, copy_in_s=0.002, copy_out_s=0.001)
    backend = SimulatedBackend(
        truth(), BackendOptions(simulation=simulation), clock.read, clock.sleep
    )
    backend.submit(batch(1, 2, 3))
    answer = backend.collect()
    assert answer.times == DeviceTimes(30_000_000, copy_in_ns=6_000_000, copy_out_ns=3_000_000)
    assert answer.times.latency_ns == 39_000_000
    assert sum(clock.slept_s) == pytest.approx(0.039)


def test_only_execution_has_jitter_and_the_reported_times_are_those_waited_for() -> None:
    clock = Clock()
    simulation = Simulation(images_per_s=1, jitter=0.5, copy_in_s=0.25, copy_out_s=0.125)
    backend = SimulatedBackend(
        truth(), BackendOptions(simulation=simulation), clock.read, clock.sleep
    )
    for _ in range(20):
        backend.submit(batch(1))
        times = backend.collect().times
        assert (times.copy_in_ns, times.copy_out_ns) == (250_000_000, 125_000_000)
        assert clock.slept_s[-1] == pytest.approx(times.latency_ns / 1e9)


def test_batches_come_back_in_order_and_after_an_error_none_is_in_flight() -> None:
    backend = simulated(clock=Clock())
    assert backend.slots == 2
    expected = [OracleBackend(truth(), BackendOptions()).infer(batch(n)) for n in (1, 2)]
    for number in (1, 2):
        backend.submit(batch(number))
    for wanted in expected:
        for one, other in zip(backend.collect().maps, wanted, strict=True):
            np.testing.assert_array_equal(one, other)
    backend.submit(batch(1))
    with pytest.raises(ValueError, match="zip"):
        backend.submit(InputBatch((1, 2), batch(1).geometries, batch(1).inputs_N3HW))
    backend.submit(batch(2))
    np.testing.assert_array_equal(backend.collect().maps.pafs_NPHW, expected[1].pafs_NPHW)


def simulated(
    variant: str = "t4", clock: Clock | None = None, index: int = 0, content: bytes = b""
) -> SimulatedBackend:
    clock = clock or Clock()
    options = BackendOptions(index=index, variant=variant)
    return SimulatedBackend(content or truth(), options, clock.read, clock.sleep)


def durations_s(
    backend: SimulatedBackend, clock: Clock, num_batches: int, size: int
) -> list[float]:
    del clock.slept_s[:]
    for _ in range(num_batches):
        backend.infer(batch(*range(size), size=PUBLISHED_INPUT))
    return clock.slept_s


@pytest.mark.parametrize(
    ("variant", "batch_size", "images_per_s"),
    [
        ("t4", 1, 252.592),
        ("t4", 8, 252.592),
        ("ascend310", 4, 136.999),
        ("ascend710", 1, 674.06),
        ("ascend310p3", 1, 712.16),
        ("ascend310p3", 4, 887.45),
        ("ascend310p3", 8, 837.97),
        ("ascend310p3", 16, 873.55),
        ("ascend310p3", 32, 880.94),
        ("ascend310p3", 64, 566.44),
        ("ascend310p3", 128, 566.44),
    ],
)
def test_devices_have_the_published_rates(
    variant: str, batch_size: int, images_per_s: float
) -> None:
    assert batch_size / DEVICES[variant].batch_s(batch_size) == pytest.approx(images_per_s)


def test_between_published_sizes_the_time_of_a_batch_is_interpolated() -> None:
    model = DeviceModel(((1, 100.0), (4, 200.0)))
    assert [model.batch_s(n) for n in (1, 2, 3, 4)] == pytest.approx(
        [0.01, 0.01 + 0.01 / 3, 0.01 + 0.02 / 3, 0.02]
    )


def test_overhead_is_on_top_of_a_batch_of_any_size() -> None:
    model = DeviceModel(((1, 100.0), (2, 100.0)), overhead_s=0.005)
    assert [model.batch_s(n) for n in (1, 2, 3)] == pytest.approx([0.015, 0.025, 0.035])


def test_a_batch_takes_the_modelled_time_with_a_jitter_around_it() -> None:
    clock = Clock()
    taken_s = durations_s(simulated("ascend310p3", clock), clock, 400, 4)
    modelled_s = 4 / 887.45
    assert min(taken_s) >= modelled_s * (1 - JITTER)
    assert max(taken_s) <= modelled_s * (1 + JITTER)
    assert np.std(taken_s) > modelled_s * JITTER / 4
    assert np.mean(taken_s) == pytest.approx(modelled_s, rel=JITTER / 8)


@pytest.mark.parametrize(("size", "factor"), [((184, 320), 0.25), ((368, 1280), 2.0)])
def test_published_rates_are_scaled_by_the_number_of_input_pixels(
    size: tuple[int, int], factor: float
) -> None:
    clock = Clock()
    options = BackendOptions(variant="t4", simulation=Simulation(jitter=0.0, overhead_s=0.5))
    SimulatedBackend(truth(), options, clock.read, clock.sleep).infer(batch(1, 2, size=size))
    assert sum(clock.slept_s) == pytest.approx(0.5 + factor * 2 / 252.592)


def test_a_configured_rate_holds_for_inputs_of_any_size() -> None:
    clock = Clock()
    options = BackendOptions(simulation=Simulation(images_per_s=10, jitter=0.0))
    SimulatedBackend(truth(), options, clock.read, clock.sleep).infer(batch(1, size=(736, 1280)))
    assert sum(clock.slept_s) == pytest.approx(0.1)


def test_the_jitter_is_the_same_in_every_run_and_another_on_every_device() -> None:
    runs = []
    for index in (0, 0, 1):
        clock = Clock()
        runs.append(durations_s(simulated("t4", clock, index), clock, 5, 1))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_the_time_to_draw_is_part_of_the_modelled_time() -> None:
    clocks = Clock(), Clock(step_s=0.001)
    (alone_s,), (beside_s,) = (durations_s(simulated("t4", c), c, 1, 1) for c in clocks)
    assert beside_s == pytest.approx(alone_s - 0.001)


def test_a_batch_does_not_wait_once_its_modelled_time_is_over() -> None:
    clock = Clock(step_s=1.0)
    assert durations_s(simulated("t4", clock), clock, 2, 1) == []


@pytest.mark.parametrize("turns", [1, 2])
def test_it_answers_the_oracles_maps_to_the_last_bit(turns: int) -> None:
    backend, oracle = simulated(), OracleBackend(truth(), BackendOptions())
    batches = (
        batch(0, 1, 2, 3),
        batch(2, 2),
        batch(1, padding=8),
        batch(1, 3, size=(96, 80)),
        batch(99),
    )
    for _ in range(turns):
        for asked in batches:
            for found, expected in zip(backend.infer(asked), oracle.infer(asked), strict=True):
                assert found.dtype == np.float32
                assert found.flags.c_contiguous
                np.testing.assert_array_equal(found, expected)


def test_arrays_belong_to_the_caller() -> None:
    backend = simulated()
    first = backend.infer(batch(1))
    copies = [array.copy() for array in first]
    for array in first:
        array[:] = 7
    for found, expected in zip(backend.infer(batch(1)), copies, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_images_seen_before_take_a_fraction_of_the_processor_time_of_drawing() -> None:
    asked, content = batch(*range(1, 21), size=(368, 640)), truth(20, num_people=5)
    backend, spent_s = simulated(content=content), []
    for _ in range(4):
        start_s = process_time()
        backend.infer(asked)
        spent_s.append(process_time() - start_s)
    # About a fiftieth.
    assert min(spent_s[1:]) < spent_s[0] / 5


def test_the_same_people_under_another_id_are_not_drawn_again() -> None:
    content = json.loads(truth(1, num_people=30))
    copies = [{**person, "image_id": 2} for person in content["annotations"]]
    content["annotations"] += copies
    backend, spent_s = simulated(content=json.dumps(content).encode()), []
    for image_id in (0, 1, 2):
        start_s = process_time()
        backend.infer(batch(image_id, size=(368, 640)))
        spent_s.append(process_time() - start_s)
    assert spent_s[2] < spent_s[1] / 3


def test_it_waits_in_real_time_without_using_the_processor() -> None:
    backend = SimulatedBackend(truth(), BackendOptions(variant="ascend310"))
    asked = batch(*[1] * 16, size=PUBLISHED_INPUT)
    backend.infer(asked)
    start_s, start_process_s = perf_counter(), process_time()
    backend.infer(asked)
    taken_s, used_s = perf_counter() - start_s, process_time() - start_process_s
    assert taken_s > (1 - JITTER) * 16 / 136.999
    assert used_s < taken_s / 2


@pytest.mark.parametrize("variant", DEVICES)
def test_it_names_its_device_and_the_precision_of_its_maps(variant: str) -> None:
    backend = simulated(variant)
    assert backend.description == f"simulated {variant}"
    assert backend.precision == "f32"


def test_it_is_a_t4_unless_told_otherwise() -> None:
    assert simulated("").description == "simulated t4"


def test_an_unknown_device_is_a_config_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="no simulated device h100") as caught:
        simulated("h100")
    assert all(f"simulated:{known}" in str(caught.value) for known in DEVICES)


def test_it_can_be_closed_twice_and_not_be_used_after() -> None:
    backend = simulated()
    backend.infer(batch(1))
    backend.close()
    backend.close()
    with pytest.raises(SetupError, match="the backend is closed"):
        backend.infer(batch(1))

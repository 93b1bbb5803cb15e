"""Simulated cores take their time, are shared by a node, and leave the poses as they are."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

from distributed_pose.backends.base import BackendOptions, InputBatch
from distributed_pose.backends.oracle import OracleBackend
from distributed_pose.engine.host_stages import SimulatedCores, SimulatedStages, host_stages
from distributed_pose.engine.preparation import Preparation
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.pose.decode import Decoder
from distributed_pose.records.devices import SimulatedHost
from distributed_pose.vision.profiles import PROFILES
from tests.conftest import Dataset
from tests.unit.engine.test_worker import shard_of, worker_of


def seconds(call: Callable[[], object]) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start


def work_at_once(cores: list[SimulatedCores], times: int, each_s: float) -> None:
    with ThreadPoolExecutor(times) as threads:
        list(threads.map(lambda turn: cores[turn % len(cores)].work(each_s), range(times)))


@pytest.mark.parametrize("num_processes", [1, 2])
def test_no_more_stages_run_at_once_than_there_are_cores(
    tmp_path: Path, num_processes: int
) -> None:
    # Each process has an object of its own, and the files are locked for each object.
    cores = [SimulatedCores(2, tmp_path) for _ in range(num_processes)]
    assert seconds(lambda: work_at_once(cores, 8, 0.05)) >= 4 * 0.05 - 0.01
    for one in cores:
        one.close()


def test_stages_on_enough_cores_run_at_once(tmp_path: Path) -> None:
    cores = SimulatedCores(8, tmp_path)
    assert seconds(lambda: work_at_once([cores], 8, 0.2)) < 4 * 0.2
    cores.close()


def test_a_process_that_dies_frees_its_cores(tmp_path: Path) -> None:
    script = (
        "import os, sys, pathlib\n"
        "from distributed_pose.engine.host_stages import SimulatedCores\n"
        "SimulatedCores(1, pathlib.Path(sys.argv[1]))._lock()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    cores = SimulatedCores(1, tmp_path)
    with ThreadPoolExecutor(1) as threads:
        threads.submit(cores.work, 0.001).result(timeout=10)
    cores.close()


def test_simulated_preparation_has_the_geometry_and_size_of_the_real_one(
    people: Dataset, tmp_path: Path
) -> None:
    shard = shard_of(people)
    host = SimulatedHost(cores=4, decode_s=1e-4)
    cores = SimulatedCores(4, tmp_path)
    real, simulated = (
        Preparation(PROFILES["upstream"], stages, None).prepare(shard.images, 4)
        for stages in (host_stages(None, coco_body()), SimulatedStages(host, coco_body(), cores))
    )
    assert simulated.digests == real.digests
    assert [batch.geometries for batch in simulated.batches] == [
        batch.geometries for batch in real.batches
    ]
    assert [batch.inputs_N3HW.shape for batch in simulated.batches] == [
        batch.inputs_N3HW.shape for batch in real.batches
    ]
    cores.close()


def test_simulated_grouping_finds_the_poses_of_the_real_one_in_its_time(
    people: Dataset, tmp_path: Path
) -> None:
    worker, _ = worker_of(people)
    (batch,) = (
        Preparation(PROFILES["modelzoo"], host_stages(None, coco_body()), None)
        .prepare(shard_of(people).images, 12)
        .batches
    )
    maps = OracleBackend(worker._model, BackendOptions()).run(batch)
    mirrored = (array[..., ::-1].copy() for array in maps)
    cores = SimulatedCores(2, tmp_path)
    decoder = SimulatedStages(SimulatedHost(cores=2, group_s=0.01), coco_body(), cores).decoder()
    taken_s = 0.0
    for heatmaps_NKHW, pafs_NPHW in (maps, maps, mirrored):
        expected = Decoder(coco_body()).decode_batch(heatmaps_NKHW, pafs_NPHW, batch.geometries)
        start = perf_counter()
        found = decoder.decode_batch(heatmaps_NKHW, pafs_NPHW, batch.geometries)
        taken_s += perf_counter() - start
        assert np.array_equal(found.counts_N, expected.counts_N)
        assert np.array_equal(found.poses.keypoints_PV, expected.poses.keypoints_PV)
        assert np.array_equal(found.poses.scores_P, expected.poses.scores_P)
    # A batch that took too long shortens the next one.
    assert taken_s >= 3 * 12 * 0.01 - 0.001
    cores.close()


def test_simulated_grouping_takes_no_images(tmp_path: Path) -> None:
    cores = SimulatedCores(1, tmp_path)
    decoder = SimulatedStages(SimulatedHost(cores=1, group_s=0.01), coco_body(), cores).decoder()
    empty = InputBatch((), (), np.empty((0, 3, 8, 8), np.float32))
    found = decoder.decode_batch(
        np.empty((0, 19, 1, 1), np.float32), np.empty((0, 38, 1, 1), np.float32), empty.geometries
    )
    assert (len(found.counts_N), found.durations_ns_N3.shape) == (0, (0, 3))
    cores.close()

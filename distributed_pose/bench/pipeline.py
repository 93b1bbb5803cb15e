"""Compares whole runs with the speed of the compiled model alone on the same cores.

Legend: N images, H and W size in input pixels, 3 the channels blue, green, red.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from statistics import mean, median

import numpy as np

from distributed_pose.backends.base import Backend, BackendOptions, InputBatch
from distributed_pose.backends.registry import open_backend
from distributed_pose.config.schema import RunConfig
from distributed_pose.config.selection import Selection, check_computes, check_one_scale, select
from distributed_pose.data.shards import image_rows, read_shards
from distributed_pose.devices.host import cpu_name, num_cpus
from distributed_pose.devices.kinds import CPU
from distributed_pose.devices.planning import Node, plan_devices
from distributed_pose.engine.deployment import Deployment
from distributed_pose.engine.single_device import start_here
from distributed_pose.engine.steps import Progress
from distributed_pose.errors import BackendError, ConfigError, ExecutionError, PoseEvalError
from distributed_pose.evaluation import evaluate_on, open_engine
from distributed_pose.metrics.throughput import images_per_s
from distributed_pose.model.compile import compile_model, portable
from distributed_pose.report.run_report import RunReport
from distributed_pose.run.inputs import RunInputs, read_inputs
from distributed_pose.run.state import RunState
from distributed_pose.vision.headers import UndecodableImageError
from distributed_pose.vision.preprocess import network_input
from distributed_pose.vision.profiles import PROFILES

# The bare model runs the same few inputs repeatedly, since their content does not change its time.
_BARE_BATCHES = 4
# The bare model runs before and after each whole run, on this share of the number of images.
_BARE_SHARE = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineReport:
    """Whole runs beside the bare model.

    Attributes:
        processor: name of the processor.
        cores: number of cores that both the bare model and the whole run have.
        precision: precision that the model computes in.
        batch_size: batch size of both the bare model and the whole run.
        num_images: number of images of a whole run.
        ap: COCO AP of the last whole run; None if nothing is labelled.
        bare_images_per_s: compute-only images per second of the bare model for each pair, mean of
            the measurements before and after the whole run.
        whole_images_per_s: wall-clock images per second of the whole run of each pair.
        ratio: rate of the whole run divided by that of the bare model, median over the pairs.
        compute_ms: execution time per image within the whole run, in milliseconds.
        other_ms: time per image of each other stage, in milliseconds.
        outside_compute_share: share of the wall time in which the model was not executed; None if
            it is unknown.
    """

    processor: str
    cores: int
    precision: str
    batch_size: int
    num_images: int
    ap: float | None
    bare_images_per_s: tuple[float, ...]
    whole_images_per_s: tuple[float, ...]
    ratio: float
    compute_ms: float
    other_ms: Mapping[str, float]
    outside_compute_share: float | None


def bench_pipeline(config: RunConfig, repeat: int, on_progress: Progress) -> PipelineReport:
    """Returns the share of the bare model's speed that whole runs reach.

    Args:
        config: configuration of the run; one CPU worker is compared with the model on all cores.
        repeat: number of pairs of a bare and a whole run.
        on_progress: callback that is called during the whole runs.

    Raises:
        ConfigError: if the batch size is `auto`, or other scales than 1 are configured.
        ExecutionError: if an image cannot be read, since a partial run has no valid figures.
    """
    selection = select(config)
    check_computes(selection)
    check_one_scale(selection, "bench pipeline")
    config = config.model_copy(update={"devices": (CPU,)})
    inputs = read_inputs(config)
    images = max(1, round(len(inputs.index.images) * _BARE_SHARE))
    bare, reports = [], []
    batches = _batches(inputs)
    for _ in range(repeat):
        before = _bare_images_per_s(inputs, batches, images)
        engine = open_engine(config)
        counted = partial(_count, on_progress)
        reports.append(evaluate_on(engine, config, inputs, on_progress=counted))
        if failures := reports[-1].failures:
            raise ExecutionError(failures[0].reason)
        bare.append(mean((before, _bare_images_per_s(inputs, batches, images))))
    return _report(_batch_size(inputs.selection), bare, reports)


def _count(on_progress: Progress, state: RunState) -> None:
    on_progress(state.total, state.done)


def _bare_images_per_s(inputs: RunInputs, batches: list[InputBatch], images: int) -> float:
    (plan,) = plan_devices((CPU,), [Node("", "", num_cpus())])

    def start(deployment: Deployment) -> Backend:
        spec, order = deployment.spec, deployment.order
        model = compile_model(portable(inputs.model, order), order, inputs.calibration)
        options = BackendOptions(
            spec.precision, num_cpus(), _batch_size(inputs.selection), simulation=spec.simulation
        )
        backend = open_backend(spec.backend, model.content, options)
        for batch in batches:
            _warm_up(backend, batch)
        return backend

    backend = start_here(inputs.selection, plan, inputs.model.format, start)
    done = compute_ns = 0
    while done < images:
        for batch in batches:
            backend.submit(batch)
            compute_ns += backend.collect().times.compute_ns
            done += len(batch.image_ids)
    backend.close()
    return images_per_s(done, compute_ns)


def _warm_up(backend: Backend, batch: InputBatch) -> None:
    """Infers a batch before any measurement.

    Raises:
        BackendError: if the backend cannot, so that another one may be started.
    """
    try:
        backend.infer(batch)
    except PoseEvalError as error:
        backend.close()
        raise BackendError(error.message, error.hint) from None


def _batches(inputs: RunInputs) -> list[InputBatch]:
    shards = read_shards(inputs.index.images, inputs.images, _batch_size(inputs.selection))
    profile = PROFILES[inputs.selection.profile].sized(inputs.selection.input_size)
    batches = []
    for shard in islice(shards, _BARE_BATCHES):
        if shard.failures:
            raise ExecutionError(shard.failures[0].reason, image_ids=(shard.failures[0].image_id,))
        rows = []
        for record, encoded in image_rows(shard.images):
            try:
                rows.append((record.image_id, *network_input(encoded, record, profile)))
            except UndecodableImageError as error:
                raise ExecutionError(str(error), image_ids=(record.image_id,)) from None
        # The compiled model needs inputs of one shape.
        shape = rows[0][1].shape
        ids, arrays, geometries = zip(*(row for row in rows if row[1].shape == shape), strict=True)
        batches.append(InputBatch(ids, geometries, np.stack(arrays)))
    return batches


def _batch_size(selection: Selection) -> int:
    sizes = selection.kinds[CPU].batch_sizes
    if len(sizes) > 1:
        raise ConfigError("the bare model and the run need the same batch_size", "set a number")
    return sizes[0]


def _report(batch_size: int, bare: list[float], reports: list[RunReport]) -> PipelineReport:
    whole = [report.throughput.wall_images_per_s for report in reports]
    last = reports[-1]
    ap = last.ap["AP"] if last.ap else None
    stage_ms = {
        stage: figures.total_ns / 1e6 / last.num_images for stage, figures in last.stages.items()
    }
    return PipelineReport(
        processor=cpu_name(),
        cores=num_cpus(),
        precision=last.precision,
        batch_size=batch_size,
        num_images=last.num_images,
        ap=ap,
        bare_images_per_s=tuple(bare),
        whole_images_per_s=tuple(whole),
        ratio=median(w / b for w, b in zip(whole, bare, strict=True)),
        compute_ms=stage_ms.pop("compute"),
        other_ms=stage_ms,
        outside_compute_share=last.throughput.outside_compute_share,
    )

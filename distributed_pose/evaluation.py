"""Evaluates a model on a dataset: the whole flow of a run, up to detections and report."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from math import gcd
from pathlib import Path
from time import perf_counter_ns, time
from uuid import uuid4

from distributed_pose.cluster.address import check_cluster
from distributed_pose.config.schema import RunConfig
from distributed_pose.data.shards import list_shards, read_shards
from distributed_pose.devices.host import host_load
from distributed_pose.engine.base import Engine, Workload
from distributed_pose.engine.inline import InlineEngine
from distributed_pose.engine.kernels_beside import kernels_compiled_beside
from distributed_pose.engine.node_versions import differences
from distributed_pose.engine.steps import is_milestone, step
from distributed_pose.errors import ConfigError, ExecutionError
from distributed_pose.files.local import is_same_file
from distributed_pose.files.storage import Folder
from distributed_pose.locations import Location
from distributed_pose.recordings.dump import MapsDump
from distributed_pose.records.devices import DeviceReady
from distributed_pose.records.facts import DataFlow, EngineFacts
from distributed_pose.records.images import ImageRecord
from distributed_pose.records.shards import ShardResult
from distributed_pose.report.run_report import RunReport, write_run
from distributed_pose.run.files import RunFiles
from distributed_pose.run.fingerprint import fingerprint
from distributed_pose.run.inputs import RunInputs, read_inputs
from distributed_pose.run.ledger import Ledger, LedgerEntry
from distributed_pose.run.ledger_files import LedgerFiles
from distributed_pose.run.lock import RunLock
from distributed_pose.run.resume import check_images, check_precisions, image_stamps, stamped
from distributed_pose.run.signals import stopped_by_signals
from distributed_pose.run.state import RunState
from distributed_pose.run.summary import SessionFacts, summarise
from distributed_pose.tracking.hook import check_trackers, track

_LOG = logging.getLogger(__name__)

# Called with the state of the run when its devices are ready, and whenever images are settled.
Watch = Callable[[RunState], None]


def evaluate(
    config: RunConfig,
    output: Path | str | Location | None = None,
    on_progress: Watch | None = None,
    *,
    restart: bool = False,
    config_file: Path | None = None,
) -> RunReport:
    """Returns the report of a run; see `distributed_pose.evaluate`.

    Args:
        config: configuration of the run.
        output: folder for the run's files, a path or a URI; None writes no files. If the folder
            has a part of the same run, the run is resumed.
        on_progress: called when the devices are ready and when images are settled.
        restart: whether to delete the results that the folder has of an earlier run.
        config_file: file that the configuration was read from, which is not overwritten.
    """
    several_scales = len(config.scales) > 1
    with stopped_by_signals(), kernels_compiled_beside(several_scales=several_scales):
        check_trackers(config.track)
        inputs = read_inputs(config, config_file)
        engine = open_engine(config)
        return evaluate_on(engine, config, inputs, output, on_progress, restart=restart)


def sum_up(
    config: RunConfig, output: Path | str | Location, *, config_file: Path | None = None
) -> RunReport:
    """Writes and returns the report of a run whose process ended without writing one.

    Args:
        config: configuration of the run.
        output: folder of the run, a path or a URI.
        config_file: file that the configuration was read from, which is not overwritten.
    """
    inputs = read_inputs(config, config_file)
    own = RunFiles(Folder(output), inputs.files)
    ledger = Ledger(inputs.index.images)
    with RunLock(own.folder):
        files = LedgerFiles(own.folder, fingerprint(config, inputs))
        _resume(files, ledger, inputs, restart=False)
        return _write(own, config, inputs, ledger, SessionFacts(), is_stopped=True)


def evaluate_on(
    engine: Engine,
    config: RunConfig,
    inputs: RunInputs,
    output: Path | str | Location | None = None,
    on_progress: Watch | None = None,
    *,
    restart: bool = False,
) -> RunReport:
    """Returns the report of a run on an engine that has not been entered.

    A run that is stopped or fails leaves the report of its results so far in its folder.

    Args:
        engine: engine of the run.
        config: configuration of the run.
        inputs: inputs of the run.
        output: folder for the run's files, a path or a URI; None writes no files.
        on_progress: called when the devices are ready and when images are settled.
        restart: whether to delete the results that the folder has of an earlier run.
    """
    # This raises before anything is written if the folder has other files of these names.
    own = RunFiles(Folder(output), inputs.files) if output else None
    with stopped_by_signals(), RunLock(own.folder) if own else nullcontext():
        return _evaluate_in(own, engine, config, inputs, on_progress, restart=restart)


def _evaluate_in(
    own: RunFiles | None,
    engine: Engine,
    config: RunConfig,
    inputs: RunInputs,
    on_progress: Watch | None,
    *,
    restart: bool,
) -> RunReport:
    """Evaluates the images of a session in a locked folder, and returns the report of the run."""
    ledger = Ledger(inputs.index.images)
    parts = fingerprint(config, inputs)
    files = LedgerFiles(own.folder, parts) if own else None
    dump = _dump(config.dump_maps, inputs, parts)
    if dump:
        dump.check_owner(restart=restart)
    if files and own:
        _resume(files, ledger, inputs, restart=restart)
        if restart:
            own.clear()
        own.claim()
    if dump:
        dump.begin(ledger.evaluated_ids, restart=restart)
    facts = SessionFacts()
    if inputs.in_session(ledger.open_images):
        with _reported_if_it_fails(own, engine, config, inputs, ledger):
            facts = _run_session(engine, inputs, ledger, files, on_progress)
    left = ledger.open_images
    is_stopped = len(inputs.in_session(left)) < len(left)
    report = _write(own, config, inputs, ledger, facts, is_stopped=is_stopped)
    if is_stopped:
        return report
    if dump:
        dump.finish(ledger.evaluated_ids, report.backend, report.precision)
    track(config, report, own.folder.location if own else None)
    return report


@contextmanager
def _reported_if_it_fails(
    own: RunFiles | None, engine: Engine, config: RunConfig, inputs: RunInputs, ledger: Ledger
) -> Iterator[None]:
    """Writes the report of the results so far if the block fails or is stopped."""
    try:
        yield
    except (ExecutionError, KeyboardInterrupt):
        if own and ledger.num_settled:
            # The other measurements of a session that failed are not complete.
            facts = SessionFacts(engine=EngineFacts(faults=engine.faults()))
            # The error that ended the run is more useful than one of writing the report.
            with suppress(ExecutionError):
                _write(own, config, inputs, ledger, facts, is_stopped=True)
        raise


def _write(
    own: RunFiles | None,
    config: RunConfig,
    inputs: RunInputs,
    ledger: Ledger,
    facts: SessionFacts,
    *,
    is_stopped: bool = False,
) -> RunReport:
    """Writes the files of a run, if it has a folder, and returns its report."""
    step("scoring")
    detections = ledger.detections
    report = summarise(config, inputs, ledger, detections, facts, is_stopped=is_stopped)
    if own:
        step("writing the report")
        listed = inputs.index.as_listed(detections)
        write_run(own.folder, report, listed, config.model_dump(mode="json"), own.config_name)
    return report


def _dump(folder: Path | None, inputs: RunInputs, parts: Mapping[str, str]) -> MapsDump | None:
    if folder is None:
        return None
    if inputs.model_path and is_same_file(inputs.model_path, folder):
        raise ConfigError(f"dump_maps is model.path, {folder}", "choose another --dump-maps")
    return MapsDump(folder, inputs.index.images, parts, inputs.selection.keypoints)


def open_engine(config: RunConfig) -> Engine:
    """Returns the engine of a configuration, not yet entered.

    Raises:
        SetupError: if the Ray cluster that the engine would join does not answer.
    """
    if config.engine == "inline":
        return InlineEngine(config)
    check_cluster()
    # Ray takes a second to import, and the inline engine works without it.
    from distributed_pose.cluster.engine import RayEngine

    return RayEngine(config)


def _resume(files: LedgerFiles, ledger: Ledger, inputs: RunInputs, *, restart: bool) -> None:
    """Loads the results of earlier sessions into the ledger, or deletes them for a restart."""
    if restart:
        files.clear()
        return
    for entry in files.load():
        ledger.accept(entry)
    check_images(ledger, inputs)


def _run_session(
    engine: Engine,
    inputs: RunInputs,
    ledger: Ledger,
    files: LedgerFiles | None,
    on_progress: Watch | None,
) -> SessionFacts:
    """Evaluates the session's images; results so far are kept however the session ends."""
    started, load = perf_counter_ns(), host_load()
    with ExitStack() as stack:
        if files:
            stack.enter_context(files)
        stack.enter_context(engine)
        ready = _start(engine, inputs, ledger)
        pending = inputs.in_session(ledger.open_images)
        stamps = image_stamps(pending, inputs.images) if files else {}
        begun = perf_counter_ns()
        plural = "s" * (len(ready) != 1)
        step(f"evaluating {len(pending)} images on {len(ready)} device{plural}")
        state = RunState(ledger, ledger.num_settled + len(pending), ready, engine.faults)
        report = on_progress or (lambda _: None)
        report(state)
        results = engine.run(_workload(engine.flow(), inputs, pending, ready))
        for number, result in enumerate(record_results(results, ledger, ready, stamps, files), 1):
            if is_milestone(number):
                _LOG.info("%d shards answered, the last one by %s", number, result.device)
            state.last = result
            report(state)
        return SessionFacts(
            warmup_ns=begun - started, engine=engine.facts(), before=load, after=host_load()
        )


def record_results(
    results: Iterable[ShardResult],
    ledger: Ledger,
    devices: Sequence[DeviceReady],
    stamps: Mapping[int, str],
    files: LedgerFiles | None,
) -> Iterator[ShardResult]:
    """Records the results of a session that begins now, and yields each of them afterwards.

    Args:
        results: results as they come.
        ledger: ledger of the run.
        devices: devices of the session.
        stamps: stamps of the images by image id.
        files: files of the ledger; None writes none.
    """
    session, begun, begun_s = uuid4().hex, perf_counter_ns(), time()
    ledger.begin(session, devices)
    by_name = {device.plan.name: device for device in devices}
    for result in results:
        entry = LedgerEntry(
            session=session,
            elapsed_ns=perf_counter_ns() - begun,
            begun_s=begun_s,
            device=by_name[result.device],
            result=stamped(result, stamps),
        )
        if (new := ledger.accept(entry)) and files:
            files.add(new)
        yield result


def _start(engine: Engine, inputs: RunInputs, ledger: Ledger) -> tuple[DeviceReady, ...]:
    """Returns the ready devices, in precisions that go with the results so far."""
    selection = inputs.selection
    ready = engine.start(selection, inputs.model, inputs.calibration, inputs.images_to_read)
    check_precisions(ledger, ready, selection)
    for device in ready:
        _LOG.info("%s", device.summary)
    for line in differences(ready):
        _LOG.warning("%s", line)
    return ready


def _workload(
    flow: DataFlow,
    inputs: RunInputs,
    images: Sequence[ImageRecord],
    devices: Sequence[DeviceReady],
) -> Workload:
    # Every device's batch is a multiple of this size; shards are joined to fill a batch.
    size = gcd(*(device.shard_size for device in devices))
    is_listed = flow.read == "worker"
    shards = list_shards(images, size) if is_listed else read_shards(images, inputs.images, size)
    return Workload(shards=shards, num_images=len(images), is_listed=is_listed)

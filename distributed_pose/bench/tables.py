"""Renders the results of benchmarks as tables for the terminal."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from distributed_pose.bench.capacity import Capacity, HostCosts
from distributed_pose.bench.device import DeviceSweep
from distributed_pose.bench.driver import DriverCost
from distributed_pose.bench.drivers import DriversCost
from distributed_pose.bench.host import Cost, HostReport
from distributed_pose.bench.pipeline import PipelineReport
from distributed_pose.bench.scale import BUSY, ScaleReport
from distributed_pose.bench.worst_case import WorstCaseReport
from distributed_pose.records.images import scales_note


def host_table(report: HostReport) -> Table:
    """Returns a table of the cost of each stage, their sum, and both decoders."""
    table = Table(title="Processor time per image on one core, microseconds", box=box.SIMPLE_HEAD)
    table.add_column("stage")
    table.add_column("median", justify="right")
    table.add_column("p90", justify="right")
    for stage, cost in report.stages.items():
        _add(table, stage, cost)
    table.add_section()
    _add(table, "whole host share", report.host)
    table.add_section()
    _add(table, "decode: peaks + limbs + assemble", report.decode)
    _add(table, "reference decoder, same maps", report.plain_decode)
    table.add_row("reference decoder / decode", f"{report.speedup:,.0f}", "")
    table.caption = (
        f"{report.processor} · profile {report.profile} at {report.input} · "
        f"{report.num_images} images, {report.poses} poses, all equal to the reference decoder's"
    )
    return table


def worst_case_table(report: WorstCaseReport) -> Table:
    """Returns a table of the decoder's times for maps that are made to take it long."""
    title = "Processor time of the decoder for its worst maps, milliseconds"
    table = Table(title=title, box=box.SIMPLE_HEAD)
    table.add_column("maps")
    table.add_column("median", justify="right")
    table.add_column("max", justify="right")
    table.add_column("outcome")
    for case in report.cases:
        decoded = f"{case.poses:,} poses, {case.pairs:,} pairs, {case.candidates:,} candidates"
        outcome = case.failure.partition(": ")[2] or decoded
        table.add_row(case.name, f"{case.median_ms:.1f}", f"{case.max_ms:.1f}", outcome)
    table.caption = (
        f"{report.processor} · candidates of the keypoint that has most · memory of the decoder "
        f"{report.memory_bytes / 1e6:.0f} MB"
    )
    return table


def pipeline_table(report: PipelineReport) -> Table:
    """Returns a table that compares whole runs with the bare model, with the time of each stage."""
    table = Table(title="Whole run and bare model, same cores", box=box.SIMPLE_HEAD)
    table.add_column("")
    table.add_column("images/s", justify="right")
    table.add_column("ms per image", justify="right")
    pairs = zip(report.bare_images_per_s, report.whole_images_per_s, strict=True)
    for bare, whole in pairs:
        table.add_row("bare model, compute only", f"{bare:.2f}", f"{1e3 / bare:.1f}")
        table.add_row("whole run, wall clock", f"{whole:.2f}", f"{1e3 / whole:.1f}")
    table.add_row("whole / bare", f"{report.ratio:.3f}", "")
    table.add_section()
    table.add_row("execution within the run", "", f"{report.compute_ms:.1f}")
    for stage, ms in report.other_ms.items():
        table.add_row(stage, "", f"{ms:.2f}")
    share = report.outside_compute_share
    table.add_row("time outside execution", "n/a" if share is None else f"{share:.1%}", "")
    table.caption = (
        f"{report.processor}, {report.cores} cores · {report.precision} · batch "
        f"{report.batch_size} · {report.num_images} images · AP {_figure(report.ap)}"
    )
    return table


def driver_table(costs: Sequence[DriverCost]) -> Table:
    """Returns a table of the driver's costs by number of devices."""
    table = Table(title="Driver, per image, with stubs in place of actors", box=box.SIMPLE_HEAD)
    names = "devices", "CPU, us", "memory, bytes", "scoring, us", "peak memory, bytes"
    for name in (*names, "ledger files, bytes", "wall, s", "CPU, s"):
        table.add_column(name, justify="right")
    for cost in costs:
        table.add_row(
            f"{cost.devices}",
            f"{cost.cpu_us_per_image:.1f}",
            f"{cost.memory_bytes_per_image:,.0f}",
            f"{cost.score_us_per_image:.1f}",
            f"{cost.peak_bytes_per_image:,.0f}",
            f"{cost.ledger_bytes_per_image:,.0f}",
            f"{cost.wall_s:.1f}",
            f"{cost.cpu_s:.1f}",
        )
    table.caption = (
        f"{costs[0].images:,} images · batch {costs[0].batch_size} · scoring and peak memory "
        "include detections.json · the last two columns are of the whole run without scoring; "
        "wall includes the stubs · Ray's time per call is not included"
    )
    return table


def drivers_table(costs: Sequence[DriversCost]) -> Table:
    """Returns a table of the costs of runs that several drivers share."""
    table = Table(
        title="Several drivers, CPU time in us per image, with stubs in place of actors",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for name in ("drivers", "devices", "images", "driver", "match", "merge", "merge, s", "bytes"):
        table.add_column(name, justify="right", no_wrap=True)
    for cost in costs:
        table.add_row(
            f"{cost.drivers}",
            f"{cost.devices:,}",
            f"{cost.images:,}",
            f"{cost.driver_us_per_image:.1f}",
            f"{cost.match_us_per_image:.1f}",
            f"{cost.merge_us_per_image:.2f}",
            f"{cost.merge_s:.1f}",
            f"{cost.merge_bytes_per_image:,.0f}",
        )
    table.caption = (
        f"simulated: the drivers ran one after another · batch {costs[0].batch_size} · match: each "
        "driver's detections with its people · merge: the matches of all drivers into one score, "
        "with its time in all and its memory per image · Ray's time per call is not included"
    )
    return table


def device_bench_table(sweep: DeviceSweep) -> Table:
    """Returns a table of the latencies and rates of a device by batch size."""
    title = f"{sweep.name} {sweep.description}: execution in ms, compute only, and with copies"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("batch", "min", "mean", "median", "p90", "p99", "max", "count", "images/s"):
        table.add_column(name, justify="right")
    for name in ("latency", "throughput"):
        table.add_column(name, justify="right")
    for row in sweep.batches:
        times = (row.min_ms, row.mean_ms, row.median_ms, row.p90_ms, row.p99_ms, row.max_ms)
        is_best = row.batch_size == sweep.best_batch_size
        table.add_row(
            f"{row.batch_size}{' *' if is_best else ''}",
            *map(_ms, times),
            str(row.count),
            f"{row.images_per_s:.2f}",
            _ms(row.latency_median_ms),
            f"{row.throughput_images_per_s:.2f}",
        )
    table.caption = (
        f"{sweep.backend} · {sweep.precision} · profile {sweep.profile} at {sweep.input}"
        f"{scales_note(sweep.scales)} · "
        f"* best by the median: batch_size {sweep.best_batch_size} · with copies each way: "
        "latency is the median in ms, throughput in images/s by wall clock"
    )
    return table


def scale_table(report: ScaleReport) -> Table:
    """Returns a table of a scaling experiment, with a row for each number of devices."""
    title = f"{report.scaling.title()} scaling, images/s by wall clock"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("devices", "images/s", "speed-up", "efficiency", "wait", "host", "AP"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("bound by", no_wrap=True)
    for point in report.points:
        table.add_row(
            str(point.devices),
            f"{point.wall_images_per_s:.1f}",
            f"{point.speed_up:.2f}",
            f"{point.efficiency:.1%}",
            f"{point.straggler_share:.1%}",
            f"{point.host_busy_share:.0%}",
            _figure(point.ap.get("AP")),
            point.bound_by,
        )
    table.caption = (
        f"{report.backend}, {report.description} · batch {report.batch_size} · gather "
        f"{report.gather} · read by {report.read} · {report.cores} cores · "
        f"{report.points[0].images} images with {report.points[0].devices} · wait: straggler "
        "time · host: processor time in use"
    )
    return table


def scale_costs_table(report: ScaleReport) -> Table:
    """Returns a table of the host's costs per image, with a column for each number of devices."""
    table = Table(title="Host, microseconds per image", box=box.SIMPLE_HEAD)
    table.add_column("devices")
    for point in report.points:
        table.add_column(str(point.devices), justify="right")
    for role in report.points[0].cpu_us:
        costs = (f"{point.cpu_us[role]:,.0f}" for point in report.points)
        table.add_row(f"CPU time, {role}", *costs)
    table.add_section()
    for stage, spent in report.points[0].stage_us.items():
        if spent:
            costs = (f"{point.stage_us[stage]:,.0f}" for point in report.points)
            table.add_row(f"elapsed, {stage}", *costs)
    table.add_section()
    stored = (f"{point.object_store_bytes / 1e3:,.0f}" for point in report.points)
    table.add_row("object store, kB per image", *stored)
    return table


def capacity_table(found: Capacity, costs: HostCosts) -> Table:
    """Returns a table of the estimated throughput of devices and hosts."""
    table = Table(title="Capacity", box=box.SIMPLE_HEAD, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("images/s, wall clock", f"{found.images_per_s:,.0f}")
    table.add_row("hours", f"{found.hours:,.2f}")
    table.add_row("scoring afterwards, s", f"{found.scoring_s:,.1f}")
    table.add_row("bound by", found.bound_by)
    table.add_section()
    for name, limit in sorted(found.limits_images_per_s.items(), key=lambda pair: pair[1]):
        table.add_row(f"{name} allow{'s' * (name[-1] != 's')}, images/s", f"{limit:,.0f}")
    table.add_section()
    table.add_row("cores needed to feed all devices", f"{found.cores_needed:,.1f}")
    table.add_row("object store, MB/s", f"{found.object_store_bytes_per_s / 1e6:,.0f}")
    reducers = f", {found.flow.reducers} reducers" if costs.gather == "maps" else ""
    at = f", devices of {costs.device_images_per_s:,.0f} images/s" * bool(costs.device_images_per_s)
    table.caption = (
        f"costs of a host of {costs.cores} cores: {costs.ceiling_images_per_s:,.0f} images/s at "
        f"most{at}, gather {costs.gather}{reducers}, read by {costs.read}, batch {costs.batch_size}"
    )
    if costs.simulated_cores:
        table.caption += f" · {costs.simulated_cores} simulated cores per host"
    return table


def check_text(planned: Capacity, images_per_s: float, busy: float) -> str:
    """Returns a line that compares a plan with a run.

    Args:
        planned: the plan.
        images_per_s: images per second of the run by wall clock.
        busy: processor time of the run as a share of that of all cores.
    """
    ratio = planned.images_per_s / images_per_s
    text = (
        f"measured, simulated: {images_per_s:,.1f} images/s with {busy:.0%} of the cores' time; "
        f"planned / measured {ratio:.3f}"
    )
    if planned.bound_by != "host cores" or busy >= BUSY:
        return text
    # Other work on the machine took the rest, which a plan does not foresee.
    return f"{text}, and {ratio * busy / BUSY:.3f} for {BUSY:.0%} of it"


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _figure(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _add(table: Table, name: str, cost: Cost) -> None:
    table.add_row(name, f"{cost.median_us:,.0f}", f"{cost.p90_us:,.0f}")

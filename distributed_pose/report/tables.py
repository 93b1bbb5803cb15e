"""Renders reports as tables for the terminal."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.console import RenderableType
from rich.table import Table

from distributed_pose.config.schema import KindSettings
from distributed_pose.devices.kinds import CPU
from distributed_pose.records.devices import DevicePlan
from distributed_pose.report.audit_rows import energy_line
from distributed_pose.report.run_report import DeviceReport, RunReport, damage_summary

_FAILURES_SHOWN = 5
_MS = 1e6
_MIB = 2**20
_WORTH_TELLING_S = 0.1


def run_tables(report: RunReport) -> Iterator[RenderableType]:
    """Yields the tables and lines of a run's report; an incomplete run has no AP."""
    if report.note:
        yield from report.note.splitlines()
    yield from report.data.notes
    if report.ap is not None:
        yield _ap(report)
    elif report.is_usable:
        yield _nothing_to_score(report)
    else:
        yield _failures(report)
    yield from _faults(report)
    yield from _passed_over(report)
    if report.damaged:
        yield damage_summary(report.damaged)
    yield _throughput(report)
    if energy := energy_line(report):
        yield energy
    yield _stages(report)


def device_table(devices: Sequence[tuple[DevicePlan, KindSettings, str]]) -> Table:
    """Returns a table of the devices that a run would use, with their settings.

    Args:
        devices: plan and settings of each device, and the name of its backend, which is empty if
            no backend can start.
    """
    columns = ("device", "model", "node", "id", "threads", "backend", "precision", "batch")
    caption = _cards([plan for plan, *_ in devices])
    table = Table(*columns, title="Devices", caption=caption)
    for plan, settings, takes in devices:
        table.add_row(
            plan.name,
            _model(plan),
            plan.node or "here",
            plan.device_id,
            str(plan.threads),
            takes or "none, check `doctor`",
            settings.precision,
            str(settings.batch_size),
        )
    return table


def _model(plan: DevicePlan) -> str:
    model = plan.model or ("processor" if plan.kind == CPU else "unknown")
    return f"{model}, card {plan.card}" if plan.card else model


def _cards(plans: Sequence[DevicePlan]) -> str | None:
    """Returns a caption with the numbers of chips and cards; None if no card is known.

    The numbers are shown because figures are published per chip and per card.
    """
    chips = Counter((plan.node, plan.card) for plan in plans if plan.card)
    if not chips:
        return None
    return f"{sum(chips.values())} chips on {len(chips)} cards"


def ap_table(figures: Mapping[str, float], title: str, caption: str) -> Table:
    """Returns a table of COCO figures by name."""
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in figures:
        table.add_column(name, justify="right")
    # COCO reports -1 if no person of a size is labelled.
    table.add_row(*("n/a" if value == -1 else f"{value:.3f}" for value in figures.values()))
    return table


def _ap(report: RunReport) -> Table:
    subset = ", a chosen part" if report.partial_by_choice else ""
    title = f"COCO keypoint AP, {report.num_images} images{subset}"
    if report.failures:
        failed = len(report.failures)
        title += f"; {failed} of them failed and counted as images without detections"
    caption = (
        f"{report.backend} · {report.precision} · {report.preprocessing} · "
        f"{report.num_detections} detections"
    )
    if report.scorer and not report.scorer.startswith("pycocotools"):
        caption += f" · scored by {report.scorer}"
    return ap_table(report.ap or {}, title, caption)


def _nothing_to_score(report: RunReport) -> str:
    return (
        f"Nothing to score: {report.unscored}. detections.json has {report.num_detections} "
        f"detections in {report.num_images} images."
    )


def _failures(report: RunReport) -> Table:
    failed = len(report.failures)
    table = Table(
        "image",
        "file",
        "reason",
        title=f"Incomplete: {failed} of {report.num_images} images failed",
    )
    for failure in report.failures[:_FAILURES_SHOWN]:
        table.add_row(str(failure.image_id), failure.file_name, failure.reason)
    hidden = failed - _FAILURES_SHOWN
    table.caption = f"{hidden} more in report.json" if hidden > 0 else "no AP without them"
    return table


def _faults(report: RunReport) -> Iterator[str]:
    """Yields a line for each device and reducer that failed during the run."""
    for name, reasons in report.faults.reasons.items():
        times = "once" if len(reasons) == 1 else f"{len(reasons)} times"
        outcome = "was excluded" if name in report.faults.taken_out else "recovered"
        yield f"{name} failed {times} and {outcome}: {reasons[-1]}"


def _passed_over(report: RunReport) -> Iterator[str]:
    """Yields a line for each better backend that could not be used."""
    lines = (
        (f"backend {d.backend}, since {line}") for d in report.devices for line in d.passed_over
    )
    yield from dict.fromkeys(lines)


def _throughput(report: RunReport) -> Table:
    table = Table(title="Throughput, images/s")
    table.add_column("device")
    for name in ("batch", "images", "busy", "compute only", "wall clock"):
        table.add_column(name, justify="right")
    for device in report.devices:
        table.add_row(
            _device_name(device, report),
            str(device.batch_size),
            str(device.images),
            _share(device.busy_share),
            _rate(device.compute_images_per_s),
            "",
        )
    figures = report.throughput
    outside = figures.outside_compute_share
    table.add_section()
    table.add_row(
        "all",
        "",
        str(sum(device.images for device in report.devices)),
        _share(None if outside is None else 1 - outside),
        _rate(figures.compute_images_per_s.get("total")),
        f"{figures.wall_images_per_s:.2f}",
    )
    table.caption = f"{figures.wall_s:.1f} s of work"
    if report.sessions > 1:
        table.caption += f" in {report.sessions} sessions"
    # A resumed run without pending images starts no device, so it has neither warm-up nor peaks.
    if peaks := report.memory.peak_rss_bytes.values():
        table.caption += f", {report.warmup_s:.1f} s of warm-up before it"
        if report.compile_s >= _WORTH_TELLING_S:
            table.caption += f" ({report.compile_s:.1f} s of it compiling)"
        table.caption += f" · at most {max(peaks) / _MIB:,.0f} MiB in a process"
        table.caption += f" · {_flow(report)}"
    return table


def _flow(report: RunReport) -> str:
    """Returns who reads the images, how many are prepared at once, and who groups the maps."""
    grouped = "grouped by the workers"
    if report.gather != "poses":
        number = f"{report.reducers} " if report.reducers else ""
        grouped = f"maps gathered into {number}reducer{'s' * (report.reducers != 1)}"
    feeders = sum(device.feeders or 0 for device in report.devices)
    # The reports of early versions do not say how devices were fed.
    if not report.read or not feeders:
        return grouped
    processes = sum(device.feeder_processes or 0 for device in report.devices)
    text = f"images read by the {report.read}, {feeders} prepared at once"
    return f"{text}{f' in {processes} processes' if processes else ''} · {grouped}"


def _share(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.0%}"


def _rate(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"


def _device_name(device: DeviceReport, report: RunReport) -> str:
    name = f"{device.name} {device.description}"
    # Backend and precision are shown beside the AP unless the devices differ in them.
    is_mixed = "+" in report.backend or "+" in report.precision
    return f"{name} · {device.backend} {device.precision}" if is_mixed else name


def _stages(report: RunReport) -> Table:
    table = Table("stage", title="Stages, milliseconds")
    for name in ("count", "total", "p50", "p90", "p99"):
        table.add_column(name, justify="right")
    for stage, figures in report.stages.items():
        times = (figures.total_ns, figures.p50_ns, figures.p90_ns, figures.p99_ns)
        table.add_row(stage, str(figures.count), *(f"{time / _MS:.2f}" for time in times))
    return table

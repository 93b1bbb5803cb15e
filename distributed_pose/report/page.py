"""Writes the page of a stored run: one HTML file that needs no network."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from distributed_pose.errors import printable
from distributed_pose.report.analysis import Analysis, GroupFigures, ImageFigures
from distributed_pose.report.audit_rows import (
    READINGS_HEAD,
    audit_rows,
    energy_line,
    readings_rows,
)
from distributed_pose.report.charts import (
    device_chart,
    keypoint_chart,
    precision_recall_chart,
    stage_chart,
)
from distributed_pose.report.run_report import RunReport, damage_summary
from distributed_pose.report.stored_run import StoredRun
from distributed_pose.report.thumbnails import thumbnails
from distributed_pose.report.timeline import SettledShard, Timeline, timeline

_WORST = 12
_FAILURES = 50
_MS, _NS = 1e6, 1e9


def run_page(run: StoredRun, shards: Sequence[SettledShard]) -> str:
    """Returns the page of a run as HTML.

    Args:
        run: the stored run.
        shards: shards in its ledger; empty if it has none.
    """
    report = run.report
    analysis, reason = run.analysis_or_reason
    line = timeline(shards)
    return render(
        "run.html",
        title=f"Run {str(run.location).rstrip('/').rpartition('/')[2]}",
        subtitle=_subtitle(report),
        alerts=[*_alerts(report, analysis)],
        headline=[*_headline(report)],
        notes=[*report.note.splitlines(), *report.data.notes],
        ap={name: figure(value) for name, value in (report.ap or {}).items()},
        analysis=analysis,
        reason=reason,
        charts=_charts(analysis, line),
        sessions=_sessions(line),
        **_accuracy_rows(run, analysis),
        **_run_rows(report, line),
        readings_head=READINGS_HEAD,
        config=run.config,
    )


def render(template: str, **values: Any) -> str:
    """Returns a page of a template; text is escaped, and only `Markup` is inserted as it is."""
    environment = Environment(
        loader=PackageLoader("distributed_pose.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=_shown,
    )
    return environment.get_template(template).render(**values)


def figure(value: float | None) -> str:
    """Returns an AP with three digits; n/a where COCO leaves it undefined."""
    return "n/a" if value is None or value == -1 else f"{value:.3f}"


def _shown(value: object) -> object:
    """Returns text without control characters and without halves of characters."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value, "\n")
    return value


def _sessions(line: Timeline | None) -> str:
    if line is None or line.num_sessions == 1:
        return ""
    return f", {line.num_sessions} sessions in unknown order"


def _subtitle(report: RunReport) -> str:
    part = ", a chosen part of the dataset" if report.partial_by_choice else ""
    return (
        f"{report.num_images} images{part} · {report.num_detections} detections · "
        f"{report.backend} {report.precision} · {report.preprocessing}"
    )


def _alerts(report: RunReport, analysis: Analysis | None) -> Iterator[str]:
    """Yields what a reader must know before any figure."""
    if report.failures:
        counted = ", which count as images without detections" if report.ap is not None else ""
        yield f"{len(report.failures)} of {report.num_images} images failed{counted}."
    elif not report.complete:
        yield f"The run is not complete: {report.unscored}."
    if report.ap is None and report.is_usable:
        yield f"Nothing to score: {report.unscored}."
    if report.damaged:
        yield damage_summary(report.damaged)
    if analysis and report.ap and abs(analysis.ap - report.ap["AP"]) > 1e-9:
        yield (
            f"The annotations have changed since the run: its AP was {report.ap['AP']:.3f}, and "
            f"that of the analysis below is {analysis.ap:.3f}."
        )


def _headline(report: RunReport) -> Iterator[tuple[str, str, str]]:
    """Yields label, value and unit of the most important figures."""
    if report.ap is not None:
        yield "AP", figure(report.ap["AP"]), "COCO, OKS 0.50 to 0.95"
        yield "AR", figure(report.ap["AR"]), "COCO, OKS 0.50 to 0.95"
    throughput = report.throughput
    yield "wall clock", f"{throughput.wall_images_per_s:,.2f}", "images/s, all devices"
    if total := throughput.compute_images_per_s.get("total"):
        yield "compute only", f"{total:,.2f}", "images/s, all devices"
    yield "devices", str(len(report.devices)), "in the run"
    yield (
        "work",
        f"{throughput.wall_s:,.1f}",
        f"s, {report.sessions} session{'s' * (report.sessions != 1)}",
    )
    yield "warm-up", f"{report.warmup_s:,.1f}", "s, last session"
    if peaks := report.memory.peak_rss_bytes.values():
        yield "memory", f"{max(peaks) / 2**20:,.0f}", "MiB, largest process"


def _charts(analysis: Analysis | None, line: Timeline | None) -> Mapping[str, str]:
    return {
        "curves": Markup(precision_recall_chart(analysis.curves))  # noqa: S704 - our own SVG
        if analysis and analysis.curves
        else "",
        "keypoints": Markup(keypoint_chart(analysis.keypoints)) if analysis else "",  # noqa: S704
        "devices": Markup(device_chart(line)) if line else "",  # noqa: S704
        "stages": Markup(stage_chart(line)) if line else "",  # noqa: S704
    }


def _accuracy_rows(run: StoredRun, analysis: Analysis | None) -> dict[str, Any]:
    if analysis is None:
        return {}
    return {
        "errors": [
            (one.name.replace("_", " "), one.count, one.of, f"{one.ap_gain:+.3f}")
            for one in analysis.errors
        ],
        "keypoints": [
            (one.name.replace("_", " "), figure(one.ap), one.labelled, *one.kinds.values())
            for one in analysis.keypoints
        ],
        "groups": [_group_row(one) for one in (*analysis.sizes, *analysis.crowding)],
        "worst": thumbnails([run], _distinct(analysis.images)[:_WORST]),
    }


def _distinct(images: Sequence[ImageFigures]) -> list[ImageFigures]:
    """Returns the first entry of each file, since `data.repeat` lists a file several times."""
    first: dict[str, ImageFigures] = {}
    for one in images:
        first.setdefault(one.file_name, one)
    return [*first.values()]


def _group_row(group: GroupFigures) -> tuple[object, ...]:
    images = "" if group.images is None else group.images
    return group.name, figure(group.ap), images, group.people, group.missed_people


def _run_rows(report: RunReport, line: Timeline | None) -> dict[str, Any]:
    last_s = line.last_s if line else {}
    return {
        "devices": [
            (
                device.name,
                device.description,
                device.backend,
                device.precision,
                device.batch_size,
                device.images,
                "n/a" if device.busy_share is None else f"{device.busy_share:.0%}",
                "n/a" if not device.compute_images_per_s else f"{device.compute_images_per_s:,.2f}",
                f"{last_s[device.name]:.1f}" if device.name in last_s else "",
            )
            for device in report.devices
        ],
        "faults": [*_faults(report)],
        "stages": [
            (
                name,
                one.count,
                f"{one.total_ns / _NS:.2f}",
                *(f"{time / _MS:.2f}" for time in (one.p50_ns, one.p90_ns, one.p99_ns)),
            )
            for name, one in report.stages.items()
        ],
        "failures": [
            (str(one.image_id), one.file_name, one.reason) for one in report.failures[:_FAILURES]
        ],
        "readings": readings_rows(report),
        "energy": energy_line(report),
        "provenance": [*_provenance(report), *audit_rows(report)],
        "versions": [*_versions(report)],
    }


def _faults(report: RunReport) -> Iterator[str]:
    for name, reasons in report.faults.reasons.items():
        outcome = "was excluded" if name in report.faults.taken_out else "recovered"
        times = "once" if len(reasons) == 1 else f"{len(reasons)} times"
        yield f"{name} failed {times} and {outcome}: {reasons[-1]}"


def _provenance(report: RunReport) -> Iterator[tuple[str, str]]:
    yield "model", report.model.path
    yield "model, SHA-256", report.model.sha256
    yield from (("model, note", note) for note in report.model.notes)
    yield "images", report.data.images
    yield "annotations", report.data.annotations
    yield "engine", f"{report.engine}, workers return {report.gather}"
    yield from (
        (f"{device.name} passed over", line)
        for device in report.devices
        for line in device.passed_over
    )


def _versions(report: RunReport) -> Iterator[tuple[str, str]]:
    """Yields the versions in the driver, and those of each host; devices with equal ones once."""
    yield "driver", _joined(report.versions)
    devices: dict[tuple[str, str], list[str]] = defaultdict(list)
    for device in report.devices:
        devices[device.host or device.node, _joined(device.versions)].append(device.name)
    for (host, versions), names in devices.items():
        yield f"{host}: {', '.join(names)}", versions


def _joined(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())

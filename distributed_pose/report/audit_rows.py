"""Rows of a run's page about its audit record and the readings of its devices."""

from collections.abc import Iterator

from distributed_pose.records.facts import HostLoad
from distributed_pose.report.run_report import DeviceReport, RunReport

READINGS_HEAD = (
    "device",
    "driver",
    "firmware",
    "memory, MiB",
    "utilisation",
    "clock, MHz",
    "power, W",
    "energy, J",
    "images/J",
    "readings",
)

_MIB = 2**20


def audit_rows(report: RunReport) -> Iterator[tuple[str, str]]:
    """Yields what the audit record of a run has, as name and value; unknown values are left out."""
    audit = report.audit
    values = {
        "label": audit.label,
        "started": audit.started,
        "ended": audit.ended,
        "host": audit.host,
        "command": audit.command,
        "commit": audit.commit,
        "code": audit.code,
        "annotations, SHA-256": audit.annotations_sha256,
        "images, digest": audit.images_digest,
    }
    yield from ((name, value) for name, value in values.items() if value)
    for number, session in enumerate(audit.sessions, 1):
        text = f"{session.started} to {session.ended}, {session.images} images"
        yield f"session {number}", text
    for name, host in audit.hosts.items():
        yield f"{name}, load", f"{_load(host.before)} before, {_load(host.after)} after"


def energy_line(report: RunReport) -> str:
    """Returns the energy of all devices as a line; empty where it is unknown."""
    energy_j, rate = report.audit.energy_j, report.audit.images_per_joule
    if energy_j is None or rate is None:
        return ""
    return f"Energy of the devices in the last session: {energy_j:,.0f} J, {rate:.3f} images/J"


def readings_rows(report: RunReport) -> list[tuple[str, ...]]:
    """Returns the readings of each device that has some, in the columns of `READINGS_HEAD`."""
    return [_readings(device) for device in report.devices if device.readings]


def _readings(device: DeviceReport) -> tuple[str, ...]:
    found = device.readings
    if found is None:
        return ()
    memory_mib = None if found.memory_used_bytes is None else found.memory_used_bytes / _MIB
    source = f" ({found.energy_source})" if found.energy_source else ""
    return (
        device.name,
        found.driver or "unknown",
        found.firmware or "unknown",
        _number(memory_mib, ",.0f"),
        _number(found.utilisation, ".0%"),
        _number(found.clock_mhz, ",.0f"),
        _number(found.power_w, ",.1f"),
        _number(found.energy_j, ",.1f") + source,
        _number(device.images_per_joule, ".3f"),
        f"{found.samples}, {found.images} images",
    )


def _load(load: HostLoad) -> str:
    governor = f" ({load.governor})" if load.governor else ""
    return _number(load.load, ".2f") + governor


def _number(value: float | None, form: str) -> str:
    return "unknown" if value is None else format(value, form)

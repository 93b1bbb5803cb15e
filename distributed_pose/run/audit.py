"""Makes the record of where, when, by which command and on which data a run was made."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from socket import gethostname

from distributed_pose.config.schema import RunConfig
from distributed_pose.files.package_identity import package_commit, package_identity
from distributed_pose.locations import redacted
from distributed_pose.records.devices import DeviceReady
from distributed_pose.records.facts import HostLoad, WorkerReadings
from distributed_pose.report.audit_record import AuditReport, HostReport, SessionReport
from distributed_pose.run.energy import EnergyUse
from distributed_pose.run.inputs import RunInputs
from distributed_pose.run.ledger import Ledger, SessionFigures

_NS = 1e9


def audit(
    config: RunConfig,
    inputs: RunInputs,
    ledger: Ledger,
    hosts: Mapping[str, HostReport],
    energy: EnergyUse,
) -> AuditReport:
    """Returns the record of a run.

    Args:
        config: configuration of the run.
        inputs: inputs of the run.
        ledger: results of the run.
        hosts: machines of the last session, by name.
        energy: energy of all devices in the last session.
    """
    identity = package_identity()
    sessions = [session for session in ledger.sessions if session.begun_s]
    return AuditReport(
        label=config.label,
        started=_iso(sessions[0].begun_s) if sessions else "",
        ended=_iso(datetime.now(UTC).timestamp()),
        sessions=tuple(map(_session, sessions)),
        host=gethostname(),
        command=shlex.join(redacted(word) for word in sys.argv),
        commit=package_commit(),
        code=f"{identity.version} {identity.digest}",
        annotations_sha256=inputs.index.sha256,
        images_digest=ledger.images_digest,
        hosts=hosts,
        energy_j=energy.energy_j,
        images_per_joule=energy.images_per_joule,
    )


def hosts_of(
    devices: Sequence[DeviceReady],
    readings: Mapping[str, WorkerReadings],
    before: HostLoad | None,
    after: HostLoad | None,
) -> dict[str, HostReport]:
    """Returns the state of each machine of a session before and after it, by name.

    Args:
        devices: devices of the session.
        readings: readings of the workers, by the name of the device.
        before: state of this machine before the session; None if there was no session.
        after: state of this machine after the session; None if there was no session.
    """
    found = {}
    if before and after:
        found[gethostname()] = HostReport(before=before, after=after)
    for device in devices:
        if (one := readings.get(device.plan.name)) and device.host:
            found.setdefault(device.host, HostReport(before=one.before, after=one.after))
    return found


def _session(session: SessionFigures) -> SessionReport:
    return SessionReport(
        started=_iso(session.begun_s),
        ended=_iso(session.begun_s + session.wall_ns / _NS),
        images=session.images,
    )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")

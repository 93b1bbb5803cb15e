"""The part of a report that says where, when, by which command and on which data a run was made."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from distributed_pose.records.facts import HostLoad


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionReport:
    """A session of a run, from the first dispatch to the last result.

    Attributes:
        started: time of the first dispatch, in ISO 8601 and UTC.
        ended: time of the last result, in ISO 8601 and UTC.
        images: number of images that got their result in the session.
    """

    started: str
    ended: str
    images: int


@dataclass(frozen=True, kw_only=True, slots=True)
class HostReport:
    """A machine of the last session.

    Attributes:
        before: state of the machine before the session; where the command did not run on the
            machine, before its first worker loaded the model.
        after: state of the machine after the last result.
    """

    before: HostLoad
    after: HostLoad


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditReport:
    """Where, when, by which command and on which data a run was made.

    What is unknown is empty or null, as all of it is in the reports of earlier versions.

    Attributes:
        label: label that the user gave the run.
        started: time of the first dispatch of the first session, in ISO 8601 and UTC; the warm-up
            of the devices came before.
        ended: time at which the report was made, in ISO 8601 and UTC.
        sessions: sessions of the run, in the order of time.
        host: name of the machine that the command ran on.
        command: command line of the last session, with `***` in place of the credentials of URIs;
            all other arguments are as they were given.
        commit: commit of the code as `git describe` names it, with `-dirty` if files differ from
            it; empty where the code does not run from a checkout.
        code: version of the package, and digest of its source files.
        annotations_sha256: SHA-256 of the annotation file.
        images_digest: XXH3 (64 bits) of the XXH3 digests of the image files, in the order of the
            run; equal for equal files.
        hosts: machines of the last session, by their names.
        energy_j: energy of all devices in the last session in joules; null unless all devices are
            accelerators that report it.
        images_per_joule: images per joule of `energy_j`.
    """

    label: str = ""
    started: str = ""
    ended: str = ""
    sessions: tuple[SessionReport, ...] = ()
    host: str = ""
    command: str = ""
    commit: str = ""
    code: str = ""
    annotations_sha256: str = ""
    images_digest: str = ""
    hosts: Mapping[str, HostReport] = field(default_factory=dict)
    energy_j: float | None = None
    images_per_joule: float | None = None

"""A report says where, when, by which command and on which data the run was made."""

import json
import shlex
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from socket import gethostname

import pytest
import yaml

from distributed_pose import RunConfig, evaluate
from distributed_pose.files.package_identity import package_commit, package_identity
from distributed_pose.report.audit_record import AuditReport
from distributed_pose.report.run_report import RunReport
from tests.conftest import Dataset, Run
from tests.fakes.hosts import entered

# The table of a tool that shows a chip at work.
NPU_TABLE = """\
| 0     310P3                     | OK            | 40.0        45                0    / 0         |
| 0     0                         | 0000:01:00.0  | 75          577  / 21527                       |
"""


def command(people: Dataset, folder: Path, *arguments: str) -> tuple[str, ...]:
    config = folder / "people.yaml"
    config.write_text(yaml.safe_dump(people.config().model_dump(mode="json")))
    return ("evaluate", "--config", str(config), "--output", str(folder / "run"), *arguments)


def test_a_run_records_its_circumstances(people: Dataset, tmp_path: Path, run: Run) -> None:
    words = command(people, tmp_path, "--label", "nightly 7: f16")
    code, _, error = run(*words)
    assert code == 0, error
    report = RunReport.load(tmp_path / "run")
    audit = report.audit
    assert audit.label == "nightly 7: f16"
    assert shlex.split(audit.command)[1:] == [*words]
    (session,) = audit.sessions
    times = [audit.started, session.started, session.ended, audit.ended]
    assert times == sorted(times)
    assert all(datetime.fromisoformat(text).tzinfo == UTC for text in times)
    assert session.images == report.num_images
    assert (audit.host, [*audit.hosts]) == (gethostname(), [gethostname()])
    assert audit.hosts[audit.host].before.load is not None
    assert audit.commit == package_commit()
    assert audit.code == f"{package_identity().version} {package_identity().digest}"
    content = people.annotations.read_bytes()
    assert audit.annotations_sha256 == sha256(content).hexdigest()
    assert (audit.energy_j, report.devices[0].readings) == (None, None)


def test_the_command_line_shows_no_credentials_of_uris(
    people: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["evaluate.py", "s3://key:secret@bucket/a", "--name=a b"])
    command_line = evaluate(people.config()).audit.command
    assert shlex.split(command_line) == ["evaluate.py", "s3://***@bucket/a", "--name=a b"]


def test_the_label_is_part_of_neither_fingerprint_nor_figures(
    people: Dataset, tmp_path: Path
) -> None:
    first = evaluate(people.config(label="first"), tmp_path)
    # The run is complete, so that nothing is evaluated again.
    second = evaluate(people.config(label="second"), tmp_path)
    assert second.audit.label == "second"
    assert (second.ap, second.stages["compute"]) == (first.ap, first.stages["compute"])
    assert second.audit.sessions == first.audit.sessions
    assert second.audit.started == first.audit.started


def test_the_digest_of_the_images_depends_on_their_content_alone(people: Dataset) -> None:
    first, second = (evaluate(people.config(batch_size=size)) for size in (1, 3))
    part = evaluate(people.config(data={"limit": 2}))
    assert first.audit.images_digest == second.audit.images_digest != part.audit.images_digest


def test_a_report_of_an_earlier_version_has_no_audit_record(
    people: Dataset, tmp_path: Path
) -> None:
    evaluate(people.config(), tmp_path)
    stored = json.loads((tmp_path / "report.json").read_text())
    del stored["audit"]
    for device in stored["devices"]:
        del device["readings"], device["images_per_joule"]
    (tmp_path / "report.json").write_text(json.dumps(stored))
    report = RunReport.load(tmp_path)
    assert report.audit == AuditReport()
    assert report.devices[0].readings is None


def test_a_device_that_a_driver_meters_has_images_per_joule(
    people: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config: RunConfig = people.config(devices="npu:0", backend="oracle")
    (tmp_path / "host").mkdir()
    with entered(tmp_path / "host", monkeypatch) as host:
        host.npu()
        host.tool("npu-smi", NPU_TABLE)
        report = evaluate(config, tmp_path / "run")
    (device,) = report.devices
    readings = device.readings
    assert readings
    assert (readings.power_w, readings.utilisation) == (40.0, 0.75)
    assert readings.memory_used_bytes == 577 * 2**20
    assert readings.samples >= 1
    # A tool that answers late has one reading, and then no energy.
    if readings.energy_j:
        assert readings.energy_source == "power"
        assert device.images_per_joule == pytest.approx(readings.images / readings.energy_j)
        assert report.audit.images_per_joule == device.images_per_joule
    assert RunReport.load(tmp_path / "run") == report

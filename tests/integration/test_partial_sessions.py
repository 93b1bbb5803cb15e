"""Sessions that evaluate some of the images leave a run that any later session completes."""

from dataclasses import replace
from pathlib import Path

from distributed_pose import evaluate
from distributed_pose.config.schema import RunConfig
from distributed_pose.evaluation import evaluate_on, open_engine
from distributed_pose.report.run_report import RunReport
from distributed_pose.run.inputs import read_inputs
from tests.conftest import Dataset


def evaluate_some(config: RunConfig, folder: Path, number: int) -> RunReport:
    """Returns the report of a session that evaluates the images with the largest ids."""
    inputs = read_inputs(config)
    ids = frozenset(image.image_id for image in inputs.index.images[-number:])
    return evaluate_on(open_engine(config), config, replace(inputs, session_ids=ids), folder)


def test_a_session_of_some_images_leaves_a_run_without_ap(people: Dataset, tmp_path: Path) -> None:
    report = evaluate_some(people.config(), tmp_path, 5)
    assert (report.complete, report.ap, report.failures) == (False, None, ())
    assert report.unscored == "the run ended with 5 of 12 images done"
    assert sum(device.images for device in report.devices) == 5
    assert RunReport.load(tmp_path).throughput == report.throughput


def test_later_sessions_evaluate_only_the_images_that_are_pending(
    people: Dataset, tmp_path: Path
) -> None:
    config = people.config()
    alone = evaluate(config, tmp_path / "alone")
    evaluate_some(config, tmp_path / "parts", 5)
    evaluate_some(config, tmp_path / "parts", 8)
    whole = evaluate(config, tmp_path / "parts")
    assert (whole.complete, whole.ap, whole.sessions) == (True, alone.ap, 3)
    assert [session.images for session in whole.audit.sessions] == [5, 3, 4]
    files = [tmp_path / name / "detections.json" for name in ("alone", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_session_of_all_images_ends_the_run(people: Dataset, tmp_path: Path) -> None:
    assert evaluate_some(people.config(), tmp_path, 12).complete
    assert evaluate_some(people.config(), tmp_path, 5).complete

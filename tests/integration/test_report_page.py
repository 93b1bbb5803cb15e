"""Stored runs are shown as text, JSON and a page, which needs no network."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from distributed_pose import evaluate
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.metrics.error_kinds import opposites
from distributed_pose.report.stored_run import read_run
from tests.chromium import visit
from tests.conftest import Dataset, Run

COCO_KEYPOINTS = coco_body().dataset_keypoints

Person = dict[str, Any]
Change = Callable[[list[Person]], list[Person]]

_MAX_PAGE_BYTES = 5_000_000
# The namespaces of SVG are names that nothing is fetched from.
_NAMESPACE = re.compile(r'xmlns(?::\w+)?="[^"]*"')


@pytest.fixture(scope="module")
def stored(people: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run over the rendered people."""
    folder = tmp_path_factory.mktemp("stored") / "run"
    evaluate(people.config(batch_size=4), folder)
    return folder


def with_detections(run: Run, stored: Path, people: Dataset, change: Change) -> Path:
    """Returns a copy of a run whose detections are the labels with a change, and its AP."""
    folder = Path("changed").absolute()
    shutil.copytree(stored, folder)
    labels = json.loads(people.annotations.read_text())["annotations"]
    detections = [
        {
            "image_id": one["image_id"],
            "category_id": 1,
            "keypoints": one["keypoints"],
            "score": 1 / (2 + number),
        }
        for number, one in enumerate(labels)
        if one["num_keypoints"] and not one["iscrowd"]
    ]
    (folder / "detections.json").write_text(json.dumps(change(detections)))
    code, out, _ = run("score", str(folder / "detections.json"), str(people.annotations), "--json")
    assert code == 0
    report = json.loads((folder / "report.json").read_text())
    report["ap"] = json.loads(out)["ap"]
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def page_of(run: Run, folder: Path | str) -> str:
    code, _, err = run("report", str(folder), "--html", "page.html")
    assert code == 0, err
    return Path("page.html").read_text()


def analysis_of(run: Run, folder: Path) -> dict[str, Any]:
    code, out, err = run("report", str(folder), "--json")
    assert code == 0, err
    record = json.loads(out)
    assert record["report"] == json.loads((folder / "report.json").read_text())
    assert record["unavailable"] == ""
    analysis: dict[str, Any] = record["analysis"]
    return analysis


def shift_left_wrist(detections: list[Person]) -> list[Person]:
    for one in detections:
        place = 3 * COCO_KEYPOINTS.index("left_wrist")
        if one["keypoints"][place + 2]:
            one["keypoints"][place] += 1000
    return detections


def invert_one_person(detections: list[Person]) -> list[Person]:
    best = max(detections, key=lambda one: sum(v > 0 for v in one["keypoints"][2::3]))
    points = np.reshape(best["keypoints"], (17, 3))
    best["keypoints"] = points[opposites(COCO_KEYPOINTS)].ravel().tolist()
    return detections


def drop_people_in_crowds(detections: list[Person]) -> list[Person]:
    ids = [one["image_id"] for one in detections]
    return [one for one in detections if ids.count(one["image_id"]) < 2]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (shift_left_wrist, "missed"),
        (invert_one_person, "inversion"),
        (drop_people_in_crowds, "missed_people"),
    ],
)
def test_page_and_json_name_the_error_exactly(
    run: Run, stored: Path, people: Dataset, change: Change, kind: str
) -> None:
    folder = with_detections(run, stored, people, change)
    analysis = analysis_of(run, folder)
    first, *others = analysis["errors"]
    assert first["name"] == kind
    assert first["count"] > 0
    assert first["ap_gain"] > 0
    assert [one["count"] for one in others] == [0] * 6
    row = rf"<td>{kind.replace('_', ' ')}</td><td[^>]*>{first['count']}</td>"
    assert re.search(row, page_of(run, folder))
    if kind == "missed":
        worst = min(analysis["keypoints"], key=lambda one: one["ap"])
        assert (worst["name"], worst["kinds"]["good"]) == ("left_wrist", 0)
    if kind == "missed_people":
        assert analysis["crowding"][0]["missed_people"] == 0
        assert sum(one["missed_people"] for one in analysis["crowding"]) == first["count"]


def test_a_stored_run_is_printed_as_the_terminal_showed_it(run: Run, people: Dataset) -> None:
    options = [f"--set=data.images={people.images}", f"--set=data.annotations={people.annotations}"]
    options += ["--set=backend=oracle", "--set=engine=inline", "--output", "first"]
    _, shown, _ = run("evaluate", *options)
    code, out, _ = run("report", "first")
    assert (code, run("report", "first/report.json")[1]) == (0, out)
    assert shown == f"{out}Written to first\n"


def test_the_ap_of_the_analysis_is_that_of_the_report(run: Run, stored: Path) -> None:
    report = json.loads((stored / "report.json").read_text())
    assert analysis_of(run, stored)["ap"] == report["ap"]["AP"]


def test_the_page_needs_no_network_and_has_every_part(run: Run, stored: Path) -> None:
    page = page_of(run, stored)
    assert len(page.encode()) < _MAX_PAGE_BYTES
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|<script|@import|url\((?!#)", _NAMESPACE.sub("", page))
    assert page.count("<svg") == 4
    for part in ("Precision and recall", "left wrist", "Worst images", "cpu:0", "pycocotools"):
        assert part in page
    assert "engine: inline" in page


def test_a_browser_shows_the_page_without_errors_and_requests(
    run: Run, stored: Path, people: Dataset, tmp_path: Path
) -> None:
    page_of(run, with_detections(run, stored, people, invert_one_person))
    seen = visit(Path("page.html"), tmp_path / "profile")
    assert (seen.console, seen.requests) == ([], set())
    assert "inversion" in seen.dom
    assert "data:image/jpeg" in seen.dom


HOSTILE = '<img src=x onerror="alert(1)">'


def test_names_from_files_are_text_and_nothing_else(
    run: Run, people: Dataset, tmp_path: Path
) -> None:
    content = json.loads(people.annotations.read_text())
    (tmp_path / "images").mkdir()
    for number, image in enumerate(content["images"]):
        name = f"{number} {HOSTILE}\u202e.jpg"
        shutil.copy(people.images / image["file_name"], tmp_path / "images" / name)
        image["file_name"] = name
    (tmp_path / "labels.json").write_text(json.dumps(content))
    hostile = Dataset(tmp_path / "images", tmp_path / "labels.json")
    evaluate(hostile.config(), tmp_path / "run")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    report |= {"note": HOSTILE, "ap": {**report["ap"], HOSTILE: 0.5}}
    report["devices"][0] |= {"description": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    report["faults"] = {"reasons": {HOSTILE: [HOSTILE]}, "taken_out": []}
    report["model"]["notes"] = [f"</style>{HOSTILE}"]
    (tmp_path / "run" / "report.json").write_text(json.dumps(report))
    (tmp_path / "run" / "config.yaml").write_text(f"</pre>{HOSTILE}")
    page = page_of(run, tmp_path / "run")
    assert HOSTILE not in page
    assert "\u202e" not in page
    assert "&lt;img src=x onerror=" in page
    seen = visit(Path("page.html"), tmp_path / "profile")
    assert (seen.console, seen.requests) == ([], set())


def test_a_run_without_its_images_has_a_page_that_says_so(
    run: Run, people: Dataset, tmp_path: Path
) -> None:
    shutil.copytree(people.images, tmp_path / "images")
    evaluate(Dataset(tmp_path / "images", people.annotations).config(), tmp_path / "run")
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    page = page_of(run, tmp_path / "run")
    assert "No picture of" in page
    assert "data:image" not in page
    (tmp_path / "images").rmdir()
    assert "is not a folder" in page_of(run, tmp_path / "run")


def test_a_run_without_its_annotations_has_a_page_and_json_that_say_so(
    run: Run, people: Dataset, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.json"
    shutil.copy(people.annotations, labels)
    evaluate(Dataset(people.images, labels).config(), tmp_path / "run")
    labels.unlink()
    assert "Not available: cannot read" in page_of(run, tmp_path / "run")
    _, out, _ = run("report", str(tmp_path / "run"), "--json")
    record = json.loads(out)
    assert record["analysis"] is None
    assert "labels.json" in record["unavailable"]


def test_labels_that_changed_since_the_run_are_named(
    run: Run, people: Dataset, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.json"
    shutil.copy(people.annotations, labels)
    evaluate(Dataset(people.images, labels).config(), tmp_path / "run")
    content = json.loads(labels.read_text())
    content["annotations"] = [*content["annotations"], *content["annotations"]]
    labels.write_text(json.dumps(content))
    assert "The annotations have changed since the run" in page_of(run, tmp_path / "run")


def test_failed_images_are_on_the_page(run: Run, people: Dataset, tmp_path: Path) -> None:
    shutil.copytree(people.images, tmp_path / "images")
    broken = sorted((tmp_path / "images").iterdir())[2]
    broken.write_bytes(b"no image")
    data = Dataset(tmp_path / "images", people.annotations)
    for allowed in (0, 1):
        output = tmp_path / f"allowed-{allowed}"
        evaluate(data.config(allow_failures=allowed), output)
        page = page_of(run, output)
        assert "1 of 12 images failed" in page
        assert broken.name in page
        assert ("Not available: the run has no AP" in page) == (allowed == 0)


def test_repeated_images_and_a_part_of_them_are_analysed(
    run: Run, people: Dataset, tmp_path: Path
) -> None:
    report = evaluate(people.config(data={"limit": 5, "repeat": 2}), tmp_path / "run")
    analysis = analysis_of(run, tmp_path / "run")
    assert analysis["ap"] == (report.ap or {})["AP"]
    assert sum(one["images"] for one in analysis["crowding"]) <= 10
    stored = read_run(tmp_path / "run")
    names = [image.file_name for image in stored.index.images]
    for original, name in enumerate(names[:5]):
        weights_I = stored.precision_recall.weights((np.arange(5) == original).astype(int))
        assert [names[row] for row in np.flatnonzero(weights_I)] == [name, name]
    captions = re.findall(r"<figcaption>(\S+\.jpg),", page_of(run, tmp_path / "run"))
    assert 0 < len(captions) == len({*captions}) <= 5


def test_a_page_of_damaged_ledger_files_has_the_others(run: Run, stored: Path) -> None:
    shutil.copytree(stored, "damaged")
    first, *_ = sorted(Path("damaged/ledger").glob("*.arrow"))
    first.write_bytes(b"damaged")
    assert "images/s" in page_of(run, "damaged")
    for path in Path("damaged/ledger").glob("*.arrow"):
        path.unlink()
    assert "the folder has no ledger" in page_of(run, "damaged")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nowhere",), 3, "nowhere"),
        (("nowhere", "--html", "page.html"), 3, "nowhere"),
        (("nowhere", "--json"), 3, "nowhere"),
        (("run", "--json", "--html", "page.html"), 2, "exclude each other"),
        (("run", "--html", "run/report.json"), 2, "would be overwritten"),
    ],
)
def test_a_report_that_cannot_be_is_an_error_of_one_line(
    run: Run, stored: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    shutil.copytree(stored, "run")
    answer, out, err = run("report", *arguments)
    assert (answer, out) == (code, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not Path("page.html").exists()


def far_away(detections: list[Person]) -> list[Person]:
    return [{**one, "keypoints": [2.0e9] * 51} for one in detections]


def test_people_far_outside_of_their_images_are_drawn(
    run: Run, stored: Path, people: Dataset
) -> None:
    assert "data:image/jpeg" in page_of(run, with_detections(run, stored, people, far_away))


def test_a_picture_of_an_odd_shape_is_a_thumbnail(
    run: Run, people: Dataset, tmp_path: Path
) -> None:
    content = json.loads(people.annotations.read_text())
    (tmp_path / "images").mkdir()
    for image in content["images"]:
        image.update(height=2, width=9000)
        cv2.imwrite(str(tmp_path / "images" / image["file_name"]), np.zeros((2, 9000, 3), np.uint8))
    (tmp_path / "labels.json").write_text(json.dumps(content))
    evaluate(Dataset(tmp_path / "images", tmp_path / "labels.json").config(), tmp_path / "run")
    assert "data:image/jpeg" in page_of(run, tmp_path / "run")

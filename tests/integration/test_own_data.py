"""Whole runs on annotation files that are not COCO's own."""

import gzip
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distributed_pose import evaluate
from tests.annotation_files import pycocotools_figures
from tests.conftest import Dataset, Run

Content = dict[str, Any]


@pytest.fixture
def own(people: Dataset, tmp_path: Path) -> Callable[[Callable[[Content], object]], Dataset]:
    """Returns the rendered images with a changed annotation file."""

    def change(edit: Callable[[Content], object]) -> Dataset:
        content = json.loads(people.annotations.read_text())
        edit(content)
        path = tmp_path / "own.json"
        path.write_text(json.dumps(content))
        return Dataset(people.images, path)

    return change


def options(dataset: Dataset, *sets: str) -> list[str]:
    keys = [f"data.images={dataset.images}", f"data.annotations={dataset.annotations}"]
    keys += ["backend=oracle", "engine=inline", *sets]
    return [word for key in keys for word in ("--set", key)]


def unlabel(content: Content) -> None:
    """Removes the annotations, as in COCO's image_info_test-dev2017.json."""
    del content["annotations"]
    content["categories"] = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]


def name_by_text(content: Content) -> None:
    """Gives images, categories and annotations text ids."""
    for image in content["images"]:
        image["id"] = f"image {image['id']:04d}"
    for one in content["annotations"]:
        one.update(id=f"a{one['id']}", image_id=f"image {one['image_id']:04d}", category_id="human")
    content["categories"][0]["id"] = "human"


def test_a_file_without_annotations_gives_detections_and_exit_code_0(
    run: Run, own: Callable[..., Dataset]
) -> None:
    dataset = own(unlabel)
    code, out, err = run("evaluate", *options(dataset), "--output", "run")
    report = json.loads(Path("run/report.json").read_text())
    assert (code, err) == (0, "")
    assert "Nothing to score" in out
    assert (report["ap"], report["complete"], report["num_images"]) == (None, True, 12)
    assert report["unscored"] == f"{dataset.annotations} has no annotations"
    # The oracle draws only labelled people, and the file has none.
    assert json.loads(Path("run/detections.json").read_text()) == []


def test_without_annotations_a_failed_image_still_is_an_incomplete_run(
    run: Run, own: Callable[..., Dataset]
) -> None:
    def lose(content: Content) -> None:
        unlabel(content)
        content["images"][0]["file_name"] = "nowhere.jpg"

    code, out, _ = run("evaluate", *options(own(lose)), "--output", "run")
    assert code == 4
    assert "Incomplete: 1 of 12" in out
    report = json.loads(Path("run/report.json").read_text())
    assert (report["ap"], report["unscored"]) == (None, "1 of 12 images failed")
    code, out, _ = run("evaluate", *options(own(lose)), "--output", "run", "--allow-failures", "1")
    assert code == 0
    assert "Nothing to score" in out


def test_a_file_with_no_people_has_figures_that_are_undefined(
    run: Run, own: Callable[..., Dataset]
) -> None:
    dataset = own(lambda content: content.update(annotations=[]))
    code, out, _ = run("evaluate", *options(dataset), "--output", "run")
    report = json.loads(Path("run/report.json").read_text())
    assert code == 0
    assert set(report["ap"].values()) == {-1}
    assert "No person is labelled outside crowds" in out


def test_commands_on_runs_without_ap_give_their_other_figures(
    run: Run, own: Callable[..., Dataset]
) -> None:
    dataset = own(unlabel)
    assert run("evaluate", *options(dataset), "--output", "run")[0] == 0
    for command in (["report", "run", "--as", "guide"], ["report", "table", "run"]):
        code, out, _ = run(*command)
        assert code == 0
        assert out
    code, _, err = run("picture", "run", "out.jpg")
    assert (code, "no detections" in err) == (3, True)
    code, out, _ = run("scale", "--devices", "1", *options(dataset), "--output", "scaled")
    assert code == 0
    assert "n/a" in out


def test_ids_of_text_are_those_of_detections_failures_and_pictures(
    run: Run, own: Callable[..., Dataset], tmp_path: Path
) -> None:
    dataset = own(name_by_text)
    code, out, _ = run("evaluate", *options(dataset), "--output", "run")
    report = json.loads(Path("run/report.json").read_text())
    detections = json.loads(Path("run/detections.json").read_text())
    truth = json.loads(dataset.annotations.read_text())
    assert code == 0
    assert "some are not integers" in out
    assert report["data"]["category"] == "human"
    for number, one in enumerate(truth["annotations"], 1):
        one["id"] = number
    expected = pycocotools_figures(tmp_path / "truth.json", truth, detections, "human")
    assert report["ap"] == expected
    assert expected["AP"] > 0.8
    assert run("picture", "run", "out.jpg")[0] == 0

    def lose(content: Content) -> None:
        name_by_text(content)
        content["images"][0]["file_name"] = "nowhere.jpg"

    run("evaluate", *options(own(lose)), "--output", "lost")
    (failure,) = json.loads(Path("lost/report.json").read_text())["failures"]
    assert failure["image_id"] == truth["images"][0]["id"]


def test_a_run_on_text_ids_can_be_resumed(own: Callable[..., Dataset], tmp_path: Path) -> None:
    config = own(name_by_text).config(gather="poses")
    first, again = (evaluate(config, tmp_path / "run") for _ in range(2))
    assert (first.ap, again.sessions) == (again.ap, 1)


def test_a_packed_dataset_has_the_ids_names_and_figures_of_its_source(
    run: Run, own: Callable[..., Dataset]
) -> None:
    def change(content: Content) -> None:
        name_by_text(content)
        for image in content["images"]:
            image["file_name"] = f"D:\\data\\{image['file_name']}"

    dataset = own(change)
    assert run("evaluate", *options(dataset), "--output", "run")[0] == 0
    assert run("pack", "packed", *options(dataset))[0] == 0
    packed = Dataset(Path("packed"), Path("packed/annotations.json"))
    assert run("evaluate", *options(packed), "--output", "again")[0] == 0
    first, again = (Path(name, "detections.json").read_bytes() for name in ("run", "again"))
    assert first == again
    reports = [json.loads(Path(name, "report.json").read_text()) for name in ("run", "again")]
    assert reports[0]["ap"] == reports[1]["ap"]


def test_an_unlabelled_dataset_is_packed_as_one(run: Run, own: Callable[..., Dataset]) -> None:
    assert run("pack", "packed", *options(own(unlabel)))[0] == 0
    packed = Dataset(Path("packed"), Path("packed/annotations.json"))
    code, out, _ = run("evaluate", *options(packed), "--output", "run")
    assert (code, "Nothing to score" in out) == (0, True)


def test_notes_are_in_the_report_and_on_the_terminal(run: Run, own: Callable[..., Dataset]) -> None:
    def change(content: Content) -> None:
        content["annotations"][0]["id"] = 0
        content["annotations"][1]["image_id"] = 10**6
        for image in content["images"]:
            image["file_name"] = f"[red]\\{image['file_name']}"

    code, out, _ = run("evaluate", *options(own(change)), "--output", "run")
    notes = json.loads(Path("run/report.json").read_text())["data"]["notes"]
    assert code == 0
    assert len(notes) == 3
    lines = " ".join(out.split())
    assert all(" ".join(note.split()) in lines for note in notes)


def test_a_gzipped_file_is_read_by_every_command(run: Run, people: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "people.json.gz"
    path.write_bytes(gzip.compress(people.annotations.read_bytes()))
    dataset = Dataset(people.images, path)
    assert run("evaluate", *options(dataset), "--output", "run")[0] == 0
    assert run("picture", "run", "out.jpg")[0] == 0
    assert run("pack", "packed", *options(dataset))[0] == 0


def test_one_of_several_categories_is_chosen_by_name(run: Run, own: Callable[..., Dataset]) -> None:
    def change(content: Content) -> None:
        content["categories"].append({**content["categories"][0], "id": 2, "name": "rider"})
        for one in content["annotations"][::2]:
            one["category_id"] = 2

    dataset = own(change)
    code, _, err = run("evaluate", *options(dataset))
    assert (code, len(err.splitlines())) == (3, 1)
    assert "1 'person', 2 'rider'" in err
    assert "data.category" in err
    code, out, _ = run("evaluate", *options(dataset, "data.category=rider"), "--output", "run")
    assert (code, "category 2 'rider'" in out) == (0, True)
    found = json.loads(Path("run/detections.json").read_text())
    assert {one["category_id"] for one in found} == {2}


def guide(run: Run, labels: Dataset, *more: str) -> tuple[int, str, str]:
    return run(
        *("guide", "postprocess", "--result-dir", "maps", "--pad-txt-path", "maps/pad.txt"),
        *("--labels", str(labels.annotations), "--detections-save-path", "out.json", *more),
    )


def test_the_guides_postprocessing_reads_the_same_annotation_files(
    run: Run, people: Dataset, own: Callable[..., Dataset]
) -> None:
    assert run("evaluate", *options(people), "--dump-maps", "maps", "--output", "run")[0] == 0
    first = json.loads(Path("run/detections.json").read_text())
    code, out, _ = guide(run, own(name_by_text))
    assert (code, "some are not integers" in out) == (0, True)
    ids = {one["image_id"] for one in json.loads(Path("out.json").read_text())}
    assert ids == {f"image {one['image_id']:04d}" for one in first}
    code, out, _ = guide(run, own(unlabel))
    assert (code, "Nothing to score" in out) == (0, True)
    assert json.loads(Path("out.json").read_text()) == first

    def doubled(content: Content) -> None:
        content["categories"].append({**content["categories"][0], "id": 2, "name": "rider"})

    code, _, err = guide(run, own(doubled))
    assert (code, "guide postprocess: --category" in err) == (3, True)
    assert guide(run, own(doubled), "--category", "1")[0] == 0


# Inputs from public reports: exit code, AP, and text on the terminal.
CASES = [
    ("ann_17_other_keypoints", 3, None, "'head_bottom' in place of 'left_eye'"),
    ("ann_63bit_ids_repeat", 0, 1.0, "counted 3 times"),
    ("ann_id_zero", 0, 1.0, "id 0"),
    ("ann_iscrowd_boolean", 0, 1.0, "COCO keypoint AP, 3 images"),
    ("ann_num_keypoints_total", 0, None, "whether it is 0"),
    ("ann_person_category_not_1", 0, 1.0, "category 0 'person'"),
    ("ann_unlisted_images", 0, 1.0, "not listed are ignored (2)"),
    ("img_stray_parquet", 0, 1.0, "COCO keypoint AP, 3 images"),
]


@pytest.mark.parametrize(("name", "exit_code", "ap", "said"), CASES)
def test_cases_from_public_reports_have_the_expected_result(
    run: Run, shared: Path, name: str, exit_code: int, ap: float | None, said: str
) -> None:
    builder = [sys.executable, "-B", str(shared / "cases" / f"{name}.py"), "case"]
    printed = subprocess.run(builder, check=True, capture_output=True, text=True).stdout
    code, out, err = run(*shlex.split(printed)[1:])
    assert (code, len(err.splitlines())) == (exit_code, int(exit_code > 0))
    assert said in " ".join((out + err).split())
    if exit_code:
        return
    report = json.loads(Path("case/run/report.json").read_text())
    truth = json.loads(Path("case/ann.json").read_text())
    if ap is not None:
        assert report["ap"]["AP"] == pytest.approx(ap)
    if report["data"]["repeat"] == 1:
        for number, one in enumerate(truth["annotations"], 1):
            one["id"] = number
        found = json.loads(Path("case/run/detections.json").read_text())
        category = report["data"]["category"]
        assert report["ap"] == pycocotools_figures(Path("plain.json"), truth, found, category)

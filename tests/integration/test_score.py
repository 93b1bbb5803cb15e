"""Scores of results files: those of runs, of other tools, and broken ones."""

import contextlib
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from distributed_pose import RunReport, SetupError, evaluate
from distributed_pose.keypoints.reading import coco_body, read_keypoint_set
from distributed_pose.metrics.coco_ap import FIGURES
from tests.conftest import Dataset, Run
from tests.keypoint_sets import LEGS_YAML


def scored(run: Run, *arguments: str | Path) -> dict[str, Any]:
    code, out, err = run("score", *map(str, arguments), "--json")
    assert code == 0, err
    record: dict[str, Any] = json.loads(out)
    return record


def by_pycocotools(
    detections: Path, annotations: Path, sigmas: Sequence[float] | None = None
) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(detections)), "keypoints")
        if sigmas:
            evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(FIGURES, map(float, evaluation.stats), strict=True))


def noisy(people: Dataset, seed: int = 3) -> list[dict[str, Any]]:
    """Returns one detection per labelled person, each keypoint off by some pixels."""
    noise = random.Random(seed)
    content = json.loads(people.annotations.read_text())
    return [
        {
            "image_id": person["image_id"],
            "category_id": 1,
            "keypoints": [value + noise.gauss(0, 2) for value in person["keypoints"]],
            "score": noise.random(),
        }
        for person in content["annotations"]
        if person["num_keypoints"] and not person["iscrowd"]
    ]


@pytest.mark.parametrize("limit", [None, 5])
def test_detections_of_a_run_score_as_the_run_did_to_the_last_bit(
    run: Run, people: Dataset, tmp_path: Path, limit: int | None
) -> None:
    report = evaluate(people.config(data={"limit": limit}), tmp_path / "run")
    options = ["--limit", str(limit)] if limit else []
    record = scored(run, tmp_path / "run" / "detections.json", people.annotations, *options)
    assert record["ap"] == report.ap
    assert record["num_images"] == report.num_images
    assert record["num_detections"] == report.num_detections


def test_other_tools_detections_score_as_pycocotools_scores_them(
    run: Run, people: Dataset, tmp_path: Path
) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps(noisy(people)))
    figures = scored(run, file, people.annotations)["ap"]
    assert 0.2 < figures["AP"] < 0.99
    assert figures == by_pycocotools(file, people.annotations)


def test_detections_of_another_set_score_with_the_sigmas_of_its_file(
    run: Run, people: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "legs.yaml").write_text(LEGS_YAML)
    legs = read_keypoint_set(tmp_path / "legs.yaml")
    kept = [coco_body().dataset_keypoints.index(name) for name in legs.dataset_keypoints]

    def of_legs(entry: dict[str, Any]) -> dict[str, Any]:
        points = np.reshape(entry["keypoints"], (-1, 3))[kept]
        labelled = int((points[:, 2] > 0).sum())
        return {**entry, "keypoints": points.ravel().tolist(), "num_keypoints": labelled}

    content = json.loads(people.annotations.read_text())
    content["annotations"] = [*map(of_legs, content["annotations"])]
    content["categories"][0]["keypoints"] = [*legs.dataset_keypoints]
    truth, found = tmp_path / "truth.json", tmp_path / "found.json"
    truth.write_text(json.dumps(content))
    found.write_text(json.dumps([*map(of_legs, noisy(people))]))
    figures = scored(run, found, truth, "--keypoints", tmp_path / "legs.yaml")["ap"]
    assert 0.2 < figures["AP"] < 0.99
    assert figures == by_pycocotools(found, truth, legs.sigmas)
    code, _, err = run("score", str(found), str(truth))
    assert code == 3
    assert "6 keypoints, COCO's person has 17" in " ".join(err.split())


def test_pycocotools_accepts_and_scores_a_runs_detections(people: Dataset, tmp_path: Path) -> None:
    report = evaluate(people.config(), tmp_path)
    assert by_pycocotools(tmp_path / "detections.json", people.annotations) == report.ap


def test_normalised_scores_are_from_0_to_1_and_in_the_order_of_the_scores(
    coco_mini: Dataset, tmp_path: Path
) -> None:
    evaluate(coco_mini.config(), tmp_path)
    detections = json.loads((tmp_path / "detections.json").read_text())
    pairs = sorted((one["score"], one["score_normalised"]) for one in detections)
    assert all(0 <= normalised <= 1 for _, normalised in pairs)
    assert len({score for score, _ in pairs}) == len({normalised for _, normalised in pairs})
    assert [normalised for _, normalised in pairs] == sorted(value for _, value in pairs)


def test_other_categories_and_no_detections_are_scored(
    run: Run, people: Dataset, tmp_path: Path
) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps([{**one, "category_id": 7} for one in noisy(people)]))
    record = scored(run, file, people.annotations)
    assert record["ap"]["AP"] == 0
    assert "other categories" in " ".join(record["notes"])


def test_the_table_names_the_figures_and_the_number_of_detections(
    run: Run, people: Dataset, tmp_path: Path
) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps(noisy(people)))
    code, out, _ = run("score", str(file), str(people.annotations))
    assert code == 0
    assert all(name in out for name in FIGURES)
    assert f"{len(noisy(people))} detections" in out


DETECTION = {"image_id": 1, "category_id": 1, "keypoints": [1.0] * 51, "score": 0.5}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("{}", "not a list of detections"),
        ("[5]", "detections[0] is 5"),
        (json.dumps([DETECTION, {**DETECTION, "image_id": 10**9}]), "detections[1]: image 10"),
        (json.dumps([{**DETECTION, "image_id": "\n"}]), "is not in the annotation file"),
        (json.dumps([{**DETECTION, "keypoints": [1, 2]}]), "2 values"),
        (json.dumps([{**DETECTION, "keypoints": [None] * 51}]), "not a list of 51 numbers"),
        (json.dumps([{**DETECTION, "keypoints": [[1, 2, 3]] * 17}]), "17 values"),
        (json.dumps([{**DETECTION, "keypoints": [1e30] * 51}]), "cannot be a pixel"),
        (json.dumps([{**DETECTION, "keypoints": [10**400] * 51}]), "cannot be a pixel"),
        (json.dumps([{**DETECTION, "keypoints": [float("nan")] * 51}]), "cannot be a pixel"),
        (json.dumps([{**DETECTION, "score": float("inf")}]), "'score' is inf"),
        (json.dumps([{**DETECTION, "score": None}]), "'score' is null"),
        (json.dumps([{"image_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]), "'category_id'"),
        (json.dumps([{"image_id": 1, "category_id": 1, "score": 1}]), "'keypoints' is missing"),
    ],
)
def test_files_that_are_not_results_are_an_error_of_one_line(
    run: Run, people: Dataset, tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "results.json"
    file.write_text(content)
    code, out, err = run("score", str(file), str(people.annotations))
    assert (code, out) == (3, "")
    assert message in err
    assert "results.json" in err
    assert len(err.splitlines()) == 1


def test_images_without_annotations_cannot_be_scored(
    run: Run, people: Dataset, tmp_path: Path
) -> None:
    content = json.loads(people.annotations.read_text())
    del content["annotations"]
    (tmp_path / "images.json").write_text(json.dumps(content))
    (tmp_path / "results.json").write_text("[]")
    code, _, err = run("score", "results.json", "images.json")
    assert code == 3
    assert "no annotations" in err


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_report_is_loaded_as_it_was(people: Dataset, tmp_path: Path, form: str) -> None:
    report = evaluate(people.config(batch_size=4), tmp_path)
    loaded = RunReport.load(form.format(tmp_path))
    assert loaded == report
    assert loaded.to_json() == (tmp_path / "report.json").read_text()


def test_a_report_with_further_fields_is_loaded(people: Dataset, tmp_path: Path) -> None:
    report = evaluate(people.config(), tmp_path)
    content = json.loads((tmp_path / "report.json").read_text())
    (tmp_path / "report.json").write_text(json.dumps({**content, "further": 1}))
    assert RunReport.load(tmp_path) == report


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"note": 5}'])
def test_a_folder_without_a_report_is_an_error_of_one_line(
    tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(SetupError, match="report") as error:
        RunReport.load(tmp_path)
    assert len(str(error.value).splitlines()) == 1

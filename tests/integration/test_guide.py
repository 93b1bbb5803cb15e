"""The guide's chain by its commands: every form of a result folder gives the run's detections."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from distributed_pose.evaluation import evaluate
from distributed_pose.metrics.coco_ap import coco_ap
from tests.conftest import Dataset, Run
from tests.result_folders import (
    Outputs,
    oracle_outputs,
    with_first_stage,
    write_pads,
    write_results,
)

# Suffix, number of the first output, and number of outputs.
FORMS = [
    (suffix, first, count) for suffix in (".bin", ".txt") for first in (0, 1) for count in (2, 4)
]


@pytest.fixture(scope="module")
def outputs(people: Dataset) -> dict[str, Outputs]:
    """The oracle's maps of all images."""
    return oracle_outputs(people)


@pytest.fixture(scope="module")
def expected(people: Dataset, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The detections of a run with the oracle."""
    folder = tmp_path_factory.mktemp("expected")
    evaluate(people.config(), folder)
    return (folder / "detections.json").read_bytes()


def score(run: Run, dataset: Dataset, folder: Path, pads: Path) -> tuple[int, str, str]:
    options = ("--result-dir", str(folder), "--pad-txt-path", str(pads))
    labels = ("--labels", str(dataset.annotations), "--detections-save-path", "found.json")
    return run("guide", "postprocess", *options, *labels)


@pytest.mark.parametrize(("suffix", "first", "count"), FORMS)
def test_every_form_of_result_folder_gives_the_detections_of_a_run(
    run: Run,
    people: Dataset,
    outputs: dict[str, Outputs],
    expected: bytes,
    suffix: str,
    first: int,
    count: int,
) -> None:
    stages = outputs if count == 2 else with_first_stage(outputs)
    folder = write_results(Path("results"), stages, suffix, first)
    code, out, err = score(run, people, folder, write_pads(Path("pad.txt"), people))
    assert (code, err) == (0, "")
    assert Path("found.json").read_bytes() == expected
    assert "images/s" in out


def test_the_ap_is_that_of_the_run(run: Run, people: Dataset, outputs: dict[str, Outputs]) -> None:
    report = evaluate(people.config())
    folder = write_results(Path("results"), outputs)
    _, out, _ = score(run, people, folder, write_pads(Path("pad.txt"), people))
    assert report.ap is not None
    assert " ".join(f"{value:.3f}" for value in report.ap.values()) in " ".join(out.split())


def test_half_precision_outputs_are_read_as_half_precision(
    run: Run, people: Dataset, outputs: dict[str, Outputs], tmp_path: Path
) -> None:
    evaluate(people.config(maps_dtype="f16"), tmp_path / "halves")
    folder = write_results(Path("results"), outputs, dtype="<f2")
    assert score(run, people, folder, write_pads(Path("pad.txt"), people))[0] == 0
    halves = (tmp_path / "halves" / "detections.json").read_bytes()
    assert Path("found.json").read_bytes() == halves


def test_outputs_in_another_order_are_recognised_by_their_sizes(
    run: Run, people: Dataset, outputs: dict[str, Outputs], expected: bytes
) -> None:
    turned = {name: arrays[::-1] for name, arrays in outputs.items()}
    folder = write_results(Path("results"), turned)
    assert score(run, people, folder, write_pads(Path("pad.txt"), people))[0] == 0
    assert Path("found.json").read_bytes() == expected


def test_a_pad_file_of_some_images_scores_only_those_and_says_so(
    run: Run, people: Dataset, outputs: dict[str, Outputs]
) -> None:
    pads = write_pads(Path("pad.txt"), people)
    lines = pads.read_text().splitlines(keepends=True)[:5]
    pads.write_text("".join(lines))
    names = [line.partition(".")[0] for line in lines]
    folder = write_results(Path("results"), {name: outputs[name] for name in names})
    code, out, _ = score(run, people, folder, pads)
    report = evaluate(people.config(data={"limit": 5}))
    assert code == 0
    assert "5 of 12 images" in out
    assert report.ap is not None
    assert f"{report.ap['AP']:.3f}" in out


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def not_a_number(path: Path) -> None:
    values = np.fromfile(path, "<f4")
    values[100] = np.nan
    values.tofile(path)


def a_word(path: Path) -> None:
    path.write_text(path.read_text()[:-100] + " segmentation fault")


@pytest.mark.parametrize(
    ("suffix", "damage", "reason"),
    [
        (".bin", Path.unlink, "is missing"),
        (".txt", Path.unlink, "is missing"),
        (".bin", cut, "bytes, and [38, 46, 80] maps have 559360"),
        (".txt", cut, "values, and [38, 46, 80] maps have 139840"),
        (".bin", not_a_number, "not finite"),
        (".txt", a_word, "segmentation"),
    ],
)
def test_a_damaged_file_is_a_setup_error_that_names_it(
    run: Run,
    people: Dataset,
    outputs: dict[str, Outputs],
    suffix: str,
    damage: Callable[[Path], object],
    reason: str,
) -> None:
    folder = write_results(Path("results"), outputs, suffix)
    victim = sorted(folder.glob(f"*_1{suffix}"))[6]
    damage(victim)
    code, _, err = score(run, people, folder, write_pads(Path("pad.txt"), people))
    assert code == 3
    assert victim.name in err
    assert reason in err
    assert not Path("found.json").exists()


def test_outputs_of_an_unknown_image_are_an_error_and_stray_files_a_warning(
    run: Run,
    people: Dataset,
    outputs: dict[str, Outputs],
    expected: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = write_results(Path("results"), outputs)
    pads = write_pads(Path("pad.txt"), people)
    (folder / "sumary.json").write_text("{}")
    assert score(run, people, folder, pads)[0] == 0
    assert Path("found.json").read_bytes() == expected
    assert "files that are not outputs: sumary.json" in caplog.text
    for number in (0, 1):
        (folder / f"stranger_{number}.bin").write_bytes(b"\0")
    code, _, err = score(run, people, folder, pads)
    assert code == 3
    assert "stranger_0.bin" in err


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda line: line.replace(".jpg", ".png"), "does not list the image"),
        (lambda line: " ".join([*line.split()[:2], "999", *line.split()[3:]]), "999x"),
        (
            lambda line: " ".join([*line.split()[:3], "9", *line.split()[4:]]),
            "no profile has the padding",
        ),
    ],
)
def test_a_pad_file_of_other_images_is_an_error_that_names_one(
    run: Run,
    people: Dataset,
    outputs: dict[str, Outputs],
    change: Callable[[str], str],
    named: str,
) -> None:
    folder = write_results(Path("results"), outputs)
    pads = write_pads(Path("pad.txt"), people)
    first, *rest = pads.read_text().splitlines()
    pads.write_text("\n".join([change(first), *rest]))
    code, _, err = score(run, people, folder, pads)
    assert code == 3
    assert named in err
    assert "pad.txt" in err


def test_preprocess_and_info_write_what_the_benchmark_tool_reads(run: Run, people: Dataset) -> None:
    paths = ("--src-path", str(people.images), "--save-path", "bins", "--pad-txt-path", "pad.txt")
    code, out, err = run("guide", "preprocess", *paths)
    assert (code, err) == (0, "")
    assert "12 images" in out
    code, _, _ = run("guide", "info", "bin", "./bins", "prep.info", "640", "368")
    lines = Path("prep.info").read_text().splitlines()
    assert code == 0
    assert len(lines) == 12
    for index, line in enumerate(lines):
        number, path, width, height = line.split()
        assert (number, width, height) == (str(index), "640", "368")
        assert Path(path).stat().st_size == 3 * 368 * 640 * 4
    assert Path("pad.txt").read_bytes() == write_pads(Path("expected.txt"), people).read_bytes()


def test_a_broken_image_is_a_setup_error_that_names_it(run: Run) -> None:
    Path("images").mkdir()
    Path("images/broken.jpg").write_bytes(b"\xff\xd8 not much of an image")
    paths = ("--src-path", "images", "--save-path", "bins", "--pad-txt-path", "pad.txt")
    code, _, err = run("guide", "preprocess", *paths)
    assert (code, len(err.splitlines())) == (3, 1)
    assert "images/broken.jpg" in err


@pytest.mark.parametrize(
    ("network", "forms"),
    [
        ("tf_pose_mobilenet_v2_small", [(".bin", 0, 2), (".txt", 1, 4)]),
        pytest.param("tf_pose_mobilenet_v2_small", FORMS, marks=pytest.mark.slow),
        pytest.param("human_pose_estimation_0001", FORMS, marks=pytest.mark.slow),
    ],
    ids=["tf_pose, as each tool writes", "tf_pose, all forms", "0001, all forms"],
)
def test_real_images_through_the_whole_chain_have_the_reference_ap(
    run: Run, coco_mini: Dataset, shared: Path, network: str, forms: list[tuple[str, int, int]]
) -> None:
    paths = ("--src-path", str(coco_mini.images), "--save-path", "bins")
    assert run("guide", "preprocess", *paths, "--pad-txt-path", "pad.txt")[0] == 0
    outputs = infer(shared / "models" / f"{network}.onnx", Path("bins"))
    reference = shared / "reference" / f"coco-mini.{network}.modelzoo.json"
    expected = json.loads(reference.read_text())["stats"]["AP"]
    for suffix, first, count in forms:
        stages = outputs if count == 2 else with_first_stage(outputs)
        folder = Path(f"results{suffix}{first}{count}")
        # `cann-benchmark` writes values in text with six digits.
        write_results(folder, stages, suffix, first, digits=6)
        assert score(run, coco_mini, folder, Path("pad.txt"))[0] == 0
        found = json.loads(Path("found.json").read_text())
        assert ap_of(coco_mini, found) == pytest.approx(expected, abs=0.0005)


def infer(model: Path, bins: Path) -> dict[str, Outputs]:
    """Returns the outputs of an ONNX runtime for the files, image by image."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    outputs: dict[str, Outputs] = {}
    for path in sorted(bins.glob("*.bin")):
        input_13HW = np.fromfile(path, "<f4").reshape(1, 3, 368, 640)
        heatmaps, pafs = session.run(["heatmaps", "pafs"], {"data": input_13HW})
        outputs[path.stem] = (heatmaps[0], pafs[0])
    return outputs


def ap_of(dataset: Dataset, detections: list[dict[str, Any]]) -> float:
    truth = json.loads(dataset.annotations.read_text())
    ids = [image.image_id for image in dataset.records()]
    return coco_ap(truth, detections, ids)["AP"]

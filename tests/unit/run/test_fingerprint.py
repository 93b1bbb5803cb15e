"""The fingerprint of a run covers everything that its detections depend on, and nothing else."""

import json
import re
import shutil
from importlib.resources import files
from pathlib import Path

import pytest

import distributed_pose
from distributed_pose import RunConfig
from distributed_pose.files import package_identity as identity
from distributed_pose.run import fingerprint as fingerprinting
from distributed_pose.run.fingerprint import fingerprint
from distributed_pose.run.inputs import read_inputs
from tests.conftest import Dataset
from tests.tiny_models import save_constant_model


def of(config: RunConfig) -> dict[str, str]:
    return fingerprint(config, read_inputs(config))


def differing(one: dict[str, str], other: dict[str, str]) -> set[str]:
    assert one.keys() == other.keys()
    return {part for part in one if one[part] != other[part]}


@pytest.mark.parametrize(
    "values",
    [
        {"devices": "cpu:3"},
        {"batch_size": 3},
        {"npu": {"batch_size": 3, "soc": "310P3"}},
        {"engine": "ray"},
        {"reducers": 2},
        {"gather": "poses"},
        {"deadline_s": 5.0},
        {"allow_failures": 3},
        {"dump_maps": "maps"},
        {"data": {"limit": 12}},
    ],
)
def test_settings_that_detections_do_not_depend_on_are_not_in_it(
    people: Dataset, values: dict[str, object]
) -> None:
    assert of(people.config(**values)) == of(people.config())


def test_its_annotations_are_those_that_were_read(people: Dataset, tmp_path: Path) -> None:
    own = Path(shutil.copy(people.annotations, tmp_path / "own.json"))
    config = people.config(data={"annotations": str(own)})
    inputs = read_inputs(config)
    own.write_text("{}")
    assert fingerprint(config, inputs) == of(people.config())


@pytest.mark.parametrize(
    ("values", "part", "text"),
    [
        ({"profile": "uint8"}, "profile", "uint8"),
        ({"input": "256x456"}, "input", "256x456"),
        ({"data": {"damaged": "fail"}}, "data.damaged", "fail"),
        ({"precision": "f32"}, "precision", "f32"),
        ({"maps_dtype": "f16"}, "maps_dtype", "f16"),
        ({"cuda": {"precision": "f16"}}, "precision", "auto, cuda f16"),
        ({"data": {"limit": 5}}, "data.limit", "5 of 12 images"),
    ],
)
def test_settings_that_detections_depend_on_are_in_it_by_name(
    people: Dataset, values: dict[str, object], part: str, text: str
) -> None:
    changed = of(people.config(**values))
    assert differing(changed, of(people.config())) == {part}
    assert changed[part] == text


def test_the_content_of_the_keypoint_set_is_in_it_and_not_its_file(
    people: Dataset, tmp_path: Path
) -> None:
    text = (files("distributed_pose.keypoints") / "coco_body.yaml").read_text()
    (tmp_path / "same.yaml").write_text(f"# My copy\n{text}")
    (tmp_path / "other.yaml").write_text(
        text.replace("left_ear: 0.034999999999999996", "left_ear: 1")
    )
    same, other = (
        of(people.config(keypoints=tmp_path / f"{name}.yaml")) for name in ("same", "other")
    )
    assert same == of(people.config())
    assert differing(same, other) == {"keypoints"}


def test_the_scales_are_in_it_in_their_order(people: Dataset) -> None:
    one, two, turned = (
        of(people.config(profile="upstream", gather="poses", scales=scales))
        for scales in ([1], [0.5, 1], [1, 0.5])
    )
    assert differing(one, two) == differing(two, turned) == {"scales"}
    assert two["scales"] == "[0.5, 1.0]"


def test_the_content_of_the_annotations_is_in_it_and_not_their_name(
    people: Dataset, tmp_path: Path
) -> None:
    model = {"backend": "onnxruntime", "model": {"path": save_constant_model(tmp_path / "m.onnx")}}
    copy = Dataset(people.images, tmp_path / "copy.json")
    shutil.copy(people.annotations, copy.annotations)
    before = of(copy.config(**model))
    assert before == of(people.config(**model))
    content = json.loads(people.annotations.read_text())
    content["annotations"][0]["area"] += 1
    copy.annotations.write_text(json.dumps(content))
    assert differing(of(copy.config(**model)), before) == {"data.annotations"}


def test_the_content_of_the_model_is_in_it_and_not_its_name(
    people: Dataset, tmp_path: Path
) -> None:
    paths = [
        save_constant_model(tmp_path / f"{number}.onnx", value)
        for number, value in enumerate((0.0, 0.0, 0.5))
    ]
    same, other_name, other = (
        of(people.config(backend="onnxruntime", model={"path": path})) for path in paths
    )
    assert same == other_name
    assert differing(same, other) == {"model"}


@pytest.mark.parametrize(
    ("path", "matters"),
    [
        ("pose/peaks.py", True),
        ("cluster/loop.py", True),
        ("engine/worker.py", True),
        ("metrics/coco_ap.py", True),
        ("records/images.py", True),
        ("pose/a_new_folder/peaks.py", True),
        ("a_new_room/source.py", True),
        ("report/tables.py", False),
        ("cli/main.py", False),
        ("demo/a_new_folder/source.py", False),
    ],
)
def test_the_code_that_decides_on_detections_is_in_it(
    path: str, *, matters: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "_PACKAGE", tmp_path)
    source = tmp_path / path
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text("SIZE = 1\n")
    before = fingerprinting._code_digest.__wrapped__()
    assert fingerprinting._code_digest.__wrapped__() == before
    source.write_text("SIZE = 2\n")
    assert (fingerprinting._code_digest.__wrapped__() != before) is matters


def test_the_code_that_is_left_out_is_not_used_by_workers_and_reducers() -> None:
    package = Path(distributed_pose.__file__).parent
    left_out = fingerprinting._WITHOUT_EFFECT
    assert all((package / room).is_dir() for room in left_out)
    # The flow of a run and its reports are the code that may import these rooms.
    others = {*left_out, "run", "evaluation.py", "compilation.py", "__init__.py", "__main__.py"}
    named = re.compile(rf"distributed_pose\.({'|'.join(left_out)})\b")
    counted = [
        path for path in package.rglob("*.py") if path.relative_to(package).parts[0] not in others
    ]
    assert len(counted) > 100
    assert [path for path in counted if named.search(path.read_text())] == []

"""Annotation files damaged at random, and as tools write them.

A run is right, or ends with one line that says why not.
"""

import gzip
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from distributed_pose import PoseEvalError, evaluate
from distributed_pose.data.coco import CocoIndex, load_index
from distributed_pose.metrics.coco_ap import coco_ap, coco_results
from distributed_pose.metrics.fast_ap import fast_ap
from tests.annotation_files import (
    HEIGHT,
    WIDTH,
    Content,
    files_of_tools,
    pycocotools_figures,
    skeleton,
    valid,
)
from tests.conftest import Dataset

Mutation = Callable[[st.DrawFn, Content], object]

# Every file in and around the folder that a name can refer to.
GOOD_NAMES = ("0.png", "1.png", "sub/ü.png", "inside.png", "./0.png", "sub//ü.png", "0.png/")
BAD_NAMES = ("nowhere.png", "outside.png", "sub", ".", "text.png", "é" * 200, "cut.png")
TRAVERSALS = ("../secret.png", "/etc/passwd", "sub/../../secret.png", "..\\secret.png", "C:0.png")


@dataclass
class Fuzzed:
    """A folder of images, and the outcomes of annotation files for it."""

    folder: Path
    outcomes: Counter[str]

    def run(self, content: bytes) -> None:
        """Evaluates one annotation file and checks the outcome."""
        dataset = Dataset(self.folder / "images", self.folder / "people.json")
        dataset.annotations.write_bytes(content)
        output = self.folder / "run"
        config = dataset.config(gather="poses", batch_size=2)
        report = refused = None
        try:
            report = evaluate(config, output, restart=True)
        except PoseEvalError as error:
            refused = str(error)
        if report is None:
            assert refused
            assert len(refused.splitlines()) == 1
            assert "people.json" in refused
            self.outcomes["refused"] += 1
            return
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        images = {image["id"]: image for image in json.loads(content)["images"]}
        assert not any(image["file_name"] in TRAVERSALS for image in images.values())
        detections = json.loads((output / "detections.json").read_bytes())
        failed = {failure.image_id: failure for failure in report.failures}
        assert report.num_images == len(images)
        assert failed.keys() == {number for number, image in images.items() if not usable(image)}
        assert all(failed[i].file_name == images[i]["file_name"] for i in failed)
        assert all(failure.reason for failure in report.failures)
        assert sum(device.images for device in report.devices) == len(images) - len(failed)
        assert len(report.failures) == len(failed)
        assert {row["image_id"] for row in detections} <= images.keys() - failed.keys()
        assert report.complete == (not failed)
        if failed:
            assert report.ap is None
        elif (expected := self.reference_ap(json.loads(content), report.data.category)) is not None:
            assert report.ap == expected
        assert all(-1 <= value <= 1 for value in (report.ap or {}).values())
        kind = "found somebody" if (report.ap or {}).get("AP", -1) > 0 else "complete"
        self.outcomes["incomplete" if failed else kind] += 1

    def reference_ap(self, truth: Content, category: object) -> dict[str, float] | None:
        """Returns the figures of pycocotools; None if it has none or is known to be wrong."""
        people = truth.get("annotations")
        if people is None:
            return None
        for number, one in enumerate(people, 1):
            one["id"] = number
            if any(type(one.get(key)) in (str, type(None)) for key in ("iscrowd", "num_keypoints")):
                return None
        detections = json.loads((self.folder / "run" / "detections.json").read_bytes())
        try:
            return pycocotools_figures(self.folder / "truth.json", truth, detections, category)
        except (KeyError, TypeError, ValueError, IndexError, ArithmeticError, RecursionError):
            return None


def usable(image: Content) -> bool:
    return image["file_name"] in GOOD_NAMES and (image["height"], image["width"]) == (HEIGHT, WIDTH)


@pytest.fixture
def fuzzed(tmp_path: Path) -> Fuzzed:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    picture = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    png = bytes(cv2.imencode(".png", picture)[1])
    for path in ("images/0.png", "images/1.png", "images/sub/ü.png", "secret.png"):
        (tmp_path / path).write_bytes(png)
    (folder / "text.png").write_text("no picture")
    (folder / "cut.png").write_bytes(png[:-30])
    (folder / "inside.png").symlink_to("sub/ü.png")
    (folder / "outside.png").symlink_to("../secret.png")
    return Fuzzed(tmp_path, Counter())


# All values of JSON, and some that only Python's JSON accepts.
STRANGE = st.one_of(
    st.sampled_from([None, True, False, [], {}, "", "1", "../x", "\ud800", "a\0b", -1, 0, 1, 2]),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e308, -1e308, 1e-320, 0.5, -0.0]),
    st.sampled_from([2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 10**400]),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(-3, 3), max_size=3),
)
# Numbers that an annotation file may contain, including senseless ones.
COORDINATES = st.one_of(
    st.integers(-200, 200), st.floats(-1e3, 1e3), st.sampled_from([1e9, -1e9, 2**31, 1e-300])
)
LARGE_COORDINATES = st.sampled_from(
    [1e38, 1e39, -1e39, 1e154, 1e300, -1.7e308, 2**63 - 1, -(2**62)]
)
AREAS = st.one_of(
    st.floats(0, 1e5), st.sampled_from([0, 32**2, 96**2, 1e10, 1e10 + 1, 1e-300, 1e300, 2**62])
)
IDS = st.one_of(st.integers(-9, 9), st.sampled_from([0, -(2**63) + 1, 2**63 - 1, 2**53 + 1]))
LISTS = st.sampled_from(["images", "annotations", "categories"])


def places(node: object) -> list[tuple[Any, Any]]:
    """Returns all containers of a tree, each with each of its keys."""
    if not isinstance(node, dict | list):
        return []
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    return [(node, key) for key in keys] + [p for key in keys for p in places(node[key])]


def replace(draw: st.DrawFn, content: Content) -> None:
    container, key = draw(st.sampled_from(places(content)))
    container[key] = draw(STRANGE)


def delete(draw: st.DrawFn, content: Content) -> None:
    container, key = draw(st.sampled_from(places(content)))
    del container[key]


def entry(draw: st.DrawFn, content: Content, name: str) -> Content:
    """Returns an entry of a list, or a new entry if other mutations removed all."""
    entries = content.get(name)
    good = [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
    return draw(st.sampled_from(good)) if good else {}


def duplicate(draw: st.DrawFn, content: Content) -> None:
    name = draw(LISTS)
    twin = {**entry(draw, content, name), **draw(st.sampled_from([{}, {"id": 77}]))}
    if isinstance(content.get(name), list):
        content[name].insert(draw(st.integers(0, 3)), twin)


def swap(draw: st.DrawFn, content: Content) -> None:
    name = draw(LISTS)
    one, other = entry(draw, content, name), entry(draw, content, name)
    key = draw(st.sampled_from([*one] or ["id"]))
    one[key], other[key] = other.get(key), one.get(key)


def rename_image(draw: st.DrawFn, content: Content) -> None:
    """Gives an image another id, with its people."""
    image, new = entry(draw, content, "images"), draw(IDS)
    old, image["id"] = image.get("id"), new
    for _ in range(4):
        someone = entry(draw, content, "annotations")
        someone.update({"image_id": new} if someone.get("image_id") == old else {})


def hide(draw: st.DrawFn, content: Content) -> None:
    someone = entry(draw, content, "annotations")
    visible = draw(st.lists(st.sampled_from([0, 1, 2]), min_size=17, max_size=17))
    keypoints = skeleton(30, 0)
    keypoints[2::3] = visible
    someone.update(keypoints=keypoints, num_keypoints=sum(v > 0 for v in visible))


def move(draw: st.DrawFn, content: Content) -> None:
    someone = entry(draw, content, "annotations")
    coordinates = draw(st.sampled_from([COORDINATES, COORDINATES, LARGE_COORDINATES]))
    keypoints = skeleton(0, 2)
    for _ in range(draw(st.integers(1, 3))):
        keypoints[draw(st.integers(0, 16)) * 3 + draw(st.integers(0, 1))] = draw(coordinates)
    box = draw(st.lists(coordinates, min_size=4, max_size=4))
    someone.update(keypoints=keypoints, num_keypoints=17)
    someone.update({"bbox": box} if draw(st.booleans()) else {})


def weigh(draw: st.DrawFn, content: Content) -> None:
    someone = entry(draw, content, "annotations")
    someone.update(area=draw(AREAS), iscrowd=draw(st.sampled_from([0, 0, 1])))


def resize(draw: st.DrawFn, content: Content) -> None:
    sizes = st.sampled_from([1, 59, 60, 104, 2**13, 2**30, 2**31 - 1])
    entry(draw, content, "images").update({draw(st.sampled_from(["height", "width"])): draw(sizes)})


def lead_elsewhere(draw: st.DrawFn, content: Content) -> None:
    names = st.sampled_from([*GOOD_NAMES, *BAD_NAMES, *TRAVERSALS])
    entry(draw, content, "images")["file_name"] = draw(names)


def nest(draw: st.DrawFn, content: Content) -> None:
    value: object = 1
    in_lists = draw(st.booleans())
    for _ in range(draw(st.sampled_from([3, 60, 99, 150, 450, 900]))):
        value = [value] if in_lists else {"a": value}
    where = draw(st.sampled_from([content, entry(draw, content, draw(LISTS))]))
    where[draw(st.sampled_from(["info", "extra", "segmentation", "name", "id"]))] = value


VALID = (hide, move, weigh, resize, lead_elsewhere, rename_image)
ANY: tuple[Mutation, ...] = (*VALID, *VALID, *VALID, replace, delete, duplicate, swap, nest)
ENCODINGS = ["utf-8"] * 30 + ["utf-8-sig", "utf-16", "utf-32-le"]


@st.composite
def annotation_files(draw: st.DrawFn) -> bytes:
    content = valid()
    for mutate in draw(st.lists(st.sampled_from(ANY), min_size=1, max_size=3)):
        mutate(draw, content)
    file = json.dumps(content).encode(draw(st.sampled_from(ENCODINGS)))
    file = gzip.compress(file) if draw(st.integers(0, 30)) == 0 else file
    damage = draw(st.sampled_from(["none"] * 30 + ["cut", "flip", "insert"]))
    at = draw(st.integers(0, len(file) - 1)) if damage != "none" else 0
    if damage == "cut":
        return file[:at]
    if damage == "flip":
        return file[:at] + bytes([file[at] ^ draw(st.integers(1, 255))]) + file[at + 1 :]
    if damage == "insert":
        return file[:at] + draw(st.binary(min_size=1, max_size=4)) + file[at:]
    return file


OUTCOMES = ("refused", "incomplete", "found somebody")


def fuzz(fuzzed: Fuzzed, examples: int) -> None:
    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(content=annotation_files())
    def run(content: bytes) -> None:
        fuzzed.run(content)

    run()
    # Each outcome is frequent enough for the other checks to be meaningful.
    assert min(fuzzed.outcomes[kind] for kind in OUTCOMES) > examples / 50, fuzzed.outcomes


# The report of a failing example is long but useful.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")


def test_the_annotation_file_that_is_damaged_is_good_itself(fuzzed: Fuzzed) -> None:
    fuzzed.run(json.dumps(valid()).encode())
    assert fuzzed.outcomes == {"found somebody": 1}


@pytest.mark.parametrize("depth", [90, 450, 100_000])
@pytest.mark.parametrize("key", ["info", "categories"])
def test_an_annotation_file_is_nested_as_deep_as_its_parser_can_take(
    fuzzed: Fuzzed, key: str, depth: int
) -> None:
    # Written by hand, because the fuzzer gives Python a larger stack.
    nested = b"[" * depth + b"1" + b"]" * depth
    where = b'"info": ' if key == "info" else b'"skeleton": '
    content = json.dumps(valid()).encode()
    fuzzed.run(content.replace(where, where + nested + b', "old": '))
    assert fuzzed.outcomes == {"found somebody" if depth < 1000 else "refused": 1}


def test_a_damaged_annotation_file_gives_a_right_run_or_a_clean_error(fuzzed: Fuzzed) -> None:
    fuzz(fuzzed, 100)


@pytest.mark.slow
def test_thousands_of_damaged_annotation_files_give_a_right_run_or_a_clean_error(
    fuzzed: Fuzzed,
) -> None:
    fuzz(fuzzed, 2000)


def found_by_a_model(index: CocoIndex, seed: int) -> list[Content]:
    """Returns detections near the people of an index, some of them twice, and elsewhere."""
    rng = np.random.default_rng(seed)
    rows = []
    for one in [*index.ground_truth["annotations"]] * 2:
        keypoints = np.array(one["keypoints"], np.float64).reshape(17, 3)
        keypoints[:, :2] += rng.normal(0, rng.choice([0, 2, 6, 40]), (17, 2))
        keypoints[:, 2] = rng.integers(0, 2, 17)
        # Few scores, so that some are tied.
        score = float(rng.integers(1, 6))
        rows.append(
            {"image_id": one["image_id"], "score": score, "keypoints": keypoints.ravel().tolist()}
        )
    return coco_results(row for row in rows if rng.random() < 0.8)


def score_files(folder: Path, examples: int) -> None:
    """Compares figures of files as tools write them with pycocotools, under the ids of the file."""
    telling = Counter[bool]()

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(drawn=files_of_tools(), seed=st.integers(0, 2**32))
    def run(drawn: tuple[bytes, Content], seed: int) -> None:
        content, plain = drawn
        path = folder / "people.json"
        path.write_bytes(content)
        index = load_index(path)
        detections = found_by_a_model(index, seed)
        image_ids = [image.image_id for image in index.images]
        figures = coco_ap(index.ground_truth, detections, image_ids)
        assert fast_ap(index.people, detections, image_ids) == figures
        listed = [*index.as_listed(detections)]
        expected = pycocotools_figures(folder / "plain.json", plain, listed, index.category_id)
        assert figures == expected
        telling[0 < figures["AP"] < 1] += 1

    run()
    assert telling[True] > examples / 2, telling


def test_files_as_tools_write_them_have_the_figures_of_pycocotools(tmp_path: Path) -> None:
    score_files(tmp_path, 300)


@pytest.mark.slow
def test_thousands_of_files_of_tools_have_the_figures_of_pycocotools(tmp_path: Path) -> None:
    score_files(tmp_path, 3000)

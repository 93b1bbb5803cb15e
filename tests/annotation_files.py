"""COCO keypoint files for tests: a valid one, the variants that tools write, and pycocotools."""

import contextlib
import copy
import gzip
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from distributed_pose.keypoints.reading import coco_body
from distributed_pose.metrics.coco_ap import FIGURES

COCO_KEYPOINTS = coco_body().dataset_keypoints

Content = dict[str, Any]

# Changes a file and, in the same way, the file that pycocotools gets in its place if pycocotools
# cannot read the first, or reads it incorrectly.
Trait = Callable[[st.DrawFn, Content, Content], object]

HEIGHT, WIDTH = 60, 104


def skeleton(left: int, visibility: int) -> list[float]:
    """Returns the keypoints of a person, well apart on a spiral of 17 steps."""
    points = [
        [left + 20 + (9 + n) * math.cos(n * 0.9), 30 + (9 + n) * math.sin(n * 0.9), visibility]
        for n in range(17)
    ]
    return [value for point in points for value in point]


def person(number: int, image_id: object, **values: object) -> Content:
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "num_keypoints": 17,
        "keypoints": skeleton(30 * (number % 2), 2),
        "bbox": [2.0, 3.0, 50.0, 52.0],
        "area": 2000.0,
        "segmentation": [[2, 3, 52, 3, 52, 55]],
        **values,
    }


def valid() -> Content:
    crowd = {"iscrowd": 1, "num_keypoints": 0, "keypoints": [0] * 51}
    return {
        "info": {"year": 2017},
        "images": [
            {"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH}
            for number, name in ((5, "0.png"), (3, "1.png"), (9, "sub/ü.png"))
        ],
        "annotations": [person(1, 5), person(2, 5), person(4, 9), person(7, 9, **crowd)],
        "categories": [
            {"id": 1, "name": "person", "keypoints": list(COCO_KEYPOINTS), "skeleton": [[16, 14]]},
            {"id": 18, "name": "dog"},
        ],
    }


def pycocotools_figures(
    path: Path, truth: Content, detections: Sequence[Content], category: object
) -> dict[str, float]:
    """Returns the figures of pycocotools for files, which it reads only in UTF-8."""
    path.write_text(json.dumps(truth))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(path)
        found = coco.loadRes([*detections]) if detections else COCO()
        evaluation = COCOeval(coco, found, "keypoints")
        evaluation.params.catIds = [category]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(FIGURES, map(float, evaluation.stats), strict=True))


def someone(draw: st.DrawFn, *files: Content) -> tuple[Content, ...]:
    """Returns the same person of both files; earlier changes may have removed a field from one."""
    index = draw(st.integers(0, len(valid()["annotations"]) - 1))
    return tuple(content["annotations"][index] for content in files)


def respell(draw: st.DrawFn, one: Content, key: str, values: Sequence[object]) -> None:
    """Replaces a value by a spelling of tools; `LEFT_OUT` removes it."""
    value = draw(st.sampled_from(values))
    if value is LEFT_OUT:
        one.pop(key, None)
    else:
        one[key] = value


LEFT_OUT = object()


def annotation_ids(draw: st.DrawFn, file: Content, _plain: Content) -> None:
    spelled: Sequence[Callable[[int], object]] = (
        lambda n: n,
        lambda n: n // 2,
        lambda n: f"a{n}",
        str,
        lambda n: -n,
        lambda _: None,
        lambda n: 2**63 + n,
        lambda n: n + 0.5,
    )
    spell = draw(st.sampled_from(spelled))
    for number, one in enumerate(file["annotations"]):
        one["id"] = spell(number)
    if draw(st.booleans()):
        someone(draw, file)[0].pop("id")


def crowd_flag(draw: st.DrawFn, file: Content, plain: Content) -> None:
    one, other = someone(draw, file, plain)
    if draw(st.booleans()):
        other["iscrowd"] = 1
        respell(draw, one, "iscrowd", [1, True, 1.0, "1", "true", 2])
    else:
        other["iscrowd"] = 0
        respell(draw, one, "iscrowd", [0, False, 0.0, "0", "False", None, LEFT_OUT])


def keypoint_count(draw: st.DrawFn, file: Content, plain: Content) -> None:
    one, other = someone(draw, file, plain)
    count = sum(value > 0 for value in other["keypoints"][2::3])
    other["num_keypoints"] = count
    respell(draw, one, "num_keypoints", [count, float(count), str(count), None, LEFT_OUT])
    if one.get("keypoints") is not None and draw(st.booleans()):
        # The number is wrong, and pycocotools only checks whether it is 0.
        one["num_keypoints"] = other["num_keypoints"] = draw(st.sampled_from([0, 1, 17, True, 99]))


def unlabelled(draw: st.DrawFn, file: Content, plain: Content) -> None:
    one, other = someone(draw, file, plain)
    other.update(num_keypoints=0, keypoints=[0] * 51)
    one["bbox"] = other["bbox"]
    respell(draw, one, "keypoints", [[], None, LEFT_OUT, [0] * 51, [0] * 54, [0.0], [None] * 51])
    respell(draw, one, "num_keypoints", [0, 0.0, False, None, LEFT_OUT])


def point_form(draw: st.DrawFn, file: Content, plain: Content) -> None:
    one, other = someone(draw, file, plain)
    values = list(other["keypoints"])
    hidden = draw(st.lists(st.integers(0, 16), max_size=5, unique=True))
    place = draw(st.sampled_from([0, None, math.nan, math.inf]))
    own = list(values)
    for point in hidden:
        values[3 * point : 3 * point + 3] = 0, 0, 0
        own[3 * point : 3 * point + 3] = place, place, 0
    other["keypoints"], one["keypoints"] = values, own
    count = sum(value > 0 for value in values[2::3])
    one["num_keypoints"] = other["num_keypoints"] = count
    if draw(st.booleans()):
        one["keypoints"] = [own[at : at + 3] for at in range(0, 51, 3)]


def visibility(draw: st.DrawFn, file: Content, plain: Content) -> None:
    seen = draw(st.lists(st.sampled_from([0, 1, 2, 3, 0.5, -1, True]), min_size=17, max_size=17))
    for one in someone(draw, file, plain):
        values = skeleton(30, 0)
        values[2::3] = seen
        one.update(keypoints=values, num_keypoints=sum(value > 0 for value in seen))


def unlisted_image(draw: st.DrawFn, file: Content, plain: Content) -> None:
    listed = file["images"][0]["id"]
    stranger = "none" if isinstance(listed, str) else draw(st.sampled_from([777, -1, 2**40]))
    for content in (file, plain):
        category = content["categories"][0]["id"]
        content["annotations"].append(person(90, stranger, category_id=category))


def fewer_images(_draw: st.DrawFn, file: Content, plain: Content) -> None:
    for content in (file, plain):
        content["images"] = content["images"][:2]


def image_ids(draw: st.DrawFn, file: Content, plain: Content) -> None:
    spelled: Sequence[Callable[[int], object]] = (
        lambda n: -n,
        lambda n: 2**62 + n,
        lambda n: n - 2**63,
        lambda n: 2**63 + n,
        lambda n: f"{n:04d}",
        lambda n: f"image {n}",
        lambda n: n + 0.5,
        float,
    )
    spell = draw(st.sampled_from(spelled))
    for content in (file, plain):
        listed = [image["id"] for image in content["images"]]
        if any(type(one) is not int or abs(one) > 999 for one in listed):
            return
    for content in (file, plain):
        for image in content["images"]:
            image["id"] = spell(image["id"])
        for one in content["annotations"]:
            one["image_id"] = spell(one["image_id"])


def image_entries(draw: st.DrawFn, file: Content, _plain: Content) -> None:
    image = file["images"][0]
    respell(draw, image, "height", [HEIGHT, float(HEIGHT), str(HEIGHT), f"{HEIGHT}.0"])
    respell(draw, image, "file_name", ["0.png", "1.png", ".\\0.png", "./0.png"])
    if draw(st.booleans()):
        file["images"].append(dict(image))


def category_id(draw: st.DrawFn, file: Content, plain: Content) -> None:
    person_id, dog_id = draw(st.sampled_from([(0, 18), (-1, 0), (10**6, 18), ("person", "dog")]))
    for content in (file, plain):
        categories = content["categories"]
        new = {categories[0]["id"]: person_id, categories[1]["id"]: dog_id}
        for category in categories:
            category["id"] = new[category["id"]]
        for one in content["annotations"]:
            one["category_id"] = new[one["category_id"]]
    if draw(st.booleans()):
        for one in file["annotations"]:
            one["category_id"] = str(one["category_id"])


def category_names(draw: st.DrawFn, file: Content, _plain: Content) -> None:
    spelled: Sequence[Callable[[str], str]] = (
        str.upper,
        lambda name: name.replace("_", "-"),
        lambda name: name.title().replace("_", " "),
        lambda name: name.title().replace("_", ""),
    )
    spell = draw(st.sampled_from(spelled))
    respell(draw, file["categories"][0], "keypoints", [[*map(spell, COCO_KEYPOINTS)], [], LEFT_OUT])


def other_category(_draw: st.DrawFn, file: Content, plain: Content) -> None:
    for content in (file, plain):
        image, category = content["images"][0], content["categories"][1]
        entry = {"id": 18, "image_id": image["id"], "category_id": category["id"]}
        content["annotations"].append({**entry, "bbox": [1, 2]})


def unread(draw: st.DrawFn, file: Content, plain: Content) -> None:
    """Changes fields of a person with labelled keypoints that COCOeval does not read."""
    one, other = someone(draw, file, plain)
    odd = [LEFT_OUT, None, [], "none", {"counts": [1], "size": [2, 3]}, [[[1]]]]
    respell(draw, one, "segmentation", odd)
    one["ignore"] = other["ignore"] = draw(st.sampled_from([0, 1, True]))
    if any(value > 0 for value in other["keypoints"][2::3]):
        respell(
            draw, one, "bbox", [LEFT_OUT, None, [1, 2], "1 2 3 4", [math.nan] * 4, [10**400] * 4]
        )


def area(draw: st.DrawFn, file: Content, plain: Content) -> None:
    one, other = someone(draw, file, plain)
    value = draw(st.sampled_from([0, 1e-300, 5, 32**2, 1024.5, 96**2, 1e10, 1e10 + 1, 2**62]))
    other["area"] = value
    one["area"] = draw(st.sampled_from([value, repr(value)]))


TRAITS: tuple[Trait, ...] = (
    annotation_ids,
    crowd_flag,
    keypoint_count,
    unlabelled,
    point_form,
    visibility,
    unlisted_image,
    fewer_images,
    image_ids,
    image_entries,
    category_id,
    category_names,
    other_category,
    unread,
    area,
)


def encoded(draw: st.DrawFn, content: Content) -> bytes:
    """Returns a file in a form of tools; the last of equal keys counts."""
    text = json.dumps(content, ensure_ascii=draw(st.booleans()))
    if draw(st.booleans()):
        text = text.replace("{", '{"images": [], "id": 5, ', 1)
    data = text.encode(
        draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32-le"]))
    )
    return gzip.compress(data, 1) if draw(st.booleans()) else data


@st.composite
def files_of_tools(draw: st.DrawFn) -> tuple[bytes, Content]:
    """Draws a file as tools write them, and the file for pycocotools in its place."""
    file = valid()
    file["annotations"] += [person(8, 3, area=500.0), person(11, 3, area=12000.0)]
    plain = copy.deepcopy(file)
    for trait in draw(st.lists(st.sampled_from(TRAITS), max_size=5, unique=True)):
        trait(draw, file, plain)
    for number, one in enumerate(plain["annotations"], 1):
        one["id"] = number
    return encoded(draw, file), plain

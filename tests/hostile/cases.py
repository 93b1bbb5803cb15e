"""What a hostile case is, and how valid files are damaged."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from distributed_pose.keypoints.reading import coco_body
from tests.image_files import encode, picture

COCO_KEYPOINTS = coco_body().dataset_keypoints

# Names that a terminal, a shell or a path would interpret.
HOSTILE_NAMES = (
    "\x1b[2J\x1b]0;title\a.png",
    "a\u202egnp.exe",
    "a\nerror: b",
    "[red]a[bold]",
    "%s%n",
    "-rf",
    "a\rb\x9b31m\x7f",
    "x" * 250,
    "图 🏃.png",
)

SIZE = 48, 64


@dataclass(frozen=True)
class Case:
    """A command, and hostile files to run it on.

    Attributes:
        kind: kind of the files.
        name: name of the fault.
        write: function that writes the files to a folder and returns the arguments of the command.
    """

    kind: str
    name: str
    write: Callable[[Path, Random], Sequence[str]]


def damaged(content: bytes, random: Random) -> bytes:
    """Returns a valid file with one to three kinds of damage."""
    for _ in range(random.randint(1, 3)):
        content = random.choice(_DAMAGES)(content, random)
    return content


def _flip(content: bytes, random: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(random.choice((1, 4, 64))):
        if changed:
            changed[_place(content, random)] ^= 1 << random.randrange(8)
    return bytes(changed)


def _cut(content: bytes, random: Random) -> bytes:
    return content[: _place(content, random)]


def _splice(content: bytes, random: Random) -> bytes:
    start, end = sorted((_place(content, random), _place(content, random)))
    at = _place(content, random)
    return content[:at] + content[start : min(end, start + 4096)] + content[at:]


def _leave_out(content: bytes, random: Random) -> bytes:
    start = _place(content, random)
    return content[:start] + content[start + random.choice((1, 8, 100, 5000)) :]


def _lie(content: bytes, random: Random) -> bytes:
    """Returns the content with one number replaced by a large one."""
    size, order = random.choice((1, 2, 4, 8)), random.choice(("little", "big"))
    value = random.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**40, 2**62, 2**64 - 1, 65535, 30000))
    at = _place(content, random)
    number = (value % 2 ** (8 * size)).to_bytes(size, "big" if order == "big" else "little")
    return content[:at] + number + content[at + size :]


def _fill(content: bytes, random: Random) -> bytes:
    start, length = _place(content, random), random.choice((1, 16, 1000))
    return (
        content[:start] + random.choice((b"\0", b"\xff", b"A")) * length + content[start + length :]
    )


def _place(content: bytes, random: Random) -> int:
    # Headers and footers are short but have most of the effect.
    near = min(len(content), random.choice((32, 300, len(content) or 1)))
    place = random.randrange(near) if near else 0
    return len(content) - 1 - place if near and random.random() < 0.3 else place


_DAMAGES = (_flip, _cut, _splice, _leave_out, _lie, _fill)


def write_dataset(
    folder: Path, images: Mapping[str, bytes], size: tuple[int, int] = SIZE
) -> list[str]:
    """Returns the settings of a run with the oracle on images and one good one beside them."""
    (folder / "images").mkdir()
    for name, content in images.items():
        (folder / "images" / name).write_bytes(content)
    (folder / "images" / "good.png").write_bytes(encode(".png", picture(*SIZE)))
    sizes = {**dict.fromkeys(images, size), "good.png": SIZE}
    (folder / "labels.json").write_text(json.dumps(annotations(sizes)))
    return dataset_settings("images")


def dataset_settings(images: str, **values: str) -> list[str]:
    keys = {
        "data.images": f"in/{images}",
        "data.annotations": "in/labels.json",
        "engine": "inline",
        "backend": "oracle",
        "batch_size": "1",
        **values,
    }
    settings = [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]
    return ["evaluate", *settings, "--output", "out/run"]


def annotations(sizes: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Returns COCO annotations of images by name, with a person in each."""
    images = [
        {"id": number, "file_name": name, "height": height, "width": width}
        for number, (name, (height, width)) in enumerate(sizes.items(), 1)
    ]
    keypoints = [value for n in range(17) for value in (5 + 2 * n, 5 + 2 * (n % 7), 2)]
    people = [
        {
            "id": image["id"],
            "image_id": image["id"],
            "category_id": 1,
            "iscrowd": 0,
            "num_keypoints": 17,
            "keypoints": keypoints,
            "bbox": [0, 0, 40, 40],
            "area": 1600,
        }
        for image in images
    ]
    categories = [{"id": 1, "name": "person", "keypoints": list(COCO_KEYPOINTS)}]
    return {"images": images, "annotations": people, "categories": categories}

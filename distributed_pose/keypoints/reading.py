"""Reads keypoint sets from YAML files; the body of COCO is one of them.

Source: the numbering of the built-in set is that of the published Lightweight OpenPose checkpoint,
which is OpenPose's COCO model.
"""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from distributed_pose.errors import ConfigError
from distributed_pose.files.local import one_line, read_regular
from distributed_pose.files.yaml_values import parse_yaml
from distributed_pose.keypoints.sets import KeypointSet, Limb

_MAX_FILE_BYTES = 2**18
_MAX_KEYPOINTS = 256

# Names are parts of messages, which have one line.
_Name = Annotated[str, Field(max_length=100, pattern=r"^[^\p{C}\p{Zl}\p{Zp}]+$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Limb(_Section):
    start: _Name = Field(alias="from")
    end: _Name = Field(alias="to")
    paf: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]
    fills: bool = False


class _File(_Section):
    name: _Name
    keypoints: Annotated[list[_Name], Field(min_length=2, max_length=_MAX_KEYPOINTS)]
    dataset: Annotated[dict[_Name, Annotated[float, Field(gt=0, le=10)]], Field(min_length=1)]
    derived: dict[_Name, Annotated[list[_Name], Field(min_length=1)]] = {}
    limbs: Annotated[list[_Limb], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        for check in (_check_names, _check_channels, _check_tree):
            if reason := check(self):
                raise ValueError(reason)
        return self


def read_keypoint_set(path: Path) -> KeypointSet:
    """Returns the keypoint set of a YAML file.

    Raises:
        ConfigError: if the file cannot be read, or its keypoints and limbs do not fit together.
    """
    try:
        text = read_regular(path, _MAX_FILE_BYTES).decode()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"keypoints: cannot read {path}: {one_line(error)}",
            "name a YAML file of a keypoint set",
        ) from None
    return _parsed(text, str(path))


@cache
def coco_body() -> KeypointSet:
    """Returns the set of COCO's 17 keypoints and the neck."""
    return _parsed((files("distributed_pose.keypoints") / "coco_body.yaml").read_text(), "")


def check_keypoint_set(keypoints: KeypointSet) -> None:
    """Checks a set that another program may have written as a file of one is checked.

    Raises:
        ValueError: if its keypoints and limbs do not fit together.
    """
    try:
        names = dict(enumerate(keypoints.keypoints))
        limbs = [
            {"from": names[a], "to": names[b], "paf": [x, y], "fills": fills}
            for a, b, x, y, fills in keypoints.limbs
        ]
        dataset = zip(keypoints.dataset_keypoints, keypoints.sigmas, strict=True)
        values = {
            "name": keypoints.name,
            "keypoints": [*keypoints.keypoints],
            "dataset": dict(dataset),
            "derived": {name: [*sources] for name, sources in keypoints.derived},
            "limbs": limbs,
        }
        same = _keypoint_set(_File.model_validate(values)) == keypoints
    except (KeyError, ValueError):
        same = False
    if not same:
        raise ValueError("keypoints: names, limbs and sigmas do not fit together")


def _parsed(text: str, name: str) -> KeypointSet:
    try:
        found = _File.model_validate(parse_yaml(text))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"keypoints: {name}: {where and where + ': '}{message}") from None
    except ValueError as error:
        raise ConfigError(f"keypoints: {name} is not YAML: {one_line(error)}") from None
    return _keypoint_set(found)


def _keypoint_set(found: _File) -> KeypointSet:
    number = _numbers(found)
    limbs = (
        Limb(number[limb.start], number[limb.end], limb.paf[0], limb.paf[1], limb.fills)
        for limb in found.limbs
    )
    return KeypointSet(
        name=found.name,
        keypoints=tuple(found.keypoints),
        dataset_keypoints=tuple(found.dataset),
        sigmas=tuple(found.dataset.values()),
        derived=tuple((name, tuple(sources)) for name, sources in found.derived.items()),
        limbs=tuple(limbs),
    )


def _numbers(found: _File) -> Mapping[str, int]:
    return {name: number for number, name in enumerate(found.keypoints)}


def _check_names(found: _File) -> str:
    """Returns why names do not fit together; empty if they do."""
    names = _numbers(found)
    if len(names) < len(found.keypoints):
        return "keypoints: a name occurs twice"
    for name in found.dataset:
        if name not in names:
            return f"dataset: {name} is none of the keypoints"
    for name, sources in found.derived.items():
        if name not in names or name in found.dataset:
            return f"derived: {name} must be one of the keypoints, and not one of the dataset"
        if unknown := [source for source in sources if source not in found.dataset]:
            return f"derived.{name}: {unknown[0]} is none of the dataset's keypoints"
    for name in found.keypoints:
        if name not in found.dataset and name not in found.derived:
            return f"keypoints: {name} is neither in the dataset nor derived"
    return ""


def _check_channels(found: _File) -> str:
    """Returns why the PAF channels are not 0, 1 and so on, each once; empty if they are."""
    channels = sorted(channel for limb in found.limbs for channel in limb.paf)
    if channels == [*range(2 * len(found.limbs))]:
        return ""
    return f"limbs: {len(found.limbs)} limbs must have the PAF channels 0 to {len(channels) - 1}"


def _check_tree(found: _File) -> str:
    """Returns why people cannot be assembled from the limbs in their order; empty if they can.

    A keypoint is then given to one person only, as the decoder expects.
    """
    reached = {found.limbs[0].start}
    for limb in found.limbs:
        title = f"limbs: {limb.start} to {limb.end}"
        if unknown := [name for name in (limb.start, limb.end) if name not in found.keypoints]:
            return f"{title}: {unknown[0]} is none of the keypoints"
        if limb.start == limb.end:
            return f"{title}: a limb must connect two keypoints"
        if limb.start not in reached or (limb.end in reached) != limb.fills:
            return (
                f"{title}: a limb must begin at a keypoint that an earlier limb has reached, and "
                "end at a new one; a limb between two reached keypoints needs fills: true"
            )
        reached.add(limb.end)
    if missing := [name for name in found.keypoints if name not in reached]:
        return f"limbs: no limb reaches {missing[0]}"
    return ""

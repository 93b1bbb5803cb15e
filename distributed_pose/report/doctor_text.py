"""Renders the output of `doctor`: a line for each backend of each device, in 80 columns."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from distributed_pose.backends.readiness import DeviceSurvey, Readiness, Survey
from distributed_pose.backends.registry import entry
from distributed_pose.devices.kinds import CPU
from distributed_pose.devices.lacks import Lack

_WIDTH = 80
_NAME_WIDTH = 21
_DEVICES_SHOWN = 4


class _Notes:
    """Numbers the fixes for missing components, in order of their first use."""

    def __init__(self) -> None:
        self._lacks: dict[str, dict[Lack, None]] = {}

    def number(self, lack: Lack) -> int:
        self._lacks.setdefault(lack.remedy, {})[lack] = None
        return [*self._lacks].index(lack.remedy) + 1

    def lines(self) -> Iterator[str]:
        for number, (remedy, lacks) in enumerate(self._lacks.items(), 1):
            mark = f"[{number}]"
            what = ", ".join(map(str, lacks))
            yield from _wrapped(f"{mark} {what}:", " " * (len(mark) + 1))
            yield from _wrapped(remedy, "      ", is_indented=True)


def doctor_lines(survey: Survey, features: Mapping[str, Sequence[Lack]]) -> Iterator[str]:
    """Yields the lines of a survey: devices, features of this machine, and fixes.

    Args:
        survey: survey of this machine or of a cluster.
        features: missing components of each feature that is not a backend, by name of the feature;
            empty for a feature that is ready.
    """
    notes = _Notes()
    for devices in _equal_devices(survey.devices):
        yield from _wrapped(_heading(devices), "  ")
        for ready in devices[0].backends:
            yield _backend_line(ready, devices[0].takes, survey.model_format, notes)
    for node in survey.nodes:
        if node.lacks:
            yield f"node {node.address}" if node.address else "this machine"
            yield from (
                _line("", f"lacks {lack.what} [{notes.number(lack)}]") for lack in node.lacks
            )
    yield "also on this machine"
    for name, lacks in features.items():
        yield _line(name, _lacking(lacks, notes) if lacks else "ready")
    yield from notes.lines()
    yield from _wrapped(_verdict(survey), "")


def doctor_record(survey: Survey, features: Mapping[str, Sequence[Lack]]) -> dict[str, Any]:
    """Returns a survey and the features in plain values, as `--json` prints them.

    Args:
        survey: survey of this machine or of a cluster.
        features: missing components of each feature that is not a backend, by name of the feature.
    """
    return {
        "ready": survey.is_ready,
        "devices": [_device_record(device, survey.model_format) for device in survey.devices],
        "nodes": {node.address: _plain(node.lacks) for node in survey.nodes},
        "features": {name: _plain(lacks) for name, lacks in features.items()},
    }


def _device_record(device: DeviceSurvey, model_format: str) -> dict[str, Any]:
    return {
        "name": device.plan.name,
        "kind": device.plan.kind,
        "model": device.plan.model,
        "node": device.plan.node,
        "physical_id": device.plan.device_id,
        "takes": device.takes or None,
        "spare": device.is_spare,
        "backends": {
            ready.backend: _plain(ready.missing(model_format)) for ready in device.backends
        },
    }


def _plain(lacks: Iterable[Lack]) -> list[dict[str, str]]:
    return [lack._asdict() for lack in lacks]


def _equal_devices(devices: Sequence[DeviceSurvey]) -> Iterator[list[DeviceSurvey]]:
    """Yields groups of successive devices that have the same node, kind and survey results."""
    yield from (list(found) for _, found in groupby(devices, _equality_key))


def _equality_key(device: DeviceSurvey) -> tuple[object, ...]:
    plan = device.plan
    return plan.kind, plan.node_id, plan.model, device.backends, device.takes, device.is_spare


def _heading(devices: Sequence[DeviceSurvey]) -> str:
    plan = devices[0].plan
    names = [device.plan.name for device in devices]
    hidden = len(names) - _DEVICES_SHOWN
    more = f" and {hidden} more" if hidden > 0 else ""
    what = plan.model or ("processor" if plan.kind == CPU else "of unknown name")
    where = f"node {plan.node}" if plan.node else "this machine"
    spare = ", used only without an accelerator" if devices[0].is_spare else ""
    return f"{', '.join(names[:_DEVICES_SHOWN])}{more}: {what}, {where}{spare}"


def _backend_line(ready: Readiness, used: str, model_format: str, notes: _Notes) -> str:
    if missing := ready.missing(model_format):
        return _line(ready.backend, _lacking(missing, notes))
    formats = entry(ready.backend).model_formats
    note = "" if "onnx" in formats else ", for checkpoints (.pth) alone"
    if ready.backend == used:
        return _line(ready.backend, f"ready, used{note}", mark="*")
    return _line(ready.backend, f"ready{note}")


def _line(name: str, text: str, mark: str = " ") -> str:
    return f" {mark} {name:<{_NAME_WIDTH}}{text}"


def _lacking(lacks: Sequence[Lack], notes: _Notes) -> str:
    """Returns the missing components with the numbers of their notes, as far as they fit.

    Components that do not fit on the line are shown by their numbers alone.
    """
    numbers = [f"[{notes.number(lack)}]" for lack in lacks]
    room = _WIDTH - _NAME_WIDTH - len(" * lacks ")
    for named in range(len(lacks), 0, -1):
        parts = [
            f"{lack.what} {number}" for lack, number in zip(lacks[:named], numbers, strict=False)
        ]
        text = ", ".join(dict.fromkeys((*parts, *_others(numbers, named))))
        if len(text) <= room:
            return f"lacks {text}"
    return f"lacks {', '.join(dict.fromkeys(numbers))}"


def _others(numbers: Sequence[str], named: int) -> list[str]:
    """Returns the numbers from a position on that do not occur before it."""
    return [number for number in numbers[named:] if number not in numbers[:named]]


def _verdict(survey: Survey) -> str:
    if not survey.used:
        return "There is no device that the configured backend runs on."
    ready = sum(bool(device.takes) for device in survey.used)
    count = f"{ready} of {len(survey.used)} devices can run a model."
    lacking = any(node.lacks for node in survey.nodes)
    return f"{count} A card has no driver, or a node did not answer." if lacking else count


def _wrapped(text: str, indent: str, *, is_indented: bool = False) -> list[str]:
    first = indent if is_indented else ""
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )

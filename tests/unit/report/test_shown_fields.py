"""Each field of a report is shown in the tables or on the page, or listed as JSON alone."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest
from rich.console import Console

from distributed_pose.keypoints.reading import coco_body
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.locations import Location
from distributed_pose.report.page import run_page
from distributed_pose.report.run_report import RunReport
from distributed_pose.report.stored_run import StoredRun
from distributed_pose.report.tables import run_tables

# Keys that tables and page look up in mappings.
KEYS = ("AP", "AR", "total", "compute")

# Fields that only report.json has. A field that is new is shown, or its name is added here.
JSON_ONLY = {
    "damaged.image_id",
    "data.category",
    "data.repeat",
    "devices.id",
    "devices.kind",
    # The page names the host.
    "devices.node",
    "devices.physical_id",
    "devices.threads",
    "failures_allowed",
    "host_use.cores",
    "host_use.cpu_s",
    "host_use.images",
    "host_use.object_store_bytes",
    "memory.peak_object_store_bytes",
    "model.refinement_stages",
    "model.unused",
    "report_format",
    "stages.max_ns",
    "stages.min_ns",
    "throughput.straggler_share",
}


def sample(kind: Any) -> Any:
    """Returns a value of a type, in which every mapping and sequence has an element."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in {Annotated, Union, UnionType}:
        return sample(arguments[0])
    if origin is tuple:
        return (sample(arguments[0]),)
    if origin is not None:
        return dict.fromkeys(KEYS, sample(arguments[1]))
    if kind is KeypointSet:
        return coco_body()
    if isinstance(kind, type) and is_dataclass(kind):
        return kind(**{name: sample(hint) for name, hint in get_type_hints(kind).items()})
    # A text may have to be a key of a mapping, as the names of excluded devices are.
    return {str: KEYS[0], int: 3, float: 0.25, bool: False}[kind]


def changes(value: Any) -> Iterator[tuple[str, Any]]:
    """Yields the path of each field in a value, and the value with only this field changed."""
    if is_dataclass(value) and not isinstance(value, KeypointSet):
        for field in fields(value):
            for path, changed in changes(getattr(value, field.name)):
                whole: Any = replace(value, **{field.name: changed})  # type: ignore[type-var]
                yield f"{field.name}.{path}".rstrip("."), whole
    elif isinstance(value, tuple):
        for path, changed in changes(value[0]) if value else ():
            yield path, (changed,)
    elif isinstance(value, Mapping):
        for path, changed in changes(value[KEYS[0]]):
            yield path, dict.fromkeys(value, changed)
    elif value is not None:
        yield "", changed_leaf(value)


def changed_leaf(value: Any) -> Any:
    if isinstance(value, KeypointSet):
        # A set is shown by its name.
        return replace(value, name="changed")
    if isinstance(value, str):
        return f"{value} changed"
    # So large that it shows in every unit.
    return not value if isinstance(value, bool) else value * 10**9


def shown(report: RunReport, folder: Path) -> Iterator[str]:
    """Yields the page and the tables of a report."""
    yield run_page(StoredRun(Location(folder), report), ())
    console = Console(width=300)
    with console.capture() as captured:
        console.print(*run_tables(report))
    yield captured.get()


@pytest.fixture(scope="module")
def reports() -> list[RunReport]:
    """Reports of runs that end in the ways in which other fields are shown."""
    scored = sample(RunReport)
    return [scored, replace(scored, ap=None, failures=())]


def test_each_field_of_a_report_is_shown_or_is_one_of_the_json_alone(
    reports: list[RunReport], tmp_path: Path
) -> None:
    paths, seen = set(), set()
    for report in reports:
        before = [*shown(report, tmp_path)]
        for path, changed in changes(report):
            paths.add(path)
            after = shown(changed, tmp_path)
            if path not in seen and any(a != b for a, b in zip(after, before, strict=True)):
                seen.add(path)
    assert paths - seen == JSON_ONLY

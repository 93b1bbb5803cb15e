"""Records whose values could be swapped unnoticed are built by keyword."""

import importlib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from distributed_pose.records import devices, facts, models, shards

# Modules whose records become figures that are published, or travel between processes.
MODULES = (
    "bench.capacity",
    "bench.device",
    "bench.drivers",
    "bench.host",
    "bench.pipeline",
    "bench.scale",
    "engine.base",
    "engine.reducer",
    "engine.trials",
    "engine.worker",
    "engine.worker_report",
    "guide.logs",
    "guide.rows",
    "metrics.throughput",
    "devices.metering",
    "report.audit_record",
    "report.run_figures",
    "report.run_report",
    "run.energy",
    "run.inputs",
    "run.ledger",
    "run.summary",
)

ENGINE_RECORDS = (
    models.CompileSpec,
    devices.DevicePlan,
    facts.DeviceReadings,
    devices.DeviceReady,
    facts.EngineFacts,
    facts.Faults,
    facts.HostLoad,
    facts.HostUse,
    facts.Memory,
    shards.ShardResult,
    devices.Simulation,
    facts.WorkerReadings,
    devices.WorkerSpec,
)


def frozen_records() -> Iterator[Any]:
    for name in MODULES:
        module = importlib.import_module(f"distributed_pose.{name}")
        for found in vars(module).values():
            is_own = getattr(found, "__module__", "") == module.__name__
            if is_own and is_dataclass(found) and vars(found)["__dataclass_params__"].frozen:
                yield found


@pytest.mark.parametrize("record", [*ENGINE_RECORDS, *frozen_records()])
def test_a_record_of_figures_is_not_built_by_position(record: Any) -> None:
    assert all(field.kw_only for field in fields(record))

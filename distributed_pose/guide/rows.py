"""Collects the rows of the results table: images per second of devices, runs and guides."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from distributed_pose.backends.registry import is_fake
from distributed_pose.devices.published import PUBLISHED
from distributed_pose.files.json_records import AveragePrecision, Figure, Positive
from distributed_pose.report.run_figures import DeviceFigures, RunFigures

# The number of devices per card is known for these patterns, which match more names than the guides
# use. 710 is an earlier name of the 310P.
_CHIPS_A_CARD = (
    (re.compile(r"(Ascend ?)?310", re.IGNORECASE), 4),
    (re.compile(r"(Ascend ?)?(310P\d?|710)", re.IGNORECASE), 1),
    (re.compile(r"T4|.*(NVIDIA|Tesla|GeForce).*", re.IGNORECASE), 1),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A throughput figure and the conditions that it was obtained under.

    Attributes:
        device: name of the device, or the names of all devices if they differ.
        total_images_per_s: images per second of all these devices together.
        clock: `wall` for the time from reading to results, or `compute` for the model only.
        origin: `measured` by this system, `simulated` by it, read from a `log`, or `published`.
        source: name of the run, log or guide that the figure comes from.
        devices: number of devices that the total is for.
        is_uniform: whether all devices are equal, so that each has an equal share of the total.
        devices_per_card: number of devices per card; None if unknown or without cards.
        batch: batch size; None if unknown.
        precision: precision of the model; empty if unknown.
        ap: COCO AP of the model; None if unknown.
    """

    device: str
    total_images_per_s: Figure
    clock: Literal["wall", "compute"]
    origin: Literal["measured", "simulated", "log", "published"]
    source: str
    devices: Positive = 1
    is_uniform: bool = True
    devices_per_card: Positive | None = None
    batch: Positive | None = None
    precision: str = ""
    ap: AveragePrecision | None = None

    @property
    def per_device(self) -> float | None:
        """The images per second of one device; None if the devices differ."""
        return self.total_images_per_s / self.devices if self.is_uniform else None

    @property
    def per_card(self) -> float | None:
        """The images per second of one card; None if unknown."""
        if self.per_device is None or self.devices_per_card is None:
            return None
        return self.per_device * self.devices_per_card


def devices_per_card(name: str) -> int | None:
    """Returns the number of devices on a card of the given name, or None if unknown."""
    return next((chips for known, chips in _CHIPS_A_CARD if known.fullmatch(name)), None)


def published_rows() -> list[Row]:
    """Returns the figures that the vendor's guides publish, one row per device and batch size."""
    return [
        Row(
            device=device.name,
            total_images_per_s=rate,
            clock="compute",
            origin="published",
            source=device.how,
            devices_per_card=device.devices_per_card,
            batch=batch,
            precision=device.precision,
            ap=device.ap,
        )
        for device in PUBLISHED.values()
        for batch, rate in device.rates
    ]


def run_rows(run: RunFigures, source: str) -> Iterator[Row]:
    """Yields the rows of a run: compute per group of equal devices, and wall clock of all devices.

    A run that replays recorded maps has no compute rows.

    Args:
        run: figures of the run's `report.json`.
        source: name of the run.
    """
    groups = [[*group] for _, group in groupby(sorted(run.devices, key=_kind), key=_kind)]
    ap = run.ap["AP"] if run.ap else None
    part = ", a chosen part" if run.partial_by_choice else ""
    source = f"{source}, {run.num_images} images{part}"
    for group in groups:
        rates = [device.compute_images_per_s for device in group]
        known = [rate for rate in rates if rate is not None]
        if len(known) == len(rates):
            yield _measured(group, sum(known), "compute", source, ap)
    devices = [device for group in groups for device in group]
    yield _measured(devices, run.throughput.wall_images_per_s, "wall", source, ap)


def _measured(
    devices: Sequence[DeviceFigures],
    total: float,
    clock: Literal["wall", "compute"],
    source: str,
    ap: float | None,
) -> Row:
    names = sorted({device.description for device in devices})
    batches = {device.batch_size for device in devices}
    is_uniform = len({_kind(device) for device in devices}) == 1
    backends = {device.backend for device in devices}
    return Row(
        device=" + ".join(names),
        total_images_per_s=total,
        clock=clock,
        # Fakes run no model, so their times are not those of a device.
        origin="simulated" if any(map(is_fake, backends)) else "measured",
        source=source,
        devices=len(devices),
        is_uniform=is_uniform,
        devices_per_card=devices_per_card(names[0]) if is_uniform else None,
        batch=batches.pop() if len(batches) == 1 else None,
        precision="+".join(sorted({device.precision for device in devices})),
        ap=ap,
    )


def _kind(device: DeviceFigures) -> tuple[str, ...]:
    return device.description, device.backend, device.precision, str(device.batch_size)

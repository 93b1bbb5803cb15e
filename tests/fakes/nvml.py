# ruff: noqa: N802 - the names are those of NVML
"""A library with the functions of NVML that this package calls, under their names in `pynvml`."""

from types import SimpleNamespace
from typing import NoReturn


class FakeNvml:
    """A driver with one card; what is None is not supported by the card.

    Args:
        power_mw: power in milliwatts.
        energy_mj: energy counter in millijoules.
        used_bytes: memory in use.
        busy_percent: utilisation.
    """

    NVML_CLOCK_SM = 1

    class NVMLError(Exception):
        """What all functions raise."""

    def __init__(
        self,
        power_mw: int | None = None,
        energy_mj: int | None = None,
        used_bytes: int | None = None,
        busy_percent: int | None = None,
    ) -> None:
        self._power_mw = power_mw
        self._energy_mj = energy_mj
        self._used_bytes = used_bytes
        self._busy_percent = busy_percent
        self.asked_for = ""

    def nvmlInit(self) -> None:
        pass

    def nvmlShutdown(self) -> None:
        pass

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        self.asked_for = f"index {index}"
        return self.asked_for

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self.asked_for = uuid
        return uuid

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.105.08"

    def nvmlDeviceGetVbiosVersion(self, _device: str) -> str:
        return "96.00.61.00.01"

    def nvmlDeviceGetClockInfo(self, _device: str, clock: int) -> int:
        return 1980 if clock == self.NVML_CLOCK_SM else self._unsupported()

    def nvmlDeviceGetMemoryInfo(self, _device: str) -> SimpleNamespace:
        return SimpleNamespace(used=self._value(self._used_bytes))

    def nvmlDeviceGetUtilizationRates(self, _device: str) -> SimpleNamespace:
        return SimpleNamespace(gpu=self._value(self._busy_percent))

    def nvmlDeviceGetPowerUsage(self, _device: str) -> int:
        return self._value(self._power_mw)

    def nvmlDeviceGetTotalEnergyConsumption(self, _device: str) -> int:
        return self._value(self._energy_mj)

    def _value(self, value: int | None) -> int:
        return self._unsupported() if value is None else value

    def _unsupported(self) -> NoReturn:
        raise self.NVMLError("Not Supported")

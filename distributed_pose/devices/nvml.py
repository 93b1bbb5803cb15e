"""Meters NVIDIA cards through NVML, the library behind `nvidia-smi`.

Source: NVML API Reference Guide; `nvidia-ml-py` has its functions and constants under their names.
"""

import os
from collections.abc import Callable
from typing import Any

from distributed_pose.devices.metering import Reading
from distributed_pose.packages import is_installed


class NvmlMeter:
    """Meters a card or a MIG instance.

    Of a MIG instance only the memory is known, because power, clocks and utilisation are those of
    the card, which others use as well.

    Args:
        library: the module `pynvml`, or an object with its functions.
        device_id: index of the card in the order of the PCI bus, or UUID of a card or MIG instance.
    """

    # NVML answers in less than a millisecond.
    interval_s = 1.0

    def __init__(self, library: Any, device_id: str) -> None:
        self._library = library
        library.nvmlInit()
        self._device = (
            library.nvmlDeviceGetHandleByIndex(int(device_id))
            if device_id.isdecimal()
            else library.nvmlDeviceGetHandleByUUID(device_id)
        )
        self._is_whole = not device_id.startswith("MIG-")
        self.driver = self._ask(library.nvmlSystemGetDriverVersion) or ""
        self.firmware = self._of_card(library.nvmlDeviceGetVbiosVersion) or ""

    def read(self) -> Reading:
        library = self._library
        memory = self._ask(library.nvmlDeviceGetMemoryInfo, self._device)
        rates = self._of_card(library.nvmlDeviceGetUtilizationRates)
        clock_mhz = self._of_card(library.nvmlDeviceGetClockInfo, library.NVML_CLOCK_SM)
        power_mw = self._of_card(library.nvmlDeviceGetPowerUsage)
        energy_mj = self._of_card(library.nvmlDeviceGetTotalEnergyConsumption)
        return Reading(
            memory_used_bytes=memory and memory.used,
            utilisation=rates and rates.gpu / 100,
            clock_mhz=clock_mhz,
            power_w=None if power_mw is None else power_mw / 1e3,
            energy_j=None if energy_mj is None else energy_mj / 1e3,
        )

    def close(self) -> None:
        self._ask(self._library.nvmlShutdown)

    def _of_card(self, function: Callable[..., Any], *arguments: object) -> Any:
        return self._ask(function, self._device, *arguments) if self._is_whole else None

    def _ask(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Returns the answer of a function; None if the driver or the card does not know it."""
        try:
            return function(*arguments)
        except self._library.NVMLError:
            return None


def nvml_meter(device_id: str) -> NvmlMeter | None:
    """Returns the meter of a card; None where NVML or its Python module is missing.

    Args:
        device_id: id by which the node knows the card; see `NvmlMeter`.
    """
    # NVML numbers the cards by their bus ids, and CUDA only does so in this order.
    is_in_order = os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID") == "PCI_BUS_ID"
    if not is_installed("pynvml") or (device_id.isdecimal() and not is_in_order):
        return None
    import pynvml

    try:
        return NvmlMeter(pynvml, device_id)
    # There is no driver, or it does not know the device.
    except pynvml.NVMLError:
        return None

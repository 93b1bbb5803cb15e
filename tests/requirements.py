"""Skips tests whose hardware is missing."""

import openvino
import pytest


def skip_without_bf16() -> None:
    """Skips the test on a processor without native bf16."""
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no native bf16")

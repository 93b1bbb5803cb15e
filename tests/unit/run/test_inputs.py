"""The notes of a run say which of its figures are estimates."""

from typing import Any

import pytest

from distributed_pose.run.inputs import read_inputs
from tests.conftest import Dataset


@pytest.mark.parametrize(
    ("settings", "is_estimated"),
    [
        ({"backend": "simulated:t4", "input": "256x456"}, True),
        ({"backend": "simulated", "profile": "upstream"}, True),
        ({"backend": "simulated:t4"}, False),
        ({"backend": "simulated", "input": "256x456", "simulated": {"rate": 50.0}}, False),
        ({"backend": "oracle", "input": "256x456"}, False),
    ],
)
def test_rates_that_are_scaled_to_another_input_size_are_noted_as_an_estimate(
    people: Dataset, settings: dict[str, Any], is_estimated: bool
) -> None:
    note = read_inputs(people.config(**settings)).note
    assert ("published for inputs of 368x640 are scaled" in note) == is_estimated

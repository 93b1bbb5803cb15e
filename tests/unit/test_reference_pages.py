"""The generated reference pages are up to date, and describe every key, option and field."""

import pytest

from distributed_pose.config.keys import config_keys
from tests.reference_pages import FOLDER, PAGES


@pytest.mark.parametrize("name", PAGES)
def test_a_reference_page_is_up_to_date(name: str) -> None:
    written = (FOLDER / name).read_text()
    assert written == PAGES[name](), "run: python -m tests.reference_pages"


def test_every_configuration_key_is_described() -> None:
    assert [key.name for key in config_keys() if not key.description] == []


def test_a_key_is_listed_with_its_limits_and_default() -> None:
    known = {key.name: key for key in config_keys()}
    assert known["deadline_s"].values == "number above 0 to 86400"
    assert known["model.refinement_stages"].values == "integer from 1 to 3"
    assert known["batch_size"].values == "integer or auto"
    assert known["devices"].default == "auto"
    assert known["data.images"].default == "none"

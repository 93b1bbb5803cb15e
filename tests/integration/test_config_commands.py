"""The `config` commands print keys, resolved configurations and the shipped examples."""

import json
from pathlib import Path

import pytest
import yaml

from distributed_pose import parse_config
from tests.conftest import Run


def test_keys_lists_every_key_in_80_columns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run("config", "keys")
    assert code == 0
    assert "data.repeat: integer from 1; default 1" in out
    assert max(map(len, out.splitlines())) <= 80


def test_keys_as_json_has_name_values_default_and_description(run: Run) -> None:
    _, out, _ = run("config", "keys", "--json")
    first = json.loads(out)[0]
    assert first.keys() == {"name", "values", "default", "description"}


def test_show_prints_a_configuration_that_can_be_read_back(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("batch_size: 4\n")
    code, out, _ = run("config", "show", "--config", str(file), "--set", "data.limit=3")
    shown = parse_config(yaml.safe_load(out))
    assert code == 0
    assert (shown.batch_size, shown.data.limit) == (4, 3)


def test_example_lists_and_prints_the_shipped_files(run: Run) -> None:
    _, listed, _ = run("config", "example")
    assert {"local.yaml", "slurm.sbatch", "submit.sh"} <= set(listed.split())
    code, out, _ = run("config", "example", "npus.yaml")
    assert code == 0
    assert parse_config(yaml.safe_load(out)).devices == ("npu:*",)


def test_an_unknown_example_is_a_usage_error_that_lists_the_known_ones(run: Run) -> None:
    code, _, err = run("config", "example", "nothing.yaml")
    assert code == 2
    assert "local.yaml" in err

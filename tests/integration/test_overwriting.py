"""No command overwrites or deletes its inputs, or files that no command wrote."""

import json
import os
import shutil
from pathlib import Path

import pytest

from distributed_pose.demo.default import WEIGHTS
from tests.conftest import Dataset, Run

_SCORE = (
    "guide postprocess --result-dir {0} --pad-txt-path {0}/a.log --labels {0}/a.yaml "
    "--detections-save-path"
)


def arguments(people: Dataset, *more: str) -> list[str]:
    keys = (
        f"data.images={people.images}",
        f"data.annotations={people.annotations}",
        "backend=oracle",
        "engine=inline",
        *more,
    )
    return ["evaluate", *(word for key in keys for word in ("--set", key))]


def state(folder: Path) -> dict[str, bytes]:
    """Returns all files below a folder with their content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("form", ["{}", "file://{}"])
@pytest.mark.parametrize("restart", [[], ["--restart"]])
def test_the_users_configuration_in_the_output_folder_is_kept(
    run: Run, people: Dataset, tmp_path: Path, form: str, restart: list[str]
) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    mine = folder / "config.yaml"
    mine.write_text("# Mine.\nbatch_size: 2\n")
    command = [*arguments(people), "--config", str(mine), "--output", form.format(folder)]
    for _ in range(2):
        code, _, err = run(*command, *restart)
        assert code == 0, err
        assert mine.read_text() == "# Mine.\nbatch_size: 2\n"
        assert "batch_size: 2" in (folder / "config.resolved.yaml").read_text()


def test_the_edited_configuration_of_a_run_is_kept_when_it_is_run_again(
    run: Run, people: Dataset, tmp_path: Path
) -> None:
    output = tmp_path / "x"
    assert run(*arguments(people), "--output", str(output))[0] == 0
    mine = output / "config.yaml"
    edited = f"# Edited.\n{mine.read_text()}"
    mine.write_text(edited)
    again = ["evaluate", "--config", str(mine), "--output", str(output)]
    assert run(*again)[0] == 0
    assert mine.read_text() == edited
    assert (output / "config.resolved.yaml").exists()


@pytest.mark.parametrize("name", ["detections.json", "report.json", "config.resolved.yaml"])
@pytest.mark.parametrize("restart", [[], ["--restart"]])
def test_results_that_are_not_of_a_run_are_not_replaced(
    run: Run, people: Dataset, tmp_path: Path, name: str, restart: list[str]
) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.yaml").touch()
    (tmp_path / "x" / name).write_text("mine")
    before = state(tmp_path)
    code, _, err = run(*arguments(people), "--output", "x", *restart)
    assert code == 3
    assert f"x/{name} exists and was not written by a run in this folder" in err
    assert state(tmp_path) == before


@pytest.mark.parametrize("name", ["detections.json", "report.json"])
@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_an_input_that_has_the_name_of_a_result_is_not_replaced(
    run: Run, people: Dataset, tmp_path: Path, name: str, form: str
) -> None:
    folder = tmp_path / "x"
    # This also holds for the file names of a run.
    assert run(*arguments(people), "--output", str(folder))[0] == 0
    shutil.copy(people.annotations, folder / name)
    before = state(folder)
    keys = arguments(people, f"data.annotations={form.format(folder / name)}")
    code, _, err = run(*keys, "--output", str(folder), "--restart")
    assert code == 2
    assert f"data.annotations is {form.format(folder / name)}, which the run would overwrite" in err
    assert state(folder) == before


def test_a_run_in_the_folder_of_its_data_keeps_the_data(
    run: Run, people: Dataset, tmp_path: Path
) -> None:
    shutil.copytree(people.images, tmp_path / "x")
    before = state(tmp_path / "x")
    keys = arguments(people, "data.images=x")
    for _ in range(2):
        code, _, err = run(*keys, "--output", "x")
        assert code == 0, err
    after = state(tmp_path / "x")
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_restart_deletes_only_the_ledgers_own_files(
    run: Run, people: Dataset, tmp_path: Path, form: str
) -> None:
    command = [*arguments(people), "--output", form.format(tmp_path / "x")]
    assert run(*command)[0] == 0
    ledger = tmp_path / "x" / "ledger"
    entries = [*ledger.glob("*.arrow")]
    assert entries
    outside = tmp_path / "outside.arrow"
    outside.write_bytes(b"mine")
    (ledger / "notes.arrow").write_text("mine")
    (ledger / f"{'F' * 64}.arrow").write_text("mine")
    (ledger / "folder").mkdir()
    (ledger / f"{'a' * 64}.arrow").symlink_to(outside)
    (ledger / f".partial-{'0' * 16}").write_bytes(b"a part of an entry")
    left = {"notes.arrow", f"{'F' * 64}.arrow", "folder", f"{'a' * 64}.arrow", "files.json"}
    code, _, err = run(*command, "--restart", "--set", "profile=upstream")
    assert code == 0, err
    assert outside.read_bytes() == b"mine"
    assert not any(entry.exists() for entry in entries)
    now = {path.name for path in ledger.iterdir()}
    assert left < now
    assert all(name.endswith(".arrow") for name in now - left)


def test_restart_deletes_nothing_behind_a_link(run: Run, people: Dataset, tmp_path: Path) -> None:
    command = [*arguments(people), "--output", "x"]
    assert run(*command)[0] == 0
    (tmp_path / "x" / "ledger").rename(tmp_path / "elsewhere")
    (tmp_path / "x" / "ledger").symlink_to(tmp_path / "elsewhere")
    before = state(tmp_path / "elsewhere")
    # The run behind the link is resumed, and nothing is deleted.
    assert run(*command)[0] == 0
    code, _, err = run(*command, "--restart")
    assert code == 3
    assert "x/ledger is a link, and --restart deletes nothing behind links" in err
    assert state(tmp_path / "elsewhere") == before


def test_maps_are_not_dumped_into_the_folder_that_is_replayed(
    run: Run, people: Dataset, tmp_path: Path
) -> None:
    maps = tmp_path / "maps"
    assert run(*arguments(people), "--dump-maps", str(maps), "--output", "x")[0] == 0
    before = state(maps)
    keys = arguments(people, "backend=recorded", f"model.path={maps}")
    code, _, err = run(*keys, "--dump-maps", str(maps), "--output", "y", "--restart")
    assert code == 2
    assert "dump_maps is model.path" in err
    assert state(maps) == before


@pytest.mark.parametrize("name", ["annotations.json", "images-00000.parquet", "notes", ".hidden"])
@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_dataset_is_packed_only_into_an_empty_folder(
    run: Run, people: Dataset, tmp_path: Path, name: str, form: str
) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "x" / name).symlink_to(tmp_path / "outside")
    before = state(tmp_path)
    code, _, err = run("pack", form.format(tmp_path / "x"), *arguments(people)[1:])
    assert code == 3
    assert "choose an empty folder" in err
    assert state(tmp_path) == before


def test_a_pack_that_fails_leaves_an_empty_folder(
    run: Run, people: Dataset, tmp_path: Path
) -> None:
    shutil.copytree(people.images, tmp_path / "images")
    bad = max((tmp_path / "images").iterdir())
    bad.unlink()
    keys = arguments(people, f"data.images={tmp_path / 'images'}")[1:]
    code, _, err = run("pack", "x", *keys)
    assert code == 4
    assert bad.name in err
    assert [*(tmp_path / "x").iterdir()] == []
    shutil.copy(people.images / bad.name, bad)
    assert run("pack", "x", *keys)[0] == 0


@pytest.fixture
def inputs(people: Dataset, tmp_path: Path) -> Path:
    """A folder of one input for each command."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    shutil.copy(WEIGHTS, folder / "a.pth")
    times = ", ".join(f"{name} = 1 ms" for name in ("min", "max", "mean", "median"))
    (folder / "a.log").write_text(f"GPU Compute Time: {times}")
    (folder / "a.yaml").write_text("batch_size: 1\n")
    costs = {"cores": 1, "ceiling_images_per_s": 1, "device_share": 1, "cpu_us": {"driver": 1}}
    more = {"object_store_bytes": 1, "gather": "maps", "read": "driver", "batch_size": 1}
    (folder / "costs.json").write_text(json.dumps(costs | more))
    shutil.copytree(people.images, folder / "images")
    (folder / "images" / "1.bin").write_bytes(min(people.images.iterdir()).read_bytes())
    (folder / "link").symlink_to(folder)
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "export {0}/a.pth {0}/a.pth",
        "export {0}/a.pth {0}/link/a.pth",
        "report import {0}/a.log --output {0}/a.log",
        "plan --devices t4=1 --costs {0}/costs.json --config {0}/a.yaml --save {0}/a.yaml",
        "scale --config {0}/scaling.json --output {0}",
        "guide preprocess --src-path {0}/images --save-path {0}/images --pad-txt-path {0}/pad.txt",
        "guide preprocess --src-path {0}/images --save-path {0} --pad-txt-path {0}/images/1.bin",
        "guide info bin {0}/images {0}/images/1.bin 640 368",
        _SCORE + " {0}/a.log",
        _SCORE + " {0}/link/a.yaml",
    ],
)
def test_an_output_that_is_an_input_is_refused(run: Run, inputs: Path, command: str) -> None:
    (inputs / "scaling.json").write_text("{}")
    before = state(inputs)
    code, _, err = run(*command.format(inputs).split())
    assert code == 2, err
    assert "would be overwritten" in err
    assert state(inputs) == before


def test_a_picture_does_not_replace_an_image_of_its_run(
    run: Run, people: Dataset, tmp_path: Path
) -> None:
    shutil.copytree(people.images, tmp_path / "images")
    assert run(*arguments(people, f"data.images={tmp_path}/images"), "--output", "x")[0] == 0
    image = min((tmp_path / "images").iterdir())
    before = image.read_bytes()
    code, _, err = run("picture", "x", str(image))
    assert code == 2
    assert "would be overwritten" in err
    assert image.read_bytes() == before
    # The command replaces its own picture.
    for _ in range(2):
        assert run("picture", "x", "x/poses.jpg")[0] == 0


def test_rendered_images_do_not_replace_others(run: Run, tmp_path: Path) -> None:
    images = tmp_path / "x" / "images"
    images.mkdir(parents=True)
    (images / "000000000001.jpg").write_bytes(b"mine")
    code, _, err = run("demo-data", "x", "--images", "2")
    assert code == 3
    assert "is not a demo dataset (choose another folder)" in err
    assert state(tmp_path) == {"x/images/000000000001.jpg": b"mine"}
    for _ in range(2):
        assert run("demo-data", "y", "--images", "2")[0] == 0


def test_an_artifact_does_not_replace_another_file(run: Run, inputs: Path) -> None:
    command = ["compile", str(inputs / "a.pth"), "--for", "onnxruntime", "--output", str(inputs)]
    assert run(*command)[0] == 0
    card = inputs / "a_onnxruntime_cpu_bs1.json"
    assert run(*command)[0] == 0
    card.write_text("mine")
    code, _, err = run(*command)
    assert code == 3
    assert "already exists and is not an artifact with its card" in err
    assert card.read_text() == "mine"


def test_the_link_to_the_latest_run_replaces_no_file(
    run: Run, people: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "latest").write_text("mine")
    code, _, err = run(*arguments(people))
    assert code == 4
    assert "cannot write runs/latest: it is not a link" in err
    assert (tmp_path / "runs" / "latest").read_text() == "mine"


def test_files_of_a_run_get_the_mode_of_the_umask(
    run: Run, people: Dataset, tmp_path: Path
) -> None:
    before = os.umask(0o027)
    try:
        assert run(*arguments(people), "--output", "x", "--dump-maps", "maps")[0] == 0
        assert run("pack", "packed", *arguments(people)[1:])[0] == 0
    finally:
        os.umask(before)
    modes = {
        path.stat().st_mode & 0o777
        for folder in ("x", "maps", "packed")
        for path in (tmp_path / folder).rglob("*")
        if path.is_file()
    }
    assert modes == {0o640}
    assert (tmp_path / "x" / "ledger").stat().st_mode & 0o777 == 0o750

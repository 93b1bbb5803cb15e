"""Credentials in URIs are used, and appear in no file, log, message or listing."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import fs

from tests.conftest import Dataset, Run
from tests.object_store import KEY, SECRET, ObjectStore, object_store

_TOLD = (KEY, SECRET, SECRET.replace("/", "%2F"), SECRET.replace("/", "%2F").replace("+", "%2B"))


@pytest.fixture
def store(people: Dataset) -> Iterator[ObjectStore]:
    """A store with a dataset, which is opened with credentials."""
    with object_store() as store:
        for path in people.images.iterdir():
            store.objects[f"bucket/data/images/{path.name}"] = path.read_bytes()
        store.objects["bucket/data/people.json"] = people.annotations.read_bytes()
        yield store


def keys(store: ObjectStore, *more: str) -> list[str]:
    values = (
        f"data.images={store.uri('bucket/data/images')}",
        f"data.annotations={store.uri('bucket/data/people.json')}",
        "backend=oracle",
        *more,
    )
    return [word for value in values for word in ("--set", value)]


def assert_no_secret(*texts: str | bytes) -> None:
    for text in texts:
        content = text if isinstance(text, bytes) else text.encode()
        found = [secret for secret in _TOLD if secret.encode() in content]
        assert not found, text


def contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


def written(store: ObjectStore, folder: str) -> dict[str, bytes]:
    return {name: text for name, text in store.objects.items() if name.startswith(f"{folder}/")}


@pytest.mark.parametrize("read", ["driver", "worker"])
def test_a_run_uses_credentials_and_writes_none(
    run: Run, store: ObjectStore, tmp_path: Path, read: str
) -> None:
    more = keys(store, "engine=inline", f"data.read={read}")
    code, out, err = run("evaluate", *more, "--output", store.uri("bucket/run"), "--verbose")
    assert code == 0, err
    assert store.keys == {KEY}
    files = written(store, "bucket/run")
    assert {"bucket/run/report.json", "bucket/run/config.yaml"} <= files.keys()
    assert_no_secret(out, err, *files.values(), *contents(tmp_path))
    report = json.loads(files["bucket/run/report.json"])
    assert report["data"]["images"].startswith("s3://***@bucket/data/images?scheme=http&")


def test_a_run_is_resumed_with_other_credentials(run: Run, store: ObjectStore) -> None:
    arguments = ["evaluate", *keys(store, "engine=inline"), "--output"]
    assert run(*arguments, store.uri("bucket/run"))[0] == 0
    before = written(store, "bucket/run/ledger")
    others = [word.replace(KEY, "AKIAANOTHERKEY000000") for word in arguments]
    code, _, err = run(*others, store.uri("bucket/run"))
    assert code == 0, err
    assert store.keys == {KEY, "AKIAANOTHERKEY000000"}
    assert written(store, "bucket/run/ledger") == before


def test_a_failed_image_and_the_resuming_command_show_none(
    run: Run, store: ObjectStore, tmp_path: Path
) -> None:
    name = min(written(store, "bucket/data/images"))
    del store.objects[name]
    code, out, err = run("evaluate", *keys(store, "engine=inline"), "--output", "run")
    assert code == 4
    assert "try the failed images again: " in err
    assert "s3://***@bucket/data/images" in err
    assert_no_secret(out, err, *contents(tmp_path))
    assert Path(name).name in (tmp_path / "run" / "report.json").read_text()


def test_a_packed_dataset_and_its_options_show_none(
    run: Run, store: ObjectStore, tmp_path: Path
) -> None:
    code, out, err = run("pack", store.uri("bucket/packed"), *keys(store))
    assert code == 0, err
    assert "data.images=s3://***@bucket/packed?" in out
    assert "replace *** by your credentials" in err
    assert_no_secret(out, err, *written(store, "bucket/packed").values(), *contents(tmp_path))


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "--set", "data.images={uri}"],
        ["evaluate", "--set", "data.images={uri}", "--set", "data.annotations={uri}/no.json"],
        ["evaluate", "--set", "data.images=[{uri}]"],
        ["evaluate", "--set", "dump_maps={uri}"],
        ["evaluate", "--set", "model.path={uri}", "--set", "data.images=x"],
        ["evaluate", "--set", "{uri}"],
        ["evaluate", "--output", "{uri}&unknown=1"],
        ["evaluate", "--config", "{uri}"],
        ["evaluate", "{uri}"],
        ["pack", "{uri}", "{uri}"],
        ["export", "{uri}", "out.onnx"],
        ["report", "table", "{uri}"],
        ["plan", "--devices", "t4=1", "--costs", "{uri}"],
        ["picture", "{uri}", "out.jpg"],
    ],
)
def test_an_error_shows_none(
    run: Run, store: ObjectStore, tmp_path: Path, arguments: list[str]
) -> None:
    uri = store.uri("bucket/nowhere")
    code, out, err = run(*(word.format(uri=uri) for word in arguments))
    assert code in {2, 3}
    assert "Traceback" not in err
    assert_no_secret(out, err, *contents(tmp_path))


@pytest.mark.parametrize(
    ("uri", "secret"),
    [
        ("s3://AKIAKEY:topsecret@bucket/x?unknown=1", "topsecret"),
        ("s3://AKIAKEY:top/secret@bucket/x", "top/secret"),
        ("s3://AKIAKEY:top secret@bucket/x", "top secret"),
        ("s3://bucket/x?secret_key=topsecret", "topsecret"),
        ("gs://user:topsecret@bucket/x", "topsecret"),
        ("gs://bucket/x?token=topsecret", "topsecret"),
        ("https://user:topsecret@host/x?sig=topsecret", "topsecret"),
        ("file://user:topsecret@/x", "topsecret"),
        pytest.param(
            "abfss://container@account.dfs.core.windows.net/x?sig=topsecret",
            "topsecret",
            marks=pytest.mark.slow,  # its client waits for a server
        ),
        ("gopher://user:topsecret@host/x", "topsecret"),
    ],
)
@pytest.mark.parametrize("option", ["--set=data.images=", "--output="])
def test_a_uri_that_cannot_be_opened_is_named_without_them(
    run: Run, uri: str, secret: str, option: str
) -> None:
    code, out, err = run("evaluate", "--set", "engine=inline", f"{option}{uri}")
    assert code in {2, 3}
    assert secret not in out + err
    assert "***" in err or "data.annotations is not set" in err


def test_the_files_of_a_run_cannot_be_used_without_the_credentials(
    run: Run, store: ObjectStore
) -> None:
    assert run("evaluate", *keys(store, "engine=inline"), "--output", "run")[0] == 0
    for again in (["evaluate", "--config", "run/config.yaml"], ["picture", "run", "out.jpg"]):
        code, _, err = run(*again)
        assert code == 3
        assert "has had its credentials removed" in err
        assert "data.images" in err


@pytest.mark.slow
def test_a_ray_cluster_lists_none(store: ObjectStore, tmp_path: Path) -> None:
    program = (
        "import sys, ray; from distributed_pose.cli.main import app\n"
        "try: app()\n"
        "except SystemExit as end: code = end.code\n"
        "ray.init(logging_level='ERROR') if not ray.is_initialized() else None\n"
        "from ray._private.state import jobs, actors\n"
        "print(jobs(), actors()); sys.exit(code)"
    )
    folder = tmp_path / "out"
    command = [sys.executable, "-c", program, "evaluate", *keys(store, "data.read=worker")]
    answer = subprocess.run(
        [*command, "--set", "devices=cpu:1", "--output", str(folder), "--verbose"],
        capture_output=True,
        check=False,
        timeout=240,
        cwd=tmp_path,
        env={**os.environ},
    )
    assert answer.returncode == 0, answer.stderr
    assert b"s3://***@bucket" in answer.stdout
    logs = contents(Path(os.environ["RAY_TMPDIR"]))
    assert logs
    assert_no_secret(answer.stdout, answer.stderr, *contents(folder), *logs)


def test_the_store_is_one_that_pyarrow_opens(store: ObjectStore) -> None:
    filesystem, path = fs.FileSystem.from_uri(store.uri("bucket/data"))
    assert filesystem.get_file_info(f"{path}/people.json").is_file

"""An annotation file is read in any Unicode encoding, with or without gzip, or refused by name."""

import gzip
import json
from pathlib import Path

import pytest

from distributed_pose import SetupError
from distributed_pose.data import annotation_file
from distributed_pose.data.coco import load_index
from tests.small_annotations import content


@pytest.mark.parametrize("text", ["", "[1]", "{", "null", "[" * 100_000, "\xff"])
def test_a_file_that_is_not_a_json_object_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "people.json"
    path.write_text(text)
    with pytest.raises(SetupError, match=r"people\.json"):
        load_index(path)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"cannot read .*nowhere\.json"):
        load_index(tmp_path / "nowhere.json")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_is_read_in_any_unicode_encoding_with_or_without_gzip(
    tmp_path: Path, encoding: str, packed: bool
) -> None:
    data = json.dumps(content()).encode(encoding)
    path = tmp_path / "people.json"
    path.write_bytes(gzip.compress(data) if packed else data)
    assert len(load_index(path).images) == 3


def test_a_damaged_or_too_large_gzip_file_is_a_setup_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "people.json"
    packed = gzip.compress(json.dumps(content()).encode())
    for damaged in (packed[:-9], packed[:30], packed[:50] + b"xxxx" + packed[54:]):
        path.write_bytes(damaged)
        with pytest.raises(SetupError, match=r"people\.json is a damaged gzip file"):
            load_index(path)
    monkeypatch.setattr(annotation_file, "_MAX_UNPACKED_BYTES", 500)
    path.write_bytes(packed)
    with pytest.raises(SetupError, match="unpacks to over 500 bytes"):
        load_index(path)

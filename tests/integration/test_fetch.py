"""Downloads from a server that breaks, lies and refuses, and archives that cannot be trusted."""

import hashlib
import io
import os
import random
import re
import shlex
import socket
import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from typer.testing import CliRunner

from distributed_pose import SetupError
from distributed_pose.cli.data import fetch
from distributed_pose.data.coco import load_index
from distributed_pose.data.download import Download, download
from distributed_pose.data.fetch import (
    COCO_VAL2017,
    CocoFiles,
    extract,
    fetch_checkpoint,
    fetch_coco_val2017,
)
from tests.conftest import Dataset

CONTENT = random.Random(0).randbytes(1_000_000)
KEYPOINTS = "annotations/person_keypoints_val2017.json"


@dataclass
class Site:
    """A web server with configurable behaviour.

    Attributes:
        url: address of the server.
        files: content by path.
        drops: number of bytes after which it hangs up, one per request; later requests get all.
        statuses: error statuses, one per request; later requests get the file.
        always_drops: number of bytes after which it hangs up in every request.
        resumes: whether it honours `Range`.
        range_shift: number of bytes before the requested position at which it starts.
        sends_length: whether it sends `Content-Length`.
        content_type: content type of all files.
        ranges: the `Range` headers of all requests so far.
    """

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    drops: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    always_drops: int | None = None
    resumes: bool = True
    range_shift: int = 0
    sends_length: bool = True
    content_type: str = "application/octet-stream"
    ranges: list[str | None] = field(default_factory=list)

    def offer(self, name: str, content: bytes, **values: Any) -> Download:
        """Serves a file from now on, and returns its source with its digest."""
        self.files[f"/{name}"] = content
        known: dict[str, Any] = {
            "size_bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        return Download(f"{self.url}/{name}", name, **(known | {"retry_wait_s": 0.001} | values))

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers["Range"]
        self.ranges.append(asked)
        content = self.files.get(request.path)
        status = self.statuses.pop(0) if self.statuses else 200 if content is not None else 404
        if content is None or status != 200:
            return self._send(request, status, {}, b"")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if not asked or not self.resumes:
            return self._send(request, 200, {}, content)
        if start >= len(content):
            return self._send(request, 416, {"Content-Range": f"bytes */{len(content)}"}, b"")
        start -= self.range_shift
        extent = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self._send(request, 206, {"Content-Range": extent}, content[start:])

    def _send(
        self, request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes
    ) -> None:
        request.send_response(status)
        length = {"Content-Length": str(len(body))} if self.sends_length else {}
        for name, value in ({"Content-Type": self.content_type} | length | headers).items():
            request.send_header(name, value)
        request.end_headers()
        most = self.drops.pop(0) if self.drops else self.always_drops
        # A client that refuses the response hangs up.
        with suppress(ConnectionError):
            request.wfile.write(body[:most])


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = Site(f"http://127.0.0.1:{server.server_address[1]}")
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        server.shutdown()
        thread.join()


@pytest.fixture
def closed_url() -> str:
    """An address without a server."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def part_of(folder: Path, content: bytes) -> Path:
    """Returns the partial file of an earlier download."""
    part = folder / "model.pth.part"
    part.write_bytes(content)
    return part


def failure(source: Download, folder: Path) -> str:
    with pytest.raises(SetupError) as raised:
        download([source], folder)
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


def test_a_downloaded_file_is_complete_and_leaves_no_other_file(site: Site, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    path = fetch_checkpoint(
        tmp_path / "new" / "folder", lambda *at: seen.append(at), site.offer("model.pth", CONTENT)
    )
    assert path.read_bytes() == CONTENT
    assert [*path.parent.iterdir()] == [path]
    assert site.ranges == [None]
    assert seen[0] == ("model.pth", 0, len(CONTENT))
    assert seen[-1] == ("model.pth", len(CONTENT), len(CONTENT))


def test_a_broken_download_resumes_where_it_stopped(site: Site, tmp_path: Path) -> None:
    sent = [400_000, 300_000, 200_000]
    site.drops = [*sent]
    (path,) = download([site.offer("model.pth", CONTENT)], tmp_path)
    starts = [int(asked.removeprefix("bytes=")[:-1]) if asked else 0 for asked in site.ranges]
    assert path.read_bytes() == CONTENT
    assert starts[0] == 0
    # Only the chunk in which the connection breaks is requested again.
    for previous, start, most in zip(starts[:-1], starts[1:], sent, strict=True):
        assert previous + most - 100_000 < start <= previous + most


def test_an_earlier_download_is_completed(site: Site, tmp_path: Path) -> None:
    part = part_of(tmp_path, CONTENT[:500_000])
    (path,) = download([site.offer("model.pth", CONTENT)], tmp_path)
    assert path.read_bytes() == CONTENT
    assert site.ranges == ["bytes=500000-"]
    assert not part.exists()


def test_a_complete_download_that_was_not_renamed_is_not_fetched_again(
    site: Site, tmp_path: Path
) -> None:
    part_of(tmp_path, CONTENT)
    (path,) = download([site.offer("model.pth", CONTENT)], tmp_path)
    assert path.read_bytes() == CONTENT
    assert not site.ranges


def test_a_server_that_cannot_resume_starts_again(site: Site, tmp_path: Path) -> None:
    site.resumes = False
    part_of(tmp_path, CONTENT[:500_000])
    (path,) = download([site.offer("model.pth", CONTENT)], tmp_path)
    assert path.read_bytes() == CONTENT


def test_a_range_that_starts_elsewhere_is_not_appended(site: Site, tmp_path: Path) -> None:
    site.range_shift = 5
    part_of(tmp_path, CONTENT[:500_000])
    (path,) = download([site.offer("model.pth", CONTENT)], tmp_path)
    assert path.read_bytes() == CONTENT
    assert site.ranges == ["bytes=500000-", None]


@pytest.mark.parametrize(("extra", "requests"), [(b"", 1), (b"of another file", 2)])
def test_a_range_beyond_the_end_is_complete_or_another_file(
    site: Site, tmp_path: Path, extra: bytes, requests: int
) -> None:
    part_of(tmp_path, CONTENT + extra)
    source = site.offer("model.pth", CONTENT, size_bytes=None)
    assert download([source], tmp_path)[0].read_bytes() == CONTENT
    assert len(site.ranges) == requests


def test_a_server_that_always_breaks_is_given_up_and_the_received_bytes_are_kept(
    site: Site, tmp_path: Path
) -> None:
    site.always_drops, site.resumes = 400_000, False
    message = failure(site.offer("model.pth", CONTENT), tmp_path)
    assert "4 times in a row" in message
    assert len(site.ranges) == 5
    assert (tmp_path / "model.pth.part").stat().st_size > 300_000
    assert not (tmp_path / "model.pth").exists()


def test_temporary_faults_of_the_server_are_retried(site: Site, tmp_path: Path) -> None:
    site.statuses = [500, 503, 429]
    (path,) = download([site.offer("model.pth", CONTENT)], tmp_path)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (416, 1), (500, 4)])
def test_a_refusal_names_the_address_and_the_manual_way(
    site: Site, tmp_path: Path, status: int, requests: int
) -> None:
    site.statuses = [status] * 10
    message = failure(site.offer("model.pth", CONTENT), tmp_path)
    assert f"HTTP status {status}" in message
    assert f"download {site.url}/model.pth to {tmp_path / 'model.pth'} by other means" in message
    assert len(site.ranges) == requests


def test_without_a_network_all_addresses_and_targets_are_named(
    closed_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    images, annotations = (
        replace(source, url=f"{closed_url}/{source.file_name}", retry_wait_s=0.001)
        for source in COCO_VAL2017
    )
    with pytest.raises(SetupError) as raised:
        fetch_coco_val2017(tmp_path, sources=(images, annotations))
    message = str(raised.value)
    assert "Connection refused" in message
    assert "then run this command again" in message
    assert len(message.splitlines()) == 1
    for source in (images, annotations):
        assert f"{source.url} to {tmp_path / source.file_name}" in message


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/model.pth", "file:///etc/passwd", "model.pth"])
def test_other_protocols_are_refused(url: str, tmp_path: Path) -> None:
    assert f"cannot download {url}: " in failure(Download(url, "model.pth"), tmp_path)


def test_wrong_content_is_removed_and_both_digests_are_named(site: Site, tmp_path: Path) -> None:
    source = site.offer("model.pth", CONTENT, sha256="0" * 64)
    message = failure(source, tmp_path)
    assert source.url in message
    assert "0" * 64 in message
    assert hashlib.sha256(CONTENT).hexdigest() in message
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("sends_length", [True, False])
@pytest.mark.parametrize("length", [999_000, 1_001_000])
def test_a_wrong_length_is_refused(
    site: Site, tmp_path: Path, length: int, sends_length: bool
) -> None:
    site.sends_length = sends_length
    source = site.offer("model.pth", CONTENT, size_bytes=length)
    message = failure(source, tmp_path)
    assert source.url in message
    assert f"expected {length} bytes, found" in message
    assert not (tmp_path / "model.pth").exists()


def test_a_break_is_detected_by_the_published_length_alone(site: Site, tmp_path: Path) -> None:
    site.sends_length, site.drops = False, [400_000]
    (path,) = download([site.offer("model.pth", CONTENT)], tmp_path)
    assert path.read_bytes() == CONTENT
    assert site.ranges == [None, "bytes=400000-"]


def test_a_response_without_end_is_stopped(site: Site, tmp_path: Path) -> None:
    site.sends_length = False
    seen: list[int] = []
    source = site.offer("model.pth", CONTENT * 10, size_bytes=1_000_000)
    with pytest.raises(SetupError, match="expected 1000000 bytes, found more"):
        download([source], tmp_path, lambda _name, done, _total: seen.append(done))
    assert max(seen) < 1_100_000
    assert not [*tmp_path.iterdir()]


def test_a_login_page_is_not_accepted_as_the_file(site: Site, tmp_path: Path) -> None:
    site.content_type = "text/html; charset=utf-8"
    source = site.offer("model.pth", b"<html>", size_bytes=None, sha256=None)
    assert "the server sent a web page" in failure(source, tmp_path)
    assert not [*tmp_path.iterdir()]


def test_an_existing_file_is_checked_and_not_fetched(site: Site, tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(CONTENT)
    download([site.offer("model.pth", CONTENT)], tmp_path)
    assert not site.ranges


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[:-1] + b"!"])
def test_another_file_of_the_same_name_is_named_and_kept(
    site: Site, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    message = failure(site.offer("model.pth", CONTENT), tmp_path)
    assert str(path) in message
    assert "expected" in message
    assert "remove it" in message
    assert path.read_bytes() == content
    assert not site.ranges


def test_a_full_disk_names_the_file(site: Site, tmp_path: Path) -> None:
    (tmp_path / "model.pth.part").symlink_to("/dev/full")
    message = failure(site.offer("model.pth", CONTENT), tmp_path)
    assert f"write {tmp_path / 'model.pth'}" in message
    assert "No space left on device" in message


def test_a_pipe_is_not_waited_for(site: Site, tmp_path: Path) -> None:
    part = tmp_path / "model.pth.part"
    os.mkfifo(part)
    assert f"{part} is a pipe (remove it" in failure(site.offer("model.pth", CONTENT), tmp_path)


def test_a_folder_that_cannot_be_created_is_named(site: Site, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    assert str(tmp_path / "taken") in failure(
        site.offer("model.pth", CONTENT), tmp_path / "taken" / "folder"
    )


def zipped(members: dict[str, bytes], links: tuple[str, ...] = ()) -> bytes:
    """Returns an archive; some members are symbolic links to their content."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            member = zipfile.ZipInfo(name)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = (stat.S_IFLNK if name in links else stat.S_IFREG) << 16
            archive.writestr(member, content)
    return stream.getvalue()


@pytest.fixture
def coco(site: Site, people: Dataset) -> tuple[Download, Download]:
    """A small dataset in two archives with the layout of COCO, including other members."""
    images = {f"val2017/{path.name}": path.read_bytes() for path in people.images.iterdir()}
    labels = {KEYPOINTS: people.annotations.read_bytes(), "annotations/captions.json": b"{}"}
    archives = zipped({"val2017/": b"", "val2017/read.me": b"", **images}), zipped(labels)
    one, two = (
        replace(
            site.offer(source.file_name, archive),
            members=source.members,
            max_extracted_bytes=source.max_extracted_bytes,
        )
        for source, archive in zip(COCO_VAL2017, archives, strict=True)
    )
    return one, two


def test_the_extracted_dataset_can_be_loaded(
    coco: tuple[Download, Download], people: Dataset, tmp_path: Path
) -> None:
    files = fetch_coco_val2017(tmp_path, sources=coco)
    index = load_index(files.annotations)
    wanted = {path.name: path.read_bytes() for path in people.images.iterdir()}
    assert files == CocoFiles(tmp_path / "val2017", tmp_path / KEYPOINTS)
    assert {path.name: path.read_bytes() for path in files.images.iterdir()} == wanted
    assert {image.file_name for image in index.images} == wanted.keys()
    assert [*files.annotations.parent.iterdir()] == [files.annotations]


def test_a_second_call_restores_damaged_files_and_keeps_the_others(
    coco: tuple[Download, Download], site: Site, tmp_path: Path
) -> None:
    files = fetch_coco_val2017(tmp_path, sources=coco)
    first, second, *others = sorted(files.images.iterdir())
    whole, when = first.read_bytes(), [path.stat().st_mtime_ns for path in others]
    first.write_bytes(whole[:-1] + b"?")
    second.unlink()
    site.ranges.clear()
    seen: list[tuple[str, int, int | None]] = []
    fetch_coco_val2017(tmp_path, lambda *at: seen.append(at), coco)
    assert not site.ranges
    assert first.read_bytes() == whole
    assert second.exists()
    assert [path.stat().st_mtime_ns for path in others] == when
    assert all(name.startswith("extracting") and done <= (total or 0) for name, done, total in seen)


def refusal(archive: bytes, folder: Path, most_bytes: int = 10**6) -> str:
    """Returns the error of an archive from which `val2017/*.jpg` is to be extracted."""
    path = folder / "val2017.zip"
    path.write_bytes(archive)
    source = Download("http://127.0.0.1/val2017.zip", path.name, members=("val2017/*.jpg",))
    source = replace(source, max_extracted_bytes=most_bytes)
    with pytest.raises(SetupError, match=re.escape(str(path))) as raised:
        extract(source, path, folder / "target")
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "val2017/../../evil.jpg",
        "/tmp/evil.jpg",
        "C:/evil.jpg",
        "C:evil.jpg",
        "val2017\\..\\..\\evil.jpg",
        "\\\\host\\share\\evil.jpg",
    ],
)
def test_an_archive_with_a_member_outside_the_folder_is_not_extracted_at_all(
    name: str, tmp_path: Path
) -> None:
    message = refusal(zipped({"val2017/1.jpg": b"image", name: b"evil"}), tmp_path)
    assert repr(name) in message
    assert "is outside the folder" in message
    assert [path.name for path in tmp_path.iterdir()] == ["val2017.zip"]


def test_an_archive_with_a_symbolic_link_is_not_extracted_at_all(tmp_path: Path) -> None:
    members = {"val2017/1.jpg": b"image", "val2017/2.jpg": b"/etc/passwd"}
    message = refusal(zipped(members, links=("val2017/2.jpg",)), tmp_path)
    assert "'val2017/2.jpg' is a symbolic link" in message
    assert [path.name for path in tmp_path.iterdir()] == ["val2017.zip"]


def test_an_archive_that_would_fill_the_disk_is_refused(tmp_path: Path) -> None:
    members = {f"val2017/{number}.jpg": bytes(400_000) for number in range(3)}
    assert "more than 1000000 bytes" in refusal(zipped(members), tmp_path)
    assert not (tmp_path / "target").exists()


def test_a_member_larger_than_its_declared_size_is_damage(tmp_path: Path) -> None:
    content = zipped({"val2017/1.jpg": bytes(3_000_000)})
    content = content.replace(struct.pack("<I", 3_000_000), struct.pack("<I", 10))
    assert "is damaged" in refusal(content, tmp_path)
    assert not (tmp_path / "target").exists()


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    archive = zipped({"val2017/1.jpg": CONTENT[:1000]})
    assert "is damaged" in refusal(archive[:900], tmp_path)
    assert "is damaged" in refusal(archive.replace(CONTENT[:99], CONTENT[1:100]), tmp_path)


def test_an_archive_without_the_wanted_members_is_named(tmp_path: Path) -> None:
    assert "holds no val2017/*.jpg" in refusal(zipped({"val2017/": b"", "1.jpg": b""}), tmp_path)


def test_the_command_prints_the_options_for_an_evaluation(tmp_path: Path) -> None:
    folder = tmp_path / "my models"
    folder.mkdir()
    (folder / "checkpoint_iter_370000.pth").touch()
    answer = CliRunner().invoke(fetch, ["checkpoint", str(folder)])
    assert answer.exit_code == 0
    assert shlex.split(answer.stdout) == [
        "--set",
        f"model.path={folder}/checkpoint_iter_370000.pth",
    ]
    assert not answer.stderr


def test_the_command_without_a_network_names_a_remedy(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a proxy, the server gets requests for all addresses, and has none of them.
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, site.url)
    answer = CliRunner().invoke(fetch, ["coco-val2017", str(tmp_path)])
    assert isinstance(answer.exception, SetupError)
    for source in COCO_VAL2017:
        assert f"{source.url} to {tmp_path / source.file_name}" in str(answer.exception)

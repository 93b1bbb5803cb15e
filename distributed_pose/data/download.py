"""Downloads files: resumes broken transfers, checks the content, and writes atomically."""

import hashlib
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import requests

from distributed_pose.errors import SetupError
from distributed_pose.files.local import one_line

OnProgress = Callable[[str, int, int | None], None]
_Report = Callable[[int, int | None], None]

_TRIES_WITHOUT_PROGRESS = 4
_CONNECT_AND_READ_TIMEOUT_S = (10, 60)
# Small, because a broken connection loses the current chunk.
_CHUNK_BYTES = 2**16
_TEMPORARY_STATUSES = (408, 429, 500, 502, 503, 504)
_AGAIN = "then run this command again"


@dataclass(frozen=True)
class Download:
    """A published file.

    Attributes:
        url: address of the file, http or https.
        file_name: name of the file on disk.
        size_bytes: published size of the file; None if none is published.
        sha256: published SHA-256 as 64 hexadecimal digits; None if none is published.
        members: `fnmatch` patterns of the members to extract from an archive.
        max_extracted_bytes: limit of the total size of those members.
        retry_wait_s: wait after a broken connection; doubles with each try without progress.
    """

    url: str
    file_name: str
    size_bytes: int | None = None
    sha256: str | None = None
    members: tuple[str, ...] = ()
    max_extracted_bytes: int = 0
    retry_wait_s: float = 0.5


class _RefusedError(Exception):
    """The file cannot be downloaded, and another try would not help; the message says why."""


class _BrokenError(Exception):
    """A transfer ended early, and another try may complete it; the message says why."""


def download(
    sources: Sequence[Download], folder: Path, on_progress: OnProgress | None = None
) -> list[Path]:
    """Returns the paths of the downloaded and checked files of the sources.

    A file that exists already is checked and not downloaded. A broken download leaves `NAME.part`
    beside its target; the next try, or the next call, requests only the rest.

    Args:
        sources: files to download.
        folder: target folder; created if it does not exist.
        on_progress: called with the file's name, the bytes received so far, and its size or None.

    Raises:
        SetupError: if a file cannot be downloaded, is not the published one, or cannot be written;
            names the address and the target of each missing file.
    """
    targets = [folder / source.file_name for source in sources]
    for source, target in zip(sources, targets, strict=True):
        try:
            _ensure(source, target, on_progress or _silent)
        except _RefusedError as error:
            reason = f"cannot download {source.url}: {error}"
            raise SetupError(reason, _manual_way(sources, folder)) from None
        except OSError as error:
            reason = f"cannot read or write {error.filename or target}: {error.strerror}"
            raise SetupError(reason, f"free disk space or grant access, {_AGAIN}") from None
    return targets


def _silent(_name: str, _done: int, _total: int | None) -> None:
    pass


def _manual_way(sources: Sequence[Download], folder: Path) -> str:
    targets = {source.url: folder / source.file_name for source in sources}
    ways = [f"{url} to {target}" for url, target in targets.items() if not target.exists()]
    return f"download {' and '.join(ways)} by other means, {_AGAIN}"


def _ensure(source: Download, target: Path, on_progress: OnProgress) -> None:
    if target.exists():
        if mismatch := _mismatch(source, target):
            raise SetupError(f"{target} is not {source.url}: {mismatch}", f"remove it, {_AGAIN}")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    # Opening a pipe would block.
    if part.is_fifo():
        raise SetupError(f"{part} is a pipe", f"remove it, {_AGAIN}")
    _fetch(source, part, on_progress)
    if mismatch := _mismatch(source, part):
        part.unlink()
        raise _RefusedError(f"the server sent another file, which was removed: {mismatch}")
    part.replace(target)


def _mismatch(source: Download, path: Path) -> str:
    """Returns how a file differs from the published one, or "" if it does not."""
    if not path.is_file():
        return "it is not a file"
    size_bytes = path.stat().st_size
    if source.size_bytes not in (None, size_bytes):
        return f"expected {source.size_bytes} bytes, found {size_bytes}"
    if source.sha256 is None:
        return ""
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return "" if sha256 == source.sha256 else f"expected SHA-256 {source.sha256}, found {sha256}"


def _fetch(source: Download, part: Path, on_progress: OnProgress) -> None:
    # Only bytes beyond all earlier tries count as progress. Otherwise a server that cannot resume
    # and always breaks at the same byte would be retried forever.
    furthest_bytes, failures = _size(part), 0
    while (reason := _transfer(source, part, on_progress)) is not None:
        failures = 0 if _size(part) > furthest_bytes else failures + 1
        furthest_bytes = max(furthest_bytes, _size(part))
        if failures == _TRIES_WITHOUT_PROGRESS:
            raise _RefusedError(f"{reason}, {failures} times in a row")
        time.sleep(source.retry_wait_s * 2**failures)


def _transfer(source: Download, part: Path, on_progress: OnProgress) -> str | None:
    """Returns why the transfer broke, or None if it is complete."""
    start = _size(part)
    if start and start == source.size_bytes:
        return None
    # A compressed response would have other offsets and another length than the file.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    timeout = _CONNECT_AND_READ_TIMEOUT_S
    try:
        with requests.get(source.url, headers=headers, timeout=timeout, stream=True) as response:
            _receive(source, response, part, on_progress)
    except _BrokenError as error:
        return str(error)
    except (
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
    ) as error:
        return _root_cause(error)
    except requests.RequestException as error:
        raise _RefusedError(_root_cause(error)) from None
    return None


def _receive(
    source: Download, response: requests.Response, part: Path, on_progress: OnProgress
) -> None:
    start = _size(part)
    if response.status_code == requests.codes.requested_range_not_satisfiable and start:
        if _content_range(response)[1] == start:
            return
        part.unlink()
        raise _BrokenError("the server has no such range")
    _check_response(response)
    start, total = _extent(response, part)
    if None not in (total, source.size_bytes) and total != source.size_bytes:
        raise _RefusedError(f"expected {source.size_bytes} bytes, found {total}")
    report = partial(on_progress, source.file_name)
    _append(response, part, start, source.size_bytes if total is None else total, report)


def _extent(response: requests.Response, part: Path) -> tuple[int, int | None]:
    """Returns the offset of the first byte in the response, and the file's size or None."""
    if response.status_code != requests.codes.partial_content:
        return 0, _content_length(response)
    start, (offset, total) = _size(part), _content_range(response)
    if offset != start:
        part.unlink(missing_ok=True)
        raise _BrokenError(f"the server sent bytes from {offset}, not from {start}")
    return start, total


def _check_response(response: requests.Response) -> None:
    if response.status_code in _TEMPORARY_STATUSES:
        raise _BrokenError(f"HTTP status {response.status_code}")
    if response.status_code not in (requests.codes.ok, requests.codes.partial_content):
        raise _RefusedError(f"HTTP status {response.status_code}")
    # Networks with a login page return it for every request.
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise _RefusedError("the server sent a web page instead of the file")


def _append(
    response: requests.Response, part: Path, start: int, total: int | None, report: _Report
) -> None:
    done = start
    with part.open("ab" if start else "wb") as stream:
        report(done, total)
        for chunk in response.iter_content(_CHUNK_BYTES):
            stream.write(chunk)
            done += len(chunk)
            report(done, total)
            if total is not None and done > total:
                break
        stream.flush()
        os.fsync(stream.fileno())
    if total is not None and done < total:
        raise _BrokenError(f"only {done} of {total} bytes were received")
    if total is not None and done > total:
        part.unlink()
        raise _RefusedError(f"expected {total} bytes, found more")


def _content_length(response: requests.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """Returns the first byte and the file's size, each None if unknown.

    Source: RFC 9110, section 14.4.
    """
    text = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", text.strip())
    first, total = match.groups() if match else (None, None)
    return (int(first) if first else None), (int(total) if total else None)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _root_cause(error: BaseException) -> str:
    # requests wraps the system's message in up to three exceptions.
    while error.__context__ is not None:
        error = error.__context__
    return one_line(error)

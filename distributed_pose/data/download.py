"""Downloads that survive broken connections: resumed, checked, there whole or not at all."""

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

OnProgress = Callable[[str, int, int | None], None]
_Report = Callable[[int, int | None], None]

_TRIES_WITHOUT_PROGRESS = 4
_CONNECT_AND_READ_TIMEOUT_S = (10, 60)
# Small, since a broken connection loses the chunk that it breaks in.
_CHUNK_BYTES = 2**16
_PASSING_STATUSES = (408, 429, 500, 502, 503, 504)
_AGAIN = "then run this command again"


@dataclass(frozen=True)
class Download:
    """A published file.

    Attributes:
        url: where it is published, http or https.
        file_name: its name on disk.
        size_bytes: its length, where published.
        sha256: SHA-256 of its content as 64 hexadecimal digits, where published.
        members: what is wanted of an archive, as patterns of `fnmatch`.
        max_extracted_bytes: most that those members may take on disk.
        retry_wait_s: wait after a broken connection; doubles with every try that brings nothing.
    """

    url: str
    file_name: str
    size_bytes: int | None = None
    sha256: str | None = None
    members: tuple[str, ...] = ()
    max_extracted_bytes: int = 0
    retry_wait_s: float = 0.5


class _RefusedError(Exception):
    """Why trying again is of no use."""


class _BrokenError(Exception):
    """Why a transfer ended early; another try may bring the rest."""


def download(
    sources: Sequence[Download], folder: Path, on_progress: OnProgress | None = None
) -> list[Path]:
    """Returns the files of the sources, all of them in the folder and checked.

    A file that is there already is checked and not fetched. What a broken download brought lies
    beside its target as `NAME.part`; the next try, or the next call, asks for the rest only.

    Args:
        sources: what to download.
        folder: where to; created where missing.
        on_progress: called with the file's name, the bytes that are there, and its length where
            known.

    Raises:
        SetupError: if a file cannot be had, is not the published one, or cannot be written; says
            from where and to where the missing files can be brought by other means.
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
            raise SetupError(reason, f"give it room or access, {_AGAIN}") from None
    return targets


def _silent(_name: str, _done: int, _total: int | None) -> None:
    pass


def _manual_way(sources: Sequence[Download], folder: Path) -> str:
    targets = {source.url: folder / source.file_name for source in sources}
    ways = [f"{url} to {target}" for url, target in targets.items() if not target.exists()]
    return f"download {' and '.join(ways)} by other means, {_AGAIN}"


def _ensure(source: Download, target: Path, on_progress: OnProgress) -> None:
    if target.exists():
        if fault := _fault(source, target):
            raise SetupError(f"{target} is not {source.url}: {fault}", f"remove it, {_AGAIN}")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    # A pipe would be waited for.
    if part.is_fifo():
        raise SetupError(f"{part} is a pipe", f"remove it, {_AGAIN}")
    _fetch(source, part, on_progress)
    if fault := _fault(source, part):
        part.unlink()
        raise _RefusedError(f"what came is not the published file, and is removed: {fault}")
    part.replace(target)


def _fault(source: Download, path: Path) -> str:
    if not path.is_file():
        return "it is not a file"
    found_bytes = path.stat().st_size
    if source.size_bytes not in (None, found_bytes):
        return f"expected {source.size_bytes} bytes, found {found_bytes}"
    if source.sha256 is None:
        return ""
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    return "" if found == source.sha256 else f"expected SHA-256 {source.sha256}, found {found}"


def _fetch(source: Download, part: Path, on_progress: OnProgress) -> None:
    # Only bytes never reached before count as progress: a server that cannot resume and breaks
    # at the same place every time would otherwise be asked for ever.
    furthest_bytes, fruitless = _size(part), 0
    while (reason := _transfer(source, part, on_progress)) is not None:
        fruitless = 0 if _size(part) > furthest_bytes else fruitless + 1
        furthest_bytes = max(furthest_bytes, _size(part))
        if fruitless == _TRIES_WITHOUT_PROGRESS:
            raise _RefusedError(f"{reason}, {fruitless} times in a row")
        time.sleep(source.retry_wait_s * 2**fruitless)


def _transfer(source: Download, part: Path, on_progress: OnProgress) -> str | None:
    """Returns why the transfer broke, None if it brought everything."""
    start = _size(part)
    if start and start == source.size_bytes:
        return None
    # A compressed answer would have other offsets and another length than the file.
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
    _refuse_other_answers(response)
    start, total = _extent(response, part)
    if None not in (total, source.size_bytes) and total != source.size_bytes:
        raise _RefusedError(f"expected {source.size_bytes} bytes, found {total}")
    report = partial(on_progress, source.file_name)
    _append(response, part, start, source.size_bytes if total is None else total, report)


def _extent(response: requests.Response, part: Path) -> tuple[int, int | None]:
    """Returns the first byte that the server sends, and the file's length where it tells it."""
    if response.status_code != requests.codes.partial_content:
        return 0, _content_length(response)
    start, (offset, total) = _size(part), _content_range(response)
    if offset != start:
        part.unlink(missing_ok=True)
        raise _BrokenError(f"the server sent bytes from {offset}, not from {start}")
    return start, total


def _refuse_other_answers(response: requests.Response) -> None:
    if response.status_code in _PASSING_STATUSES:
        raise _BrokenError(f"HTTP status {response.status_code}")
    if response.status_code not in (requests.codes.ok, requests.codes.partial_content):
        raise _RefusedError(f"HTTP status {response.status_code}")
    # Networks with a login page answer every request with it.
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise _RefusedError("a web page came instead of the file")


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
        raise _BrokenError(f"{done} of {total} bytes came")
    if total is not None and done > total:
        part.unlink()
        raise _RefusedError(f"expected {total} bytes, found more")


def _content_length(response: requests.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """Returns the first byte and the file's length, each None where not told (RFC 9110, 14.4)."""
    text = response.headers.get("Content-Range", "")
    told = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", text.strip())
    first, total = told.groups() if told else (None, None)
    return (int(first) if first else None), (int(total) if total else None)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _root_cause(error: BaseException) -> str:
    # requests wraps what the system said three times over.
    while error.__context__ is not None:
        error = error.__context__
    return " ".join(str(error).split()) or type(error).__name__

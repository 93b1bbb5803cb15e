"""The ledger on storage: files with the results of some shards, from which a run is resumed.

`ledger_entries` has the format of a file. Its name is the SHA-256 of its content, so that an
incomplete file is recognised. A thread writes the files, and each has all results that came while
the last one was written, so that a fast run has few files and a slow one loses nothing.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from threading import Condition, Event, Thread
from typing import Self

from distributed_pose.errors import ExecutionError, SetupError
from distributed_pose.files.local import PARTIAL_PREFIX, one_line, sha256_hex
from distributed_pose.files.storage import Folder
from distributed_pose.run.ledger import LedgerEntry
from distributed_pose.run.ledger_entries import (
    pack_entries,
    read_entries,
    read_entry_file,
    read_fingerprint,
)

_LOG = logging.getLogger(__name__)

_FOLDER = "ledger"
_SUFFIX = ".arrow"

# The ledger's own files, and those that a killed process did not finish.
_ENTRY = re.compile(rf"{_FOLDER}/[0-9a-f]{{64}}{re.escape(_SUFFIX)}")
_UNFINISHED = re.compile(rf"{_FOLDER}/{re.escape(PARTIAL_PREFIX)}[0-9a-f]{{16}}")

# A file has about twice the size of its detections, and a shard's are at most some megabytes.
_MAX_READ_BYTES = 2**28
# Packing takes several times the memory, and larger files are not faster to write.
_MAX_DETECTION_BYTES = 2**20

# A killed driver loses the results of this many seconds and of the time to write them, which is far
# less than two seconds. Opening and naming a file takes half a millisecond. There is no pause while
# a full file's results wait.
_EVERY_S = 0.1

# Images that wait to be written: a second of the fastest run. With more of them, the run waits for
# the disk or object store.
_MAX_WAITING = 20_000

# Object stores answer in tens of milliseconds, so several files are read at once.
_READERS = 4
# A disk or object store that has not answered by then never will.
_DEADLINE_S = 120.0


class LedgerFiles:
    """The files of a ledger in the folder of a run.

    It is a context manager, which ends when all added entries are written.

    Args:
        folder: folder of the run.
        fingerprint: digests that the results depend on, by name.
    """

    def __init__(self, folder: Folder, fingerprint: Mapping[str, str]) -> None:
        self._folder = folder
        self._fingerprint = dict(fingerprint)
        self._changed = Condition()
        self._waiting: list[LedgerEntry] = []
        self._num_waiting = self._num_written = 0
        self._thread: Thread | None = None
        self._is_behind = False
        self._is_ending = Event()
        self._error: Exception | None = None

    def load(self) -> Iterator[LedgerEntry]:
        """Yields the entries of earlier sessions of the same run.

        Raises:
            SetupError: if the folder holds another run, or cannot be read.
        """
        names = [name for name in self._folder.names(_FOLDER) if _ENTRY.fullmatch(name)]
        for name, content in self._contents(names):
            try:
                yield from self._entries(name, content)
            except ValueError:
                _LOG.warning("%s is damaged; its images are run again", self._folder.at(name))

    def clear(self) -> None:
        """Deletes the ledger files of earlier sessions, of any run, and no other file.

        Raises:
            SetupError: if the ledger's folder is a link.
            ExecutionError: if a file cannot be deleted.
        """
        if self._folder.is_link(_FOLDER):
            raise SetupError(
                f"{self._folder.at(_FOLDER)} is a link, and --restart deletes nothing behind links",
                "remove the link, or choose another --output",
            )
        for name in self._folder.names(_FOLDER):
            if _ENTRY.fullmatch(name) or _UNFINISHED.fullmatch(name):
                self._folder.delete(name)

    def add(self, entry: LedgerEntry) -> None:
        """Queues an entry to be written.

        Raises:
            ExecutionError: if this or an earlier entry could not be written.
        """
        self._check()
        with self._changed:
            if not self._changed.wait_for(self._has_room, _DEADLINE_S):
                raise self._too_slow()
            self._waiting.append(entry)
            self._num_waiting += len(entry.result.image_ids)
            self._changed.notify_all()

    def __enter__(self) -> Self:
        # An executor's thread would keep the process from ending while a write hangs.
        self._thread = Thread(target=self._write_added, name="ledger files", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._is_ending.set()
            with self._changed:
                self._changed.notify_all()
            if self._thread:
                self._thread.join(_DEADLINE_S)
                if self._thread.is_alive():
                    raise self._too_slow()
            _LOG.info("wrote %d files to %s", self._num_written, self._folder.at(_FOLDER))
            self._check()
        except ExecutionError:
            # The error that ended the run is the better message.
            if kind is None:
                raise

    def _has_room(self) -> bool:
        return self._num_waiting < _MAX_WAITING or self._error is not None

    def _too_slow(self) -> ExecutionError:
        return ExecutionError(
            f"writing to {self._folder.at(_FOLDER)} takes over {_DEADLINE_S:.0f} s"
        )

    def _check(self) -> None:
        if self._error:
            raise self._error

    def _write_added(self) -> None:
        while entries := self._taken():
            # After an error entries are dropped, so that no thread waits for room.
            if self._error is None:
                try:
                    self._write(entries)
                # Raised again in the thread that adds entries.
                except Exception as error:  # noqa: BLE001
                    self._error = error
            if not self._is_behind:
                self._is_ending.wait(_EVERY_S)

    def _taken(self) -> list[LedgerEntry]:
        """Returns the entries of the next file once there are any; none if the run has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_ending.is_set())
            sizes = accumulate(len(entry.result.detections) for entry in self._waiting)
            number = 1 + sum(size < _MAX_DETECTION_BYTES for size in sizes)
            entries, self._waiting = self._waiting[:number], self._waiting[number:]
            self._is_behind = bool(self._waiting)
            self._num_waiting -= sum(len(entry.result.image_ids) for entry in entries)
            self._changed.notify_all()
        return entries

    def _write(self, entries: Sequence[LedgerEntry]) -> None:
        content = pack_entries(entries, self._fingerprint)
        name = f"{_FOLDER}/{sha256_hex(content)}{_SUFFIX}"
        self._folder.write(name, content, durable=False)
        self._num_written += 1
        # There can be many files per second.
        if self._num_written == 1:
            _LOG.info("the first results are in %s", self._folder.at(name))

    def _contents(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        threads = ThreadPoolExecutor(_READERS)
        try:
            yield from zip(
                names, threads.map(self._read, names, timeout=_DEADLINE_S + len(names)), strict=True
            )
        except TimeoutError:
            raise SetupError(f"reading {self._folder.at(_FOLDER)} takes too long") from None
        finally:
            # A read that hangs cannot be ended, so it is not waited for.
            threads.shutdown(wait=False, cancel_futures=True)

    def _read(self, name: str) -> bytes:
        try:
            return self._folder.read(name, _MAX_READ_BYTES)
        except OSError as error:
            reason = self._folder.location.cleaned(one_line(error))
            raise SetupError(f"cannot read {self._folder.at(name)}: {reason}") from None

    def _entries(self, name: str, content: bytes) -> list[LedgerEntry]:
        if name != f"{_FOLDER}/{sha256_hex(content)}{_SUFFIX}":
            raise ValueError(name)
        about, detections = read_entry_file(content)
        # The fingerprint comes first, since files of another version may have other fields.
        if different := _differences(read_fingerprint(about), self._fingerprint):
            raise SetupError(
                f"{self._folder} holds another run: {'; '.join(different)}",
                "choose another --output, or --restart to replace it",
            )
        return read_entries(about, detections)


def _differences(stored: Mapping[str, str], current: Mapping[str, str]) -> list[str]:
    return [
        f"{part} is {stored.get(part, 'unknown')} there and {current.get(part, 'unknown')} here"
        for part in {**current, **stored}
        if stored.get(part) != current.get(part)
    ]

"""Reads from the ledger of a stored run which images each device settled, and when."""

import logging
import re
from pathlib import Path

from distributed_pose.errors import PoseEvalError
from distributed_pose.files.local import one_line
from distributed_pose.files.storage import Folder
from distributed_pose.locations import Location
from distributed_pose.report.timeline import SettledShard
from distributed_pose.run.ledger_entries import read_entries, read_entry_file

_LOG = logging.getLogger(__name__)

_FOLDER = "ledger"
_ENTRY = re.compile(rf"{_FOLDER}/[0-9a-f]{{64}}\.arrow")
_MAX_FILE_BYTES = 2**28
_NS = 1e9


def read_timeline(folder: Path | str | Location) -> list[SettledShard]:
    """Returns the shards in the ledger of a run, by session and time.

    Files that cannot be read, or that another version wrote, are left out with a warning.

    Args:
        folder: output folder of an evaluation, a path or a URI.
    """
    own = Folder(folder)
    try:
        names = [name for name in own.names(_FOLDER) if _ENTRY.fullmatch(name)]
    except (OSError, PoseEvalError) as error:
        _LOG.warning("%s is left out of the report: %s", own.at(_FOLDER), one_line(error))
        return []
    shards = [shard for name in sorted(names) for shard in _shards(own, name)]
    return sorted(shards, key=lambda shard: (shard.session, shard.elapsed_s))


def _shards(folder: Folder, name: str) -> list[SettledShard]:
    try:
        entries = read_entries(*read_entry_file(folder.read(name, _MAX_FILE_BYTES)))
    except (OSError, ValueError) as error:
        _LOG.warning("%s is left out of the report: %s", folder.at(name), one_line(error))
        return []
    return [
        SettledShard(
            session=entry.session,
            device=entry.device.plan.name,
            elapsed_s=entry.elapsed_ns / _NS,
            images=len(entry.result.image_ids),
            stage_ns={stage: sum(times) for stage, times in entry.result.durations.items()},
        )
        for entry in entries
    ]

"""Reads whose sweep a folder holds, so that no other one is continued or overwritten."""

from collections.abc import Mapping
from dataclasses import dataclass

from distributed_pose.bench.sweep.record import PLOTS, SWEEP
from distributed_pose.errors import SetupError
from distributed_pose.files.json_records import read_record
from distributed_pose.files.local import MAX_CARD_BYTES, one_line
from distributed_pose.files.storage import Folder

_HINT = "choose another --output"

# A sweep of 256 points has some hundred kilobytes.
_MAX_BYTES = 16 * MAX_CARD_BYTES


@dataclass(frozen=True)
class _Stored:
    identity: Mapping[str, str]


def check_owner(folder: Folder, identity: Mapping[str, str]) -> None:
    """Checks that a folder is new, or holds an earlier part of the same sweep.

    Args:
        folder: folder of the sweep.
        identity: digests and settings that all points share, by name.

    Raises:
        SetupError: if it holds another sweep, or files that no sweep has written.
    """
    if not folder.has(SWEEP):
        if foreign := next((name for name in PLOTS if folder.has(name)), ""):
            raise SetupError(f"{folder.at(foreign)} was not written by a sweep", _HINT)
        return
    try:
        stored = read_record(_Stored, folder.read(SWEEP, _MAX_BYTES)).identity
    except (OSError, ValueError) as error:
        raise SetupError(
            f"{folder.at(SWEEP)} is not the record of a sweep: {one_line(error)}", _HINT
        ) from None
    different = [
        f"{name} is {stored.get(name, 'unknown')} there and {identity.get(name, 'unknown')} here"
        for name in {**identity, **stored}
        if stored.get(name) != identity.get(name)
    ]
    if different:
        raise SetupError(f"{folder} holds another sweep: {'; '.join(different)}", _HINT)

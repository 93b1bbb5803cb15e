"""Reads and writes `recording.json`, which describes the run that recorded a folder of maps.

Folders of the vendor's benchmark tools have no such file.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from distributed_pose.errors import SetupError
from distributed_pose.files.json_records import read_record
from distributed_pose.files.local import MAX_CARD_BYTES, one_line, read_regular, write_atomically
from distributed_pose.recordings.layout import CARD_FILE


@dataclass(frozen=True)
class Card:
    """The run that recorded a folder of maps.

    Attributes:
        fingerprint: fingerprint of the run, by part; see `run.fingerprint`.
        backend: backend that computed the maps; empty until the run has ended.
        precision: precision that the maps were computed in; empty until the run has ended.
    """

    fingerprint: Mapping[str, str] = field(default_factory=dict)
    backend: str = ""
    precision: str = ""


def read_card(folder: Path) -> Card | None:
    """Returns the card of a folder, or None if the folder has none.

    Raises:
        SetupError: if the card cannot be read.
    """
    path = folder / CARD_FILE
    try:
        card = read_record(Card, read_regular(path, MAX_CARD_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SetupError(
            f"cannot read {path}: {one_line(error)}", "delete it to read the maps without it"
        ) from None
    return card


def write_card(folder: Path, card: Card) -> None:
    """Writes the card of a folder.

    Raises:
        ExecutionError: if the file cannot be written.
    """
    write_atomically(folder / CARD_FILE, json.dumps(asdict(card), indent=2) + "\n")

"""`recording.json`: what the maps of a dump are of. Folders of the benchmark tools have none."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from distributed_pose.errors import SetupError
from distributed_pose.files import MAX_CARD_BYTES, one_line, read_regular, write_atomically
from distributed_pose.json_records import read_record
from distributed_pose.recordings.layout import CARD_FILE


@dataclass(frozen=True)
class Card:
    """What maps are of.

    Attributes:
        fingerprint: of the run, by part; see `inputs.fingerprint`.
        backend: that made them; empty until the run is done.
        precision: that they were computed in; empty likewise.
    """

    fingerprint: Mapping[str, str] = field(default_factory=dict)
    backend: str = ""
    precision: str = ""


def read_card(folder: Path) -> Card | None:
    """Returns the card of a folder; None where there is none.

    Raises:
        SetupError: if it cannot be read.
    """
    path = folder / CARD_FILE
    try:
        card = read_record(Card, read_regular(path, MAX_CARD_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SetupError(
            f"cannot read {path}: {one_line(error)}", "delete it to do without"
        ) from None
    return card


def write_card(folder: Path, card: Card) -> None:
    """Writes the card of a folder.

    Raises:
        ExecutionError: if it cannot be written.
    """
    write_atomically(folder / CARD_FILE, json.dumps(asdict(card), indent=2) + "\n")

"""Tracks which files of an output folder belong to its runs, so that no other file is replaced."""

import json
from collections.abc import Mapping
from pathlib import Path

from distributed_pose.errors import ConfigError, SetupError
from distributed_pose.files.local import MAX_CARD_BYTES, one_line
from distributed_pose.files.storage import Folder
from distributed_pose.locations import Location
from distributed_pose.report.run_report import CONFIG, DETECTIONS, REPORT

# This file lists the files that runs have written in the folder; none of them existed before.
_OWN = "ledger/files.json"

# The run's configuration is written under this name if `config.yaml` belongs to the user.
_RESOLVED = "config.resolved.yaml"


class RunFiles:
    """The files of a run other than its ledger.

    Args:
        folder: output folder of the run.
        inputs: files that the run reads, by configuration key or option.

    Raises:
        ConfigError: if the run would overwrite one of its inputs.
        SetupError: if a file exists that no run has written.
    """

    def __init__(self, folder: Folder, inputs: Mapping[str, Path | Location | None]) -> None:
        self.folder = folder
        self._known = _known(folder)
        for key, path in inputs.items():
            for name in (DETECTIONS, REPORT):
                if path is not None and folder.is_at(name, path):
                    raise ConfigError(
                        f"{key} is {Location(path)}, which the run would overwrite",
                        "choose another --output",
                    )
        is_input = any(path and folder.is_at(CONFIG, path) for path in inputs.values())
        self._config = _RESOLVED if is_input or self._is_foreign(CONFIG) else CONFIG
        for name in self._names:
            if self._is_foreign(name):
                raise SetupError(
                    f"{folder.at(name)} exists and was not written by a run in this folder",
                    "choose another --output, or move the file away",
                )

    @property
    def config_name(self) -> str:
        """The name under which the run's configuration is written."""
        return self._config

    def claim(self) -> None:
        """Records that the files belong to the run; to be called before they are written.

        Raises:
            ExecutionError: if the record cannot be written.
        """
        names = sorted({*self._known, *self._names})
        self.folder.write(_OWN, json.dumps(names) + "\n")

    def clear(self) -> None:
        """Deletes the files of an earlier run, so that they are not mistaken for this run's.

        Raises:
            ExecutionError: if a file cannot be deleted.
        """
        for name in self._names:
            if self.folder.has(name):
                self.folder.delete(name)

    @property
    def _names(self) -> tuple[str, ...]:
        return DETECTIONS, self._config, REPORT

    def _is_foreign(self, name: str) -> bool:
        return name not in self._known and self.folder.has(name)


def _known(folder: Folder) -> set[str]:
    if not folder.has(_OWN):
        return set()
    try:
        names = json.loads(folder.read(_OWN, MAX_CARD_BYTES))
        return {name for name in names if isinstance(name, str)}
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise SetupError(
            f"cannot read {folder.at(_OWN)}: {one_line(error)}", "choose another --output"
        ) from None

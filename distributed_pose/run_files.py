"""Which files of an output folder are a run's own, so that no other is ever replaced."""

import json
from collections.abc import Mapping
from pathlib import Path

from distributed_pose.errors import ConfigError, SetupError
from distributed_pose.files import MAX_CARD_BYTES, one_line
from distributed_pose.locations import Location
from distributed_pose.report.run_report import CONFIG, DETECTIONS, REPORT
from distributed_pose.storage import Folder

# Lists the files that runs have begun to write in a folder where there were none of these names.
_OWN = "ledger/files.json"

# Where `config.yaml` is the user's.
_RESOLVED = "config.resolved.yaml"


class RunFiles:
    """The files of a run beside its ledger.

    Args:
        folder: of the run.
        inputs: files that the run reads, by key or option.

    Raises:
        ConfigError: if the run would write over one of its inputs.
        SetupError: if a file is there that no run has made.
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
                    f"{folder.at(name)} is there, and no run that began in this folder has made it",
                    "choose another --output, or move the file away",
                )

    @property
    def config_name(self) -> str:
        """The name under which the run's configuration is written."""
        return self._config

    def claim(self) -> None:
        """Notes that the files are the run's, before there are any.

        Raises:
            ExecutionError: if it cannot be written.
        """
        names = sorted({*self._known, *self._names})
        self.folder.write(_OWN, json.dumps(names) + "\n")

    def clear(self) -> None:
        """Deletes what an earlier run has left, so that it cannot be taken for this one's.

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

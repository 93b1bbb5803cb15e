"""The exceptions of the package, and the exit code each one ends a command with.

PoseEvalError
├── ConfigError      exit 2: the configuration or the command line is wrong
├── SetupError       exit 3: something that the run needs is missing or unusable
│   └── BackendError     a backend cannot start on a device, or cannot run the model
├── ExecutionError   exit 4: the run started and could not be completed
└── GateError        exit 5: a figure of a complete run does not reach its gate
"""

import unicodedata
from collections.abc import Sequence
from typing import Any

from distributed_pose.locations import redacted

_SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


class PoseEvalError(Exception):
    """An error that is shown to the user as one line, without a traceback.

    Args:
        message: description of the error, with the name of the file, key or device.
        hint: advice on what to do next.
        device: name of the device concerned.
        shard: index of the shard concerned.
        image_ids: COCO ids of the images concerned.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        device: str | None = None,
        shard: int | None = None,
        image_ids: Sequence[int] = (),
    ) -> None:
        # Messages of libraries can quote URIs with their credentials.
        message = redacted(message)
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.device = device
        self.shard = shard
        self.image_ids = tuple(image_ids)

    def __str__(self) -> str:
        where = [f"device {self.device}"] if self.device else []
        where += [f"shard {self.shard}"] if self.shard is not None else []
        prefix = f"[{', '.join(where)}] " if where else ""
        return redacted(f"{prefix}{self.message}" + (f" ({self.hint})" if self.hint else ""))

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments do not survive the default pickling of exceptions, and these
        # errors travel between processes.
        return _rebuild, (type(self), dict(vars(self)))


class ConfigError(PoseEvalError):
    """The configuration or the command line is wrong."""

    exit_code = 2


class SetupError(PoseEvalError):
    """Something that the run needs is missing or unusable: file, model, device."""

    exit_code = 3


class BackendError(SetupError):
    """A backend cannot start on a device, or cannot run the model there; another one may."""


class ExecutionError(PoseEvalError):
    """The run started and could not be completed."""

    exit_code = 4


class GateError(PoseEvalError):
    """A figure of a complete run does not reach the gate that the user set for it."""

    exit_code = 5


def _rebuild(kind: type[PoseEvalError], fields: dict[str, Any]) -> PoseEvalError:
    message, hint = fields.pop("message"), fields.pop("hint")
    return kind(message, hint, **fields)


def first_line(error: BaseException) -> str:
    """Returns the first line of an exception's message, or its type if it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def last_line(error: BaseException) -> str:
    """Returns the last line of an exception's message, or its type if it has none.

    OpenVINO puts the places in its source first, and the reason last.
    """
    return str(error).strip().rpartition("\n")[2].strip() or type(error).__name__


def printable(text: str, keep: str = "") -> str:
    """Returns a text in which every character that is not readable is replaced by its escape.

    Names of files, keys and tensors come from untrusted sources, and a terminal obeys control
    characters, marks of writing direction included. The escapes are those of JSON.

    Args:
        text: text of any origin, which may have unpaired surrogates.
        keep: characters to keep unchanged, such as line breaks.
    """
    if text.isprintable():
        return text
    return "".join(one if one in keep or _is_readable(one) else _escape(one) for one in text)


def shown(text: str, max_characters: int = 80) -> str:
    """Returns an untrusted text as a message shows it: in one line, printable and shortened."""
    is_short = len(text) <= max_characters
    return printable(text if is_short else f"{text[:max_characters]}...")


def _is_readable(character: str) -> bool:
    # Python escapes blanks other than the usual one, which names in Chinese have.
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _escape(character: str) -> str:
    code = ord(character)
    long = f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return _SHORT_ESCAPES.get(character, long)

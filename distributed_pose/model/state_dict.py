"""Finds the network's tensors in a checkpoint: the key that holds them and their names' prefix."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_pose.errors import SetupError, shown

STATE_DICT = "state_dict"

# This tensor counts the batches of training. PyTorch before 0.4.1 did not save it, and no result
# depends on it.
COUNTER = "num_batches_tracked"

# This tensor counts the models in an average of `torch.optim.swa_utils`.
_AVERAGED = "n_averaged"

_STAGE = re.compile(r"refinement_stages\.([0-9]{1,4})\.")

_HINT = "model.path must be a checkpoint of Lightweight OpenPose, or an ONNX file"
_NAMES_SHOWN = 4

# The network's longest names have this many parts between dots, such as
# refinement_stages.0.trunk.0.trunk.0.0.weight.
_MAX_PARTS = 8


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a checkpoint, independent of the library that has read it.

    Attributes:
        shape: shape of the tensor as stored.
        kind: type and storage of the values, for messages.
        holds_weights: whether the tensor is a dense array of floating-point numbers.
        float32: function that returns the values rounded to float32, if the tensor holds weights;
            values out of the range of float32 become infinite.
    """

    shape: tuple[int, ...]
    kind: str
    holds_weights: bool
    float32: Callable[[], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class StateDict:
    """The tensors of a checkpoint that may be the network's.

    Attributes:
        tensors: tensors by name, without the prefix and without the tensors of copies.
        key: key of the file that holds the tensors; empty if the file is a bare state dict.
        prefix: common prefix of the tensors' names in the file, such as `module.`; may be empty.
        copies: prefixes and keys of further copies of the network, such as `ema`.
        beside: names of the other entries in the file.
        stray: full names of tensors that are neither under the prefix nor in a copy.
    """

    tensors: Mapping[str, StoredTensor]
    key: str
    prefix: str
    copies: tuple[str, ...]
    beside: tuple[str, ...]
    stray: tuple[str, ...]

    @property
    def stage_numbers(self) -> tuple[int, ...]:
        """Numbers of the refinement stages in the checkpoint, in ascending order."""
        return tuple(sorted({n for name in self.tensors if (n := stage_of(name)) is not None}))

    @property
    def num_stages(self) -> int:
        """Number of refinement stages from the first one up to a gap in the numbers."""
        numbers = self.stage_numbers
        return next(n for n in range(len(numbers) + 1) if n not in numbers)


def find_state_dict(content: Any, required: Collection[str], path: str) -> StateDict:
    """Returns the tensors in a checkpoint that may be the network's.

    The tensors are under `state_dict`, or make up the whole file, or are under the only key that
    holds the whole network. Their names may have a common prefix before the required names.

    Args:
        content: content of the file, as `checkpoint_file.read_file` returns it.
        required: names of the network's tensors.
        path: path of the file, for messages.

    Raises:
        SetupError: if the file has no such tensors, or holds the network several times and does
            not show which one to evaluate.
    """
    entries = _entries(content)
    if isinstance(entries.get(STATE_DICT), dict):
        key = STATE_DICT
    elif any(isinstance(value, StoredTensor) for value in entries.values()):
        key = ""
    else:
        key = _only_network(entries, required, path)
    holder = _entries(entries[key]) if key else entries
    tensors = {name: v for name, v in holder.items() if isinstance(v, StoredTensor)}
    if not tensors:
        raise SetupError(f"{path} holds no state_dict with tensors", _HINT)
    others = {name: value for name, value in entries.items() if key and name != key}
    others |= {name: value for name, value in holder.items() if name not in tensors}
    copies = tuple(name for name, value in others.items() if _whole(_entries(value), required))
    beside = tuple(name for name in others if name not in copies)
    found = _without_prefix(tensors, required, key, path)
    return replace(found, copies=(*found.copies, *copies), beside=beside)


def stage_of(name: str) -> int | None:
    """Returns the number of a tensor's refinement stage; None if it belongs to no such stage."""
    stage = _STAGE.match(name)
    return int(stage[1]) if stage else None


def listed(names: Collection[str]) -> str:
    """Returns the first few names of a collection as text for a message."""
    first = ", ".join(shown(name) for name in [*names][:_NAMES_SHOWN])
    return first + (", ..." if len(names) > _NAMES_SHOWN else "")


def _entries(content: Any) -> dict[str, Any]:
    # The method is called on its class, since a pickle can give a dictionary attributes that hide
    # its methods.
    pairs = dict.items(content) if isinstance(content, dict) else ()
    return {name: value for name, value in pairs if isinstance(name, str)}


def _only_network(entries: Mapping[str, Any], required: Collection[str], path: str) -> str:
    keys = [key for key, value in entries.items() if _whole(_entries(value), required)]
    if len(keys) == 1:
        return keys[0]
    if not keys:
        held = f": it holds {listed(entries)}" if entries else ""
        raise SetupError(f"{path} holds no state_dict of Lightweight OpenPose{held}", _HINT)
    hint = f"save the one to evaluate under {STATE_DICT}"
    raise SetupError(f"{path} holds the network several times: {listed(keys)}", hint)


def _without_prefix(
    tensors: Mapping[str, StoredTensor],
    required: Collection[str],
    key: str,
    path: str,
) -> StateDict:
    prefix, copies = _prefix(tensors, required, path)
    inside, stray = {}, []
    for name, tensor in tensors.items():
        if any(_belongs(name, copy, required) for copy in copies):
            continue
        if name.startswith(prefix):
            inside[name.removeprefix(prefix)] = tensor
        elif not name.endswith((COUNTER, _AVERAGED)):
            stray.append(name)
    names = tuple(copy.rstrip(".") for copy in copies)
    return StateDict(inside, key, prefix, names, (), tuple(stray))


def _prefix(
    names: Collection[str], required: Collection[str], path: str
) -> tuple[str, tuple[str, ...]]:
    """Returns the prefix of the network's names, and the prefixes of whole copies of it."""
    whole = _whole(names, required)
    if len(whole) > 1 and "" not in whole:
        hint = "save the one to evaluate alone"
        raise SetupError(f"{path} holds the network several times, under {listed(whole)}", hint)
    if whole:
        prefix = "" if "" in whole else whole[0]
    else:
        # The file holds another network or a part of this one. Its differences are listed for the
        # prefix that most names have.
        most = _prefixes(names, required).most_common(1)
        prefix = most[0][0] if most else ""
    return prefix, tuple(copy for copy in whole if copy != prefix)


def _belongs(name: str, prefix: str, required: Collection[str]) -> bool:
    rest = name.removeprefix(prefix)
    is_known = rest in required or rest.endswith(COUNTER) or stage_of(rest) is not None
    return name.startswith(prefix) and is_known


def _whole(names: Collection[str], required: Collection[str]) -> list[str]:
    counts = _prefixes(names, required)
    return [prefix for prefix, count in counts.items() if count == len(required)]


def _prefixes(names: Collection[str], required: Collection[str]) -> Counter[str]:
    """Returns the number of the network's names that follow each prefix."""
    found: Counter[str] = Counter()
    for name in names:
        parts = name.rsplit(".", _MAX_PARTS)
        ends = (".".join(parts[start:]) for start in range(len(parts)))
        found.update(name.removesuffix(end) for end in ends if end in required)
    return found

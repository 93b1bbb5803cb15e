"""Hostile checkpoints: pickles that act, archives that swell, tensors that claim."""

import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save as save_safetensors

from distributed_pose.model.network import LightweightOpenPose
from tests.hostile.cases import HOSTILE_NAMES, SIZE, Case, annotations, damaged, dataset_settings
from tests.image_files import encode, picture


@cache
def _weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return LightweightOpenPose().state_dict()


def _saved(content: Any, *, new: bool = True) -> bytes:
    sink = io.BytesIO()
    torch.save(content, sink, _use_new_zipfile_serialization=new)
    return sink.getvalue()


@cache
def _good(form: str) -> bytes:
    if form == "safetensors":
        return save_safetensors({name: t.contiguous() for name, t in _weights().items()})
    return _saved({"state_dict": _weights()}, new=form == "zip")


def _rezipped(change: Callable[[str, bytes], bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """Returns the archive with its files changed by name."""
    sink = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(_good("zip"))) as old,
        zipfile.ZipFile(sink, "w", method) as new,
    ):
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return sink.getvalue()


def _with_pickle(pickled: bytes) -> bytes:
    return _rezipped(lambda name, data: pickled if name.endswith("data.pkl") else data)


class _Storage:
    """Represents the storage of one number in a pickle."""


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: object) -> object:
        is_storage = isinstance(value, _Storage)
        return ("storage", torch.FloatStorage, "0", "cpu", 1) if is_storage else None


def _tensor(size: Sequence[int], stride: Sequence[int], offset: int = 0) -> bytes:
    """Returns the archive of a tensor that claims more than its storage has."""
    hooks: OrderedDict[str, Any] = OrderedDict()
    arguments = (_Storage(), offset, tuple(size), tuple(stride), False, hooks)
    pickled = io.BytesIO()
    tensor = _Acts(torch._utils._rebuild_tensor_v2, *arguments)
    _Pickler(pickled, 2).dump({"state_dict": {"a": tensor}})
    return _rezipped(
        lambda name, data: (
            pickled.getvalue()
            if name.endswith("data.pkl")
            else data[:4]
            if name.endswith("/0")
            else data
        )
    )


class _Acts:
    """Runs a command when it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self._call


def _acting() -> bytes:
    import os

    return pickle.dumps(_Acts(os.system, "touch ../escaped escaped; touch $HOME/escaped"), 2)


def _doubling(levels: int) -> bytes:
    """Returns the pickle of nested lists of two equal lists, each stored once."""
    inner: list[Any] = []
    for _ in range(levels):
        inner = [inner, inner]
    return pickle.dumps({"state_dict": {"a": inner}}, 2)


def _named(name: str) -> bytes:
    module = f"c{name}\nsystem\n".encode(errors="replace")
    return b"\x80\x02" + module + b"(X\x04\x00\x00\x00truetR."


def _swelling() -> bytes:
    """Returns an archive of megabytes whose only file has two gigabytes."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("archive/version", "3\n")
        with archive.open("archive/data.pkl", "w", force_zip64=True) as stream:
            for _ in range(2**7):
                stream.write(bytes(2**24))
    return sink.getvalue()


def _many_entries() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        for number in range(20_000):
            archive.writestr(f"archive/data/{number}", b"")
    return sink.getvalue()


def _safetensors(header: bytes, length: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def _header(shape: Sequence[int], offsets: Sequence[int], dtype: str = "F32") -> bytes:
    return json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()


_CONTENTS: dict[str, Callable[[Random], bytes]] = {
    "damaged archive": lambda r: damaged(_good("zip"), r),
    "damaged legacy file": lambda r: damaged(_good("legacy"), r),
    "damaged safetensors": lambda r: damaged(_good("safetensors"), r),
    "pickle that acts": lambda _: _with_pickle(_acting()),
    "bare pickle that acts": lambda _: _acting(),
    "lists in lists": lambda _: _with_pickle(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."),
    "tuples in tuples": lambda _: _with_pickle(b"\x80\x02)" + b"\x85" * 100_000 + b"."),
    "doubled lists": lambda _: _with_pickle(_doubling(60)),
    "string of 2 GB": lambda _: _with_pickle(b"\x80\x02X\xff\xff\xff\x7fabc."),
    "integer of 2 GB": lambda _: _with_pickle(b"\x80\x02\x8b\xff\xff\xff\x7fabc."),
    "hostile type": lambda r: _with_pickle(_named(r.choice(HOSTILE_NAMES).replace("\n", ""))),
    "hostile tensor names": lambda _: _saved({n: torch.zeros(1) for n in HOSTILE_NAMES}),
    "tensor of 2 to the 40": lambda _: _tensor([2**40], [1]),
    "tensor beyond its storage": lambda _: _tensor([1000], [1000]),
    "tensor of one value": lambda _: _tensor([2**31], [0]),
    "tensor below its storage": lambda _: _tensor([1], [1], -1000),
    "tensor backwards": lambda _: _tensor([10], [-1]),
    "no tensors": lambda r: _saved(r.choice(({}, [], None, {"state_dict": {}}, {"state_dict": 5}))),
    "100,000 tensors": lambda _: _saved({f"t{n}": torch.zeros(1) for n in range(10_000)}),
    "tensors of other shapes": lambda _: _saved({n: t.reshape(-1) for n, t in _weights().items()}),
    "values that are not numbers": lambda _: _saved(
        {n: t * float("nan") for n, t in _weights().items()}
    ),
    "sparse tensors": lambda _: _saved({n: t.to_sparse() for n, t in [*_weights().items()][:5]}),
    "other numbers": lambda _: _saved({n: t.to(torch.complex64) for n, t in _weights().items()}),
    "archive that swells": lambda _: _swelling(),
    "archive of 20,000 files": lambda _: _many_entries(),
    "archive, deflated": lambda _: _rezipped(lambda _, data: data, zipfile.ZIP_DEFLATED),
    "archive without weights": lambda _: _rezipped(lambda n, d: b"" if "/data/" in n else d),
    "safetensors header of exabytes": lambda _: _safetensors(b"{}", 2**62),
    "safetensors header that nests": lambda _: _safetensors(b'{"a":' + b"[" * 100_000),
    "safetensors without data": lambda _: _safetensors(_header([2**30], [0, 2**32])),
    "safetensors that overlap": lambda _: _safetensors(_header([1], [0, 2**40]), data=bytes(4)),
    "safetensors below 0": lambda _: _safetensors(_header([-1], [-4, 0]), data=bytes(4)),
    "safetensors of no type": lambda _: _safetensors(
        _header([1], [0, 4], "\x1b[31m"), data=bytes(4)
    ),
    "other content": lambda r: r.choice(
        (b"", b"text", b"PK\x03\x04", b"\x80\x02.", r.randbytes(900))
    ),
}

_SUFFIXES = (".pth", ".pt", ".pth.tar", ".ckpt", ".safetensors")


def _run_on(content: Callable[[Random], bytes]) -> Callable[[Path, Random], Sequence[str]]:
    def write(folder: Path, random: Random) -> Sequence[str]:
        name = f"m{random.choice(_SUFFIXES) if random.random() < 0.3 else '.pth'}"
        (folder / name).write_bytes(content(random))
        if random.random() < 0.5:
            return ["export", f"in/{name}", "out/m.onnx"]
        if random.random() < 0.2:
            return ["compile", f"in/{name}", "--for", "ascend310", "--dry-run"]
        (folder / "images").mkdir()
        (folder / "images" / "good.png").write_bytes(encode(".png", picture(*SIZE)))
        (folder / "labels.json").write_text(json.dumps(annotations({"good.png": SIZE})))
        values = {"backend": "onnxruntime:cpu", "model.path": f"in/{name}"}
        return dataset_settings("images", **values)

    return write


def checkpoint_cases(_random: Random) -> list[Case]:
    """Returns one case of each constructed kind, and several of random damage."""
    damages = [name for name in _CONTENTS if name.startswith("damaged")] * 6
    return [Case("checkpoint", name, _run_on(_CONTENTS[name])) for name in [*_CONTENTS, *damages]]

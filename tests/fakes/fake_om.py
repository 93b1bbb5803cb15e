"""The `.om` of the fakes: a description as in a real one, followed by its ONNX model.

It begins as the real one does: a header of 256 bytes and attributes in protobuf's encoding, among
them the compiler's command line. It is computed by ONNX Runtime in single precision; where it is
of half precision, inputs and outputs are rounded to that, and what it cannot hold is infinite.
"""

import json
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from math import prod

import numpy as np
import onnxruntime

_HEADER = b"IMOD" + (256).to_bytes(4, "little") + bytes(248)
_MAGIC = b"IMOD of the fakes\n"


@dataclass(frozen=True)
class Tensor:
    """An input or output; dims as the runtime reports them, size for the largest batch."""

    name: str
    dims: tuple[int, ...]
    dtype: str
    size: int


@dataclass(frozen=True)
class Aipp:
    """Normalisation on the chip: `(bytes - mean) * scale`, from [N, H, W, 3] to [N, 3, H, W]."""

    mean: float
    scale: float


@dataclass(frozen=True)
class Om:
    """A compiled model.

    Attributes:
        soc: chip that the model runs on.
        input_name: name of the input in the ONNX model.
        image: shape of an image, [3, height, width].
        batches: batch sizes; one for a static batch, several for a dynamic one.
        aipp: normalisation in front of the model, which then takes bytes; None without it.
        output_dtype: type of all outputs.
        onnx: serialised ONNX.
        command: command line of the compiler; empty if the file does not state it.
        half: whether the model computes in half precision.
    """

    soc: str
    input_name: str
    image: tuple[int, int, int]
    batches: tuple[int, ...]
    aipp: Aipp | None
    output_dtype: str
    onnx: bytes
    command: str = ""
    half: bool = True

    @property
    def dynamic(self) -> bool:
        return len(self.batches) > 1

    @property
    def image_in_memory(self) -> tuple[int, int, int]:
        channels, height, width = self.image
        return (height, width, channels) if self.aipp else self.image

    @property
    def input_dtype(self) -> str:
        return "uint8" if self.aipp else "float32"

    def inputs(self) -> list[Tensor]:
        dims = (-1 if self.dynamic else self.batches[0], *self.image_in_memory)
        size = self.batches[-1] * prod(self.image) * np.dtype(self.input_dtype).itemsize
        tensors = [Tensor(self.input_name, dims, self.input_dtype, size)]
        if self.dynamic:
            tensors.append(Tensor("ascend_mbatch_shape_data", (1,), "int32", 4))
        return tensors

    def outputs(self) -> list[Tensor]:
        return self._outputs

    @cached_property
    def _outputs(self) -> list[Tensor]:
        itemsize = np.dtype(self.output_dtype).itemsize
        made = self.run(np.zeros((self.batches[-1], *self.image_in_memory), self.input_dtype))
        names = [node.name for node in _session(self.onnx).get_outputs()]
        return [
            Tensor(f"Conv_{index}:0:{name}", array.shape, self.output_dtype, array.size * itemsize)
            for index, (name, array) in enumerate(zip(names, made, strict=True))
        ]

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        if self.aipp:
            planes = images.astype(np.float32).transpose(0, 3, 1, 2)
            images = (planes - self.aipp.mean) * np.float32(self.aipp.scale)
        images = np.ascontiguousarray(self._rounded(images))
        outputs = _session(self.onnx).run(None, {self.input_name: images})
        return [self._rounded(output).astype(self.output_dtype) for output in outputs]

    def _rounded(self, values: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32) if self.half else values

    def save(self) -> bytes:
        fields = asdict(self)
        del fields["onnx"]
        pairs = [("atc_cmdline", self.command)] if self.command else []
        attributes = b"".join(_attribute(key, value) for key, value in pairs)
        return _HEADER + attributes + _MAGIC + json.dumps(fields).encode() + b"\n" + self.onnx


def _attribute(key: str, value: str) -> bytes:
    """Returns an entry of the map `attr`, field 11 of the message `ModelDef` of a real `.om`."""
    inner = _field(2, value.encode())
    return _field(11, _field(1, key.encode()) + _field(2, inner))


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])


def load(content: bytes) -> Om:
    """Returns the model; raises ValueError if the content is not one."""
    _, magic, rest = content.partition(_MAGIC)
    if not magic or not content.startswith(b"IMOD"):
        message = "not an .om of the fakes"
        raise ValueError(message)
    header, _, onnx = rest.partition(b"\n")
    fields = json.loads(header)
    aipp = fields.pop("aipp")
    for name in ("image", "batches"):
        fields[name] = tuple(fields[name])
    return Om(**fields, aipp=Aipp(**aipp) if aipp else None, onnx=onnx)


@lru_cache(8)
def _session(onnx: bytes) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(onnx, settings, providers=["CPUExecutionProvider"])

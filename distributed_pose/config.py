"""What a run is: frozen, validated, read from YAML and `--set dotted.key=value`.

Relative paths are relative to the working directory of the command.
"""

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    ValidationError,
)
from pydantic_core import core_schema

from distributed_pose.errors import ConfigError
from distributed_pose.files import one_line, read_regular
from distributed_pose.locations import Location, redacted
from distributed_pose.records import Simulation
from distributed_pose.yaml_values import parse_yaml

ProfileName = Literal["modelzoo", "upstream", "uint8"]
BackendName = Literal[
    "auto",
    "openvino",
    "onnxruntime",
    "onnxruntime:cpu",
    "onnxruntime:cuda",
    "onnxruntime:tensorrt",
    "onnxruntime:cann",
    "torch",
    "torch:cpu",
    "torch:cuda",
    "ascend",
    "ascend-ais",
    "recorded",
    "oracle",
    "simulated",
    "simulated:ascend310",
    "simulated:ascend310p3",
    "simulated:ascend710",
    "simulated:t4",
]
Precision = Literal["auto", "f32", "bf16", "f16", "int8"]
EngineName = Literal["ray", "inline"]
Gather = Literal["maps", "poses"]
MapsDtype = Literal["f32", "f16"]
Reader = Literal["driver", "worker"]
Damaged = Literal["keep", "fail"]

# Hundreds of times what a configuration takes, and parsed in two seconds.
_MAX_FILE_BYTES = 2**18

# Characters of a value or key, and mistakes, that a message shows.
_MAX_SHOWN = 100
_MAX_MISTAKES = 20

# A count of images, workers or the like; strict, so that `true` and "8" are not numbers.
_Count = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]


def _check_batch_size(value: object) -> object:
    if value == "auto" or (type(value) is int and 1 <= value < 2**31):
        return value
    raise ValueError(f"must be a count from 1, or 'auto', not {_shown(value)}")


# Images in a batch; `auto` is the best one of a sweep on the device.
BatchSize = Annotated[int | Literal["auto"], BeforeValidator(_check_batch_size)]

# No cluster has more devices of a kind than five digits count.
_DEVICE = re.compile(r"cpu(:[1-9][0-9]{0,4})?|(cuda|npu):(\*|0|[1-9][0-9]{0,4})")


def _as_list(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _check_devices(devices: tuple[str, ...]) -> tuple[str, ...]:
    if not devices:
        raise ValueError("needs at least one device, or 'auto'")
    if devices == ("auto",):
        return devices
    for device in devices:
        if not _DEVICE.fullmatch(device):
            raise ValueError(
                f"'{device}' is no device: use 'auto', 'cpu' or 'cpu:N' (N workers), 'cuda:*' or "
                "'npu:*' (all of a kind), 'cuda:N' or 'npu:N' (the one of that number)"
            )
    return devices


def _check_category(value: object) -> object:
    if value is None or type(value) is int or (type(value) is str and value):
        return value
    raise ValueError(f"must be the id or the name of a category, not {_shown(value)}")


# COCO has numbers, other files have text.
_CategoryId = Annotated[int | str | None, BeforeValidator(_check_category)]

_PathT = TypeVar("_PathT", Path, str)


def _check_path(path: _PathT) -> _PathT:
    if "\0" in str(path):
        raise ValueError("a path has no null byte")
    # YAML can spell halves of characters; this is a ValueError with them.
    os.fsencode(path)
    return path


def _as_text(value: object) -> object:
    if isinstance(value, Location):
        return value.plain
    return str(value) if isinstance(value, Path) else value


_Path = Annotated[Path, AfterValidator(_check_path)]

# A path, or a URI that pyarrow opens; written as text, it has no credentials.
_Location = Annotated[
    Location,
    GetPydanticSchema(
        lambda _source, _handler: core_schema.no_info_after_validator_function(
            lambda text: Location(_check_path(text)),
            core_schema.str_schema(),
            serialization=core_schema.to_string_ser_schema(),
        )
    ),
    BeforeValidator(_as_text),
]


def _check_no_uri(value: object) -> object:
    # As a path it would lead into the working directory, and show the credentials that it carries.
    text = str(value) if isinstance(value, Path) else value
    if isinstance(text, str) and ("://" in text or redacted(text) != text):
        raise ValueError(f"must be a path on a mounted filesystem, not a URI, as {_shown(text)} is")
    return value


_MountedPath = Annotated[_Path, BeforeValidator(_check_no_uri)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class DataConfig(_Section):
    """The dataset: a folder of images, packed or not, and a COCO keypoint annotation file.

    A run that names neither these nor a model is the demo. `category` is the id or name of the
    person's category, where several have COCO's keypoints or none names its keypoints.
    """

    images: _Location | None = None
    annotations: _Location | None = None
    category: _CategoryId = None
    limit: _Count | None = None
    repeat: _Count = 1
    read: Reader = "driver"
    damaged: Damaged = "keep"


class ModelConfig(_Section):
    """The model: an ONNX file, a checkpoint of Lightweight OpenPose, or an `.om`.

    For backend `recorded` it is the folder of the maps. Of a checkpoint that holds several
    refinement stages, the network gets as many as `refinement_stages` says.
    """

    path: _MountedPath | None = None
    refinement_stages: Annotated[int, Field(strict=True, ge=1, le=3)] = 1


class KindConfig(_Section):
    """What is different on devices of one kind; what is not set is as for all of them."""

    backend: BackendName | None = None
    precision: Precision | None = None
    batch_size: BatchSize | None = None


class CpuConfig(KindConfig):
    """CPU workers, of which each may be told how many CPUs it takes."""

    cpus: _Count | None = None


class NpuConfig(KindConfig):
    """NPUs, of which the compiler must know the soc, such as `310P3`."""

    soc: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")] | None = None


class SimulatedConfig(_Section):
    """Simulated devices, where they are to differ from the published ones."""

    rate: Annotated[float, Field(strict=True, gt=0, le=1e6)] | None = None
    overhead_ms: Annotated[float, Field(strict=True, ge=0, le=6e4)] = 0.0
    jitter: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.02
    copy_in_ms: Annotated[float, Field(strict=True, ge=0, le=6e4)] = 0.0
    copy_out_ms: Annotated[float, Field(strict=True, ge=0, le=6e4)] = 0.0
    slots: Annotated[int, Field(strict=True, ge=1, le=4)] = 2

    @property
    def simulation(self) -> Simulation:
        """The same in seconds, as it travels to the devices."""
        return Simulation(
            images_per_s=self.rate or 0.0,
            overhead_s=self.overhead_ms / 1e3,
            jitter=self.jitter,
            copy_in_s=self.copy_in_ms / 1e3,
            copy_out_s=self.copy_out_ms / 1e3,
            slots=self.slots,
        )


class RunConfig(_Section):
    """One evaluation run. Every key has a default; README.md describes them."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    profile: ProfileName = "modelzoo"
    backend: BackendName = "auto"
    precision: Precision = "auto"
    batch_size: BatchSize = 8
    devices: Annotated[
        tuple[str, ...], BeforeValidator(_as_list), AfterValidator(_check_devices)
    ] = ("auto",)
    cpu: CpuConfig = CpuConfig()
    cuda: KindConfig = KindConfig()
    npu: NpuConfig = NpuConfig()
    simulated: SimulatedConfig = SimulatedConfig()
    reducers: _Count = 1
    engine: EngineName = "ray"
    gather: Gather = "maps"
    maps_dtype: MapsDtype = "f32"
    dump_maps: _MountedPath | None = None
    allow_failures: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)] = 0
    deadline_s: Annotated[float, Field(strict=True, gt=0, le=86400)] = 30.0

    def on(self, kind: str) -> "KindSettings":
        """Returns what holds on devices of a kind: `cpu`, `cuda` or `npu`."""
        own: KindConfig = getattr(self, kind)
        return KindSettings(
            own.backend or self.backend,
            own.precision or self.precision,
            own.batch_size or self.batch_size,
        )


class KindSettings(NamedTuple):
    """What holds on devices of a kind."""

    backend: BackendName
    precision: Precision
    batch_size: BatchSize


def load_config(path: Path | None = None, overrides: Iterable[str] = ()) -> RunConfig:
    """Returns the validated configuration of a YAML file with overrides applied on top.

    Args:
        path: YAML file; None starts from the defaults.
        overrides: `dotted.key=value` each, the value read as YAML; later ones win.

    Raises:
        ConfigError: for an unreadable file, an unknown key, a wrong type or an impossible value;
            the message names the dotted key.
    """
    values = _read_yaml(path) if path else {}
    for override in overrides:
        _apply(values, override)
    return parse_config(values)


def parse_config(values: Mapping[str, Any]) -> RunConfig:
    """Returns the validated configuration of nested mappings, as YAML or JSON would give them.

    Raises:
        ConfigError: as `load_config`.
    """
    try:
        return RunConfig.model_validate(dict(values))
    except ValidationError as error:
        mistakes = [_explain(entry) for entry in error.errors()[:_MAX_MISTAKES]]
        if (more := error.error_count() - len(mistakes)) > 0:
            mistakes.append(f"and {more} more")
        raise ConfigError("; ".join(mistakes)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = read_regular(path, _MAX_FILE_BYTES)
    except OSError as error:
        hint = "--config must be a regular file of YAML; single keys can be given by --set"
        raise ConfigError(f"cannot read {path}: {one_line(error)}", hint) from None
    except ValueError as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error}", "see --config") from None
    try:
        values = parse_yaml(content.decode())
    except ValueError as error:
        raise ConfigError(f"{path} is not YAML: {_shortened(str(error))}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of keys, not a {type(values).__name__}")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    dotted, separator, text = override.partition("=")
    if not separator or not dotted:
        raise ConfigError(f"--set {override}: expected dotted.key=value")
    try:
        value = text if _is_literal(dotted, text) else parse_yaml(text)
    except ValueError:
        shown = _shortened(repr(text))
        raise ConfigError(f"--set {dotted}: {shown} is not a YAML value") from None
    *parents, leaf = dotted.split(".")
    for name in parents:
        child = values.setdefault(name, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {dotted}: {name} is a value, it has no keys of its own")
        values = child
    values[leaf] = value


def _is_literal(dotted: str, text: str) -> bool:
    """Returns whether a value is text as it stands: one of a path or name without quotes."""
    if text.lstrip()[:1] in {"'", '"', ""} or text.strip() in {"null", "Null", "NULL", "~"}:
        return False
    return dotted in _text_keys(RunConfig)


def _text_keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            yield from _text_keys(nested, f"{prefix}{name}.")
        # Of a path or name or nothing; literals are no classes, and numbers no text.
        elif all(
            isinstance(kind, type) and not issubclass(kind, int | float | tuple)
            for kind in map(_without_checks, get_args(nested) or (nested,))
        ):
            yield f"{prefix}{name}"


def _without_checks(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else get_origin(kind) or kind


def _explain(entry: Any) -> str:
    dotted = ".".join(str(part) for part in entry["loc"] if isinstance(part, str))
    if entry["type"] == "extra_forbidden":
        dotted = _shortened(dotted)
        return f"unknown key '{dotted}'{_did_you_mean(dotted, _dotted_keys(RunConfig))}"
    text = entry["msg"].removeprefix("Value error, ")
    text = text[:1].lower() + text[1:]
    if entry["type"] != "value_error":
        text += f", not {_shown(entry['input'])}"
    if entry["type"] == "literal_error":
        text += _did_you_mean(_shown(entry["input"]), _choices(dotted))
    return f"{dotted}: {text}"


def _shown(value: object) -> str:
    try:
        return _shortened(redacted(repr(value)))
    # Python writes no integers of thousands of digits, and no mappings a thousand deep.
    except (ValueError, RecursionError):
        return "one too long to show"


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_SHOWN else f"{line[:_MAX_SHOWN]}..."


def _did_you_mean(word: str, valid: Iterable[str]) -> str:
    choices = sorted(valid)
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.5) or difflib.get_close_matches(
        word.rpartition(".")[2], choices, n=1, cutoff=0.3
    )
    return f"; did you mean '{near[0]}'?" if near else f"; valid: {', '.join(choices)}"


def _dotted_keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            yield from _dotted_keys(nested, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _choices(dotted: str) -> Iterator[str]:
    section: type[BaseModel] = RunConfig
    *parents, leaf = dotted.split(".")
    for name in parents:
        nested = section.model_fields[name].annotation
        assert isinstance(nested, type)  # noqa: S101 - pydantic came here the same way
        section = nested
    # A literal, or one or nothing.
    for choice in get_args(section.model_fields[leaf].annotation):
        yield from (choice,) if isinstance(choice, str) else get_args(choice)

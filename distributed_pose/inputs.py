"""What a run reads, checked before any device is started."""

import importlib
import os
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

from distributed_pose.backends.registry import BACKENDS, resolve_backend
from distributed_pose.config import RunConfig
from distributed_pose.data.coco import CocoIndex, load_index
from distributed_pose.errors import ConfigError, SetupError
from distributed_pose.files import sha256_hex
from distributed_pose.model.artifacts import Artifact, load_model
from distributed_pose.model.folding import fold_normalisation
from distributed_pose.vision.profiles import PROFILES

# The rooms whose code decides which detections there are.
_DECIDING = ("vision", "pose", "model", "backends", "testing")


@dataclass(frozen=True)
class RunInputs:
    """What a run reads, and what to tell its user."""

    index: CocoIndex
    folder: Path
    annotations: Path
    backend: str
    model: Artifact
    note: str


def read_inputs(config: RunConfig) -> RunInputs:
    """Returns what a run reads.

    Raises:
        ConfigError: if a key that the run needs is not set.
        SetupError: if a file is missing or is not what it should be.
    """
    backend = resolve_backend(config.backend, config.precision)
    config, note = _with_demo(config)
    folder = _required(config.data.images, "data.images")
    annotations = _required(config.data.annotations, "data.annotations")
    if BACKENDS[backend].runs_model:
        _required(config.model.path, "model.path")
    # Unlike Path's, it takes a path of any length.
    if not os.path.isdir(folder):  # noqa: PTH112
        raise SetupError(f"{folder} is no folder", "data.images must hold the images")
    index = load_index(annotations, config.data.limit)
    model = _load_model(config, backend, annotations)
    return RunInputs(index, folder, annotations, backend, model, note)


def fingerprint(config: RunConfig, inputs: RunInputs) -> dict[str, str]:
    """Returns what a run's detections depend on, by name of the part.

    Devices, batch size and engine are not in it: the detections are the same with others. Nor are
    the images' bytes, which are compared image by image where a run is taken up again.
    """
    return {
        "data.annotations": _short(inputs.annotations.read_bytes()),
        "data.limit": f"{len(inputs.index.images)} of {inputs.index.num_images_listed} images",
        "model": inputs.model.sha256[:16],
        "profile": config.profile,
        "precision": config.precision,
        "maps_dtype": config.maps_dtype,
        "code": f"{version('distributed-pose')} {_code_digest()}",
    }


def _load_model(config: RunConfig, backend: str, annotations: Path) -> Artifact:
    if BACKENDS[backend].runs_model:
        model = load_model(_required(config.model.path, "model.path"))
        folds = PROFILES[config.profile].on_bytes
        return replace(model, content=fold_normalisation(model.content)) if folds else model
    content = annotations.read_bytes()
    return Artifact(content, sha256_hex(content), str(annotations))


def _with_demo(config: RunConfig) -> tuple[RunConfig, str]:
    """Returns the demo in place of data and model if none of them is named, and its note."""
    data, model = config.data, config.model
    if data.images or data.annotations or model.path:
        return config, ""
    # By name, so that the system does not depend on its demo.
    module = importlib.import_module("distributed_pose.demo.default")
    demo = module.prepare_demo(max(data.limit or 0, module.DEFAULT_NUM_IMAGES))
    paths = {"images": demo.images, "annotations": demo.annotations}
    update = {
        "data": data.model_copy(update=paths),
        "model": model.model_copy(update={"path": demo.model}),
    }
    return config.model_copy(update=update), demo.note


def _required(path: Path | None, key: str) -> Path:
    if path is None:
        raise ConfigError(f"{key} is not set", f"give --set {key}=PATH or a --config that has it")
    return path


def _short(content: bytes) -> str:
    return sha256_hex(content)[:16]


@cache
def _code_digest() -> str:
    package = Path(__file__).parent
    sources = sorted(path for room in _DECIDING for path in (package / room).glob("*.py"))
    return _short(b"\0".join(path.read_bytes() for path in sources))

"""The inputs of a run, checked before any device is started."""

import importlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any, TypeVar

import numpy.typing as npt

from distributed_pose.config.schema import RunConfig
from distributed_pose.config.selection import Selection, Source, select
from distributed_pose.data.coco import CocoIndex, load_index, repeated
from distributed_pose.data.shards import image_rows, read_shards
from distributed_pose.data.sources import ImageSource, open_images
from distributed_pose.devices.published import PUBLISHED_INPUT
from distributed_pose.errors import ConfigError
from distributed_pose.files.local import short_digest
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.locations import Location
from distributed_pose.model.artifacts import ModelSource, check_stages, truth_source
from distributed_pose.model.makers import Calibration
from distributed_pose.recordings.manifest import describe_recording, recorded_input
from distributed_pose.records.devices import ImagesToRead
from distributed_pose.records.images import ImageRecord, InputSize
from distributed_pose.run.models import configured_model
from distributed_pose.vision.headers import UndecodableImageError
from distributed_pose.vision.preprocess import network_input
from distributed_pose.vision.profiles import PROFILES

# Enough for the ranges of values, and at most a minute of inference.
_CALIBRATION_IMAGES = 64

# A repeated image takes half a kilobyte of the driver's memory, and its result a kilobyte.
_MAX_REPEATED = 10_000_000

# This many images are searched for one that the driver can see, as a sample for the workers.
_SAMPLES = 16

_REPLAYED = "Recorded maps: no model ran, so that there is no compute-only throughput."


@dataclass(frozen=True, kw_only=True, slots=True)
class RunInputs:
    """The inputs of a run, and a note for its user.

    Attributes:
        selection: devices and backends that the configuration selects.
        index: images and ground truth of the annotation file.
        images: place to read the images from.
        images_to_read: the same place for the workers, if they read the images; None if the driver
            does.
        annotations: absolute location of the annotation file.
        model: the user's model, a recording, or the ground truth.
        calibration: calibration data for int8; None if no device computes in int8.
        note: sentences that the user must know before any figure; empty if there are none.
        model_path: configured path of the model; None if none is configured.
        config_file: file that the configuration was read from; None if there is none.
        session_ids: ids of the images that the session evaluates; None for all. The others stay
            pending, and a later session evaluates them.
    """

    selection: Selection
    index: CocoIndex
    images: ImageSource
    images_to_read: ImagesToRead | None
    annotations: Location
    model: ModelSource
    calibration: Calibration | None
    note: str
    model_path: Path | None
    config_file: Path | None = None
    session_ids: frozenset[int] | None = None

    def in_session(self, images: Sequence[ImageRecord]) -> list[ImageRecord]:
        """Returns the images that the session evaluates, in their order."""
        chosen = self.session_ids
        return [image for image in images if chosen is None or image.image_id in chosen]

    @property
    def files(self) -> dict[str, Path | Location | None]:
        """Files that no output may overwrite, by configuration key or option."""
        return {
            "--config": self.config_file,
            "data.annotations": self.annotations,
            "model.path": self.model_path,
        }


def read_inputs(config: RunConfig, config_file: Path | None = None) -> RunInputs:
    """Returns the inputs of a run.

    Args:
        config: configuration of the run.
        config_file: file that the configuration was read from.

    Raises:
        ConfigError: if a required key is not set, or a backend does not have what is configured.
        SetupError: if a file is missing, or not of the expected kind.
    """
    return _read_inputs(config, select(config), config_file)


def _read_inputs(
    config: RunConfig, selection: Selection, config_file: Path | None = None
) -> RunInputs:
    model_path = config.model.path
    config, note = _with_demo(config, selection.source)
    index, source, annotations = _read_dataset(config, selection.keypoints)
    model, input_size = _model(config, selection, index, annotations)
    selection = replace(selection, input_size=input_size)
    if config.data.repeat > 1:
        counted = f"Each image is counted {config.data.repeat} times, and once in intervals of AP."
        note = f"{note} {counted}".strip()
    return RunInputs(
        selection=selection,
        index=index,
        images=source,
        images_to_read=_images_to_read(config.data.read, index, source),
        annotations=annotations.absolute(),
        model=model,
        calibration=_calibration(selection, index, source, model),
        note="\n".join(filter(None, (note, *_simulation_notes(config, selection), *model.notes))),
        model_path=model_path,
        config_file=config_file,
    )


def read_dataset(config: RunConfig) -> tuple[CocoIndex, ImageSource, Location]:
    """Returns the dataset of a configuration: index, images, and where the annotations are.

    Raises:
        ConfigError: if `select` raises it, a key is not set, or the images are repeated too often.
        SetupError: if images or annotations are missing, or not of the expected kind.
    """
    selection = select(config)
    config, _ = _with_demo(config, selection.source)
    return _read_dataset(config, selection.keypoints)


def _read_dataset(
    config: RunConfig, keypoints: KeypointSet
) -> tuple[CocoIndex, ImageSource, Location]:
    folder = _required(config.data.images, "data.images")
    annotations = _required(config.data.annotations, "data.annotations")
    source = open_images(folder)
    index = load_index(annotations, config.data.limit, config.data.category, source, keypoints)
    _check_count(len(index.images), config.data.repeat)
    return repeated(index, config.data.repeat), source, annotations


def _simulation_notes(config: RunConfig, selection: Selection) -> Iterator[str]:
    """Yields sentences about rates that are estimated, and cores that are simulated."""
    backends = [kind.backend.partition(":")[0] for kind in selection.kinds.values()]
    is_published = "simulated" in backends and config.simulated.rate is None
    if is_published and (config.profile == "upstream" or selection.input_size != PUBLISHED_INPUT):
        yield (
            f"Simulated devices: rates published for inputs of {PUBLISHED_INPUT} are scaled by the "
            "number of input pixels, which is an estimate."
        )
    host = config.simulated.host
    if host.cores is None:
        return
    yield (
        f"Simulated host: decoding, preprocessing and grouping wait {host.decode_ms:g}, "
        f"{host.preprocess_ms:g} and {host.group_ms:g} ms per image on {host.cores} simulated "
        "cores per node instead of computing; rates are not those of this machine."
    )


def _check_count(images: int, repeat: int) -> None:
    if repeat > 1 and images * repeat > _MAX_REPEATED:
        raise ConfigError(
            f"data.repeat: {images} images {repeat} times are {images * repeat:,}, over the limit "
            f"of {_MAX_REPEATED:,}"
        )


def _images_to_read(read: str, index: CocoIndex, source: ImageSource) -> ImagesToRead | None:
    """Returns the images that workers must or may read; None if only the driver reads.

    Args:
        read: configured process that reads.
        index: images of the run.
        source: place of the images.
    """
    if read == "driver":
        return None
    names = (image.file_name for image in index.images[:_SAMPLES])
    found = (name for name in names if source.size(name) is not None)
    return ImagesToRead(source.location, next(found, ""), is_required=read == "worker")


def read_model(
    config: RunConfig, selection: Selection
) -> tuple[Selection, ModelSource, Calibration | None]:
    """Returns the selection with the input size, the model, and the calibration for int8.

    The dataset is read only where the model needs it.

    Args:
        config: configuration of the run.
        selection: selection of the configuration.

    Raises:
        ConfigError: see `read_inputs`.
        SetupError: see `read_inputs`.
    """
    if selection.uses_int8 or config.model.path is None or not selection.runs_model:
        inputs = _read_inputs(config, selection)
        return inputs.selection, inputs.model, inputs.calibration
    model, size = configured_model(config, config.model.path, selection.keypoints)
    return replace(selection, input_size=size), model, None


def _calibration(
    selection: Selection, index: CocoIndex, source: ImageSource, model: ModelSource
) -> Calibration | None:
    """Returns the first images of a run as calibration inputs; None if no device uses int8."""
    if not selection.uses_int8:
        return None
    images = index.images[:_CALIBRATION_IMAGES]
    profile = PROFILES[selection.profile].sized(selection.input_size)

    def arrays() -> Iterator[npt.NDArray[Any]]:
        profiles = cycle(profile.at_scales(selection.scales))
        for shard in read_shards(images, source, 1):
            for record, encoded in image_rows(shard.images):
                try:
                    input_3HW, _ = network_input(encoded, record, next(profiles))
                except UndecodableImageError:
                    continue
                yield input_3HW[None]

    sizes = [(image.image_id, source.size(image.file_name)) for image in images]
    digest = short_digest(
        repr(
            (model.sha256, selection.profile, selection.input_size, selection.scales, sizes)
        ).encode()
    )
    return Calibration(arrays, digest, len(images))


def _model(
    config: RunConfig, selection: Selection, index: CocoIndex, annotations: Location
) -> tuple[ModelSource, InputSize]:
    """Returns what the run's backends answer from, and the size of the network inputs."""
    stages, source = config.model.refinement_stages, selection.source
    if source == "model":
        return configured_model(config, _required(config.model.path, "model.path"), index.keypoints)
    profile = PROFILES[config.profile]
    check_stages(stages, "a recording" if source == "recording" else "the ground truth")
    if source == "recording":
        path = _required(config.model.path, "model.path")
        profile = profile.sized(config.input_size or recorded_input(path.absolute()))
        content, digest = describe_recording(
            path.absolute(), index.images, profile, selection.keypoints
        )
        return ModelSource(content, "recording", digest, str(path)), profile.size
    profile = profile.sized(config.input_size)
    truth = truth_source(str(annotations), json.dumps(index.ground_truth).encode())
    return truth, profile.size


def _with_demo(config: RunConfig, source: Source) -> tuple[RunConfig, str]:
    """Returns the configuration, with the demo where it names no data and no model, and a note."""
    data, model = config.data, config.model
    replayed = source == "recording"
    note = _REPLAYED if replayed else ""
    if data.images or data.annotations or (model.path and not replayed):
        return config, note
    # By name, so that the system does not depend on its demo.
    module = importlib.import_module("distributed_pose.demo.default")
    demo = module.prepare_demo(max(data.limit or 0, module.DEFAULT_NUM_IMAGES))
    paths = {"images": Location(demo.images), "annotations": Location(demo.annotations)}
    update: dict[str, Any] = {"data": data.model_copy(update=paths)}
    if not replayed:
        update["model"] = model.model_copy(update={"path": demo.model})
    return config.model_copy(update=update), "\n".join(filter(None, (demo.note, note)))


_T = TypeVar("_T")


def _required(path: _T | None, key: str) -> _T:
    if path is None:
        raise ConfigError(f"{key} is not set", f"give --set {key}=PATH or a --config that has it")
    return path

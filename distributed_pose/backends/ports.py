"""Recognises the input and the outputs of a model, and checks that batches fit the input."""

import re
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

from distributed_pose.backends.base import InputBatch
from distributed_pose.errors import SetupError, shown
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.records.images import STRIDE, InputSize
from distributed_pose.records.models import ModelPort

if TYPE_CHECKING:
    # The import would also load OpenCV, so that only type checkers make it.
    from distributed_pose.vision.profiles import Profile

# Matches `stage_1_output_0_pafs`, `stage1` and `Stage-1`. A number alone does not name a stage.
_STAGE = re.compile(r"(?<![a-z])stage[_.-]?(\d{1,4})(?!\d)", re.IGNORECASE)

# Maps the type of an input to that of its batches, which are converted when the model runs.
_FED_AS = {"float16": "float32", "float64": "float32"}
_INPUT_DTYPES = ("float32", "float16", "float64", "uint8")

_CHANNELS_LAST = (
    "it is channels-last (NHWC): export it with channels first, as tf2onnx does with "
    "--inputs-as-nchw and --outputs-as-nchw"
)


def select_outputs(outputs: Sequence[ModelPort], keypoints: KeypointSet) -> tuple[str, str]:
    """Returns the names of the last stage's heatmaps and PAFs.

    The channel count distinguishes heatmaps from PAFs, and the number in the name the stages. If no
    name has a number, the outputs must be pairs of heatmaps and PAFs in one order, and the last
    pair is chosen. Where a set has as many heatmaps as PAF channels, PAFs are those outputs whose
    names say so.

    Args:
        outputs: outputs of the model.
        keypoints: keypoint set of the model.

    Raises:
        SetupError: if either is missing or ambiguous, or of another keypoint set; lists the outputs
            of the model.
    """
    heatmaps, pafs = _heatmaps_and_pafs(outputs, keypoints)
    if len(heatmaps) == len(pafs) == 1:
        return heatmaps[0].name, pafs[0].name
    last_heatmaps, last_pafs = _last_stage(heatmaps), _last_stage(pafs)
    if last_heatmaps and last_pafs and _are_of_one_stage(last_heatmaps, last_pafs):
        return last_heatmaps.name, last_pafs.name
    pairs = [port for port in outputs if port in heatmaps or port in pafs]
    is_paired = _alternate([port in heatmaps for port in pairs])
    if any(_stage(port) is not None for port in pairs) or not is_paired:
        channels = keypoints.num_heatmaps if len(heatmaps) > 1 else keypoints.num_pafs
        raise SetupError(
            f"the model has more than one output of {channels} channels, and neither their names "
            f"nor their order show which is the last stage's: {_list(outputs)}",
            "name them as in stage_1_heatmaps and stage_1_pafs, or export the last stage alone",
        )
    return heatmaps[-1].name, pafs[-1].name


def check_input(inputs: Sequence[ModelPort], name: str = "the model") -> str:
    """Returns the name of the model's image input.

    Args:
        inputs: inputs of the model.
        name: name of the model, for the message.

    Raises:
        SetupError: if the model does not take a single batch of three-channel images of a supported
            type.
    """
    is_turned = len(inputs) == 1 and _is_channels_last(inputs[0], 3)
    is_image = len(inputs) == 1 and len(inputs[0].shape) == 4 and inputs[0].shape[1] in {3, None}
    if is_image and not is_turned:
        _check_values(inputs[0], name)
        return inputs[0].name
    raise SetupError(
        f"{name} has inputs {_list(inputs) or 'none'}",
        _CHANNELS_LAST if is_turned else "expected one of [batch, 3, height, width]",
    )


def check_profile(inputs: Sequence[ModelPort], profile: "Profile", path: str) -> None:
    """Checks that a user's model takes the inputs that a profile makes.

    Args:
        inputs: inputs of the model.
        profile: preprocessing profile.
        path: path of the model, for the message.

    Raises:
        SetupError: if it does not, such as when its fixed size is another; says both sizes.
    """
    check_input(inputs, path)
    port = inputs[0]
    if port.dtype == "uint8":
        raise SetupError(
            f"{path} takes uint8, and profiles feed models that take normalised floats",
            "export it without its normalisation; profile=uint8 adds its own",
        )
    height, width = port.shape[2:]
    fixed_width = profile.size.width if profile.is_fixed else None
    made_height = profile.nominal_input[0]
    if height not in {None, made_height} or width not in {None, fixed_width}:
        wanted = f"{profile.size}" if profile.is_fixed else f"{made_height} by any width"
        raise SetupError(
            f"{path} takes inputs of {height or '?'}x{width or '?'} (height x width), and profile "
            f"{profile.name} makes {wanted}",
            _size_hint(height, width, profile),
        )


def model_input_size(inputs: Sequence[ModelPort], profile: "Profile") -> InputSize | None:
    """Returns the size that a model fixes for the inputs of a profile; None if it fixes none.

    Args:
        inputs: inputs of the model.
        profile: preprocessing profile. The inputs of some profiles follow the image.
    """
    if not profile.is_fixed or len(inputs) != 1 or len(inputs[0].shape) != 4:
        return None
    height, width = inputs[0].shape[2:]
    is_usable = height and width and not (height % STRIDE or width % STRIDE)
    return InputSize(height, width) if height and width and is_usable else None


def _size_hint(height: int | None, width: int | None, profile: "Profile") -> str:
    sides = [side for side in (height, width) if side]
    if any(side % STRIDE for side in sides):
        return f"export it for a height and width that are multiples of {STRIDE}"
    if not profile.is_fixed and width is None:
        # The height of these inputs is exact, and the width is the least one.
        return f"set input={height}x{height}, or export it with dynamic height and width"
    wanted = InputSize(height or profile.size.height, width or profile.size.width)
    # Only profiles with a fixed size make inputs of one width.
    setting = f"input={wanted}" if profile.is_fixed else f"profile=modelzoo and input={wanted}"
    return f"set {setting}, or export it with dynamic height and width"


def batch_dtype(dtype: str) -> str:
    """Returns the type of the batches for an input of a type, by NumPy's names."""
    return _FED_AS.get(dtype, dtype)


def check_fits(model_input: ModelPort, batch: InputBatch) -> None:
    """Checks a batch against the type and the fixed dimensions of the model's input.

    A batch of float32 fits an input of float16 or float64: the backend that runs the model converts
    it.

    Raises:
        SetupError: if they differ; says how to export the model.
    """
    found = batch.inputs_N3HW.shape
    dtype = batch.inputs_N3HW.dtype.name
    if batch_dtype(model_input.dtype) != dtype:
        raise SetupError(
            f"the model's input {model_input.name} is {model_input.dtype}, the profile's {dtype}",
            "export it with a float32 input, which every profile can feed",
        )
    fixed = model_input.shape
    if any(size is not None and size != n for size, n in zip(fixed, found, strict=True)):
        raise SetupError(
            f"the model takes {_list([model_input])} and the batch is {list(found)}",
            "export it with dynamic axes, or for batch_size=1 and the input size of the profile",
        )


def _heatmaps_and_pafs(
    outputs: Sequence[ModelPort], keypoints: KeypointSet
) -> tuple[list[ModelPort], list[ModelPort]]:
    sizes = keypoints.num_heatmaps, keypoints.num_pafs
    heatmaps, pafs = (
        [port for port in outputs if len(port.shape) == 4 and port.shape[1] == size]
        for size in sizes
    )
    if sizes[0] == sizes[1]:
        pafs = [port for port in pafs if "paf" in port.name.lower()]
        heatmaps = [port for port in heatmaps if port not in pafs]
    for found, size, kind in zip((heatmaps, pafs), sizes, ("heatmaps", "PAFs"), strict=True):
        if not found:
            named = ", named as in stage_1_pafs," if sizes[0] == sizes[1] else ""
            raise SetupError(
                f"the model has no output of {size} channels{named} for the {kind} of keypoint "
                f"set {keypoints.name}: {_list(outputs) or 'none'}",
                _unfit_hint(outputs, size),
            )
    return heatmaps, pafs


def _unfit_hint(outputs: Sequence[ModelPort], channels: int) -> str:
    """Returns advice for a model without outputs of a number of channels."""
    if any(_is_channels_last(output, channels) for output in outputs):
        return _CHANNELS_LAST
    counts = sorted({port.shape[1] or 0 for port in outputs if len(port.shape) == 4})
    fitting = [pair for pair in product(counts, repeat=2) if _can_be_maps(*pair)]
    if len(fitting) != 1:
        return "model.path must be a pose network of the OpenPose family"
    heatmaps, pafs = fitting[0]
    return (
        f"its maps fit {heatmaps - 1} keypoints and {pafs // 2} limbs: set keypoints to the file "
        "of such a set"
    )


def _can_be_maps(heatmaps: int, pafs: int) -> bool:
    """Returns whether a set has these numbers of channels: its limbs connect all keypoints."""
    return heatmaps >= 3 and pafs % 2 == 0 and pafs // 2 >= heatmaps - 2


def _last_stage(ports: Sequence[ModelPort]) -> ModelPort | None:
    """Returns the port of the highest stage by name; None if the names are ambiguous."""
    stages = [_stage(port) for port in ports]
    known = [stage for stage in stages if stage is not None]
    if len(ports) == 1:
        return ports[0]
    if len(known) < len(ports) or known.count(max(known)) > 1:
        return None
    return ports[known.index(max(known))]


def _are_of_one_stage(heatmaps: ModelPort, pafs: ModelPort) -> bool:
    stages = _stage(heatmaps), _stage(pafs)
    return None in stages or stages[0] == stages[1]


def _alternate(kinds: Sequence[bool]) -> bool:
    """Returns whether the kinds are whole pairs of different ones in one order."""
    first = [*kinds[:2]]
    return first in ([True, False], [False, True]) and kinds == first * (len(kinds) // 2)


def _stage(port: ModelPort) -> int | None:
    match = _STAGE.search(port.name)
    return int(match[1]) if match else None


def _check_values(port: ModelPort, name: str) -> None:
    if port.dtype not in _INPUT_DTYPES:
        raise SetupError(
            f"{name} has an input {port.name} of {port.dtype}, which no profile makes",
            "export it with a float32 input",
        )
    if 0 in port.shape:
        raise SetupError(
            f"{name} has an input {_list([port])} with a dimension of 0",
            "export it with that dimension left open",
        )


def _is_channels_last(port: ModelPort, channels: int) -> bool:
    return len(port.shape) == 4 and port.shape[1] != channels and port.shape[3] == channels


def _list(ports: Sequence[ModelPort]) -> str:
    sizes = [["?" if n is None else str(n) for n in port.shape] for port in ports]
    return ", ".join(
        f"{shown(port.name)} [{', '.join(dims) or 'no shape'}]"
        for port, dims in zip(ports, sizes, strict=True)
    )

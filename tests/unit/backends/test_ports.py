"""The input and outputs of a model are recognised, or refused with a list of them."""

import re

import pytest

from distributed_pose import SetupError
from distributed_pose.backends.ports import check_input, check_profile, select_outputs
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.records.images import InputSize
from distributed_pose.records.models import ModelPort
from distributed_pose.vision.profiles import PROFILES
from tests.chain_sets import chain_of

Shape = tuple[int | None, ...]


def outputs(*channels: int, names: tuple[str, ...] = ()) -> list[ModelPort]:
    names = names or tuple(str(number + 1) for number in range(len(channels)))
    return [ModelPort(name, (None, n, None, None)) for name, n in zip(names, channels, strict=True)]


def image(*shape: int | None, dtype: str = "float32") -> list[ModelPort]:
    return [ModelPort("data", shape, dtype)]


@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize("pair", [(19, 38), (38, 19)])
def test_the_last_pair_is_used_if_names_have_no_stage(stages: int, pair: tuple[int, int]) -> None:
    ports = outputs(*pair * stages)
    by_channels = {port.shape[1]: port.name for port in ports[-2:]}
    assert select_outputs(ports, coco_body()) == (by_channels[19], by_channels[38])


@pytest.mark.parametrize(
    "names",
    [
        ("output_17", "output_3", "conv2d_54", "conv2d_56"),
        ("9", "8", "7", "6"),
        ("backstage_9", "x", "y", "z"),
        ("stage", "stages", "stage_x", "a_stage"),
    ],
)
def test_numbers_in_meaningless_names_are_not_stages(names: tuple[str, ...]) -> None:
    assert select_outputs(outputs(19, 38, 19, 38, names=names), coco_body()) == names[2:]


@pytest.mark.parametrize(
    "pattern", ["stage_{}_x", "Stage{}", "STAGE-{}/y", "net.stage.{}", "stage_{}_output_17_h"]
)
def test_stages_in_names_take_precedence_over_the_order(pattern: str) -> None:
    heatmaps, pafs = (tuple(pattern.format(n) + kind for n in (1, 0)) for kind in "hp")
    names = (heatmaps[0], pafs[0], heatmaps[1], pafs[1])
    assert select_outputs(outputs(19, 38, 19, 38, names=names), coco_body()) == (
        heatmaps[0],
        pafs[0],
    )


def test_other_outputs_are_ignored() -> None:
    ports = outputs(128, 19, 38, 57, 19, 38, 1)
    assert select_outputs([*ports, ModelPort("flat", (None, 19))], coco_body()) == ("5", "6")


@pytest.mark.parametrize(
    ("channels", "names"),
    [
        ((19, 19, 38, 38), ()),
        ((19, 38, 38, 19), ()),
        ((19, 38, 19), ()),
        ((19, 19, 38), ()),
        ((19, 38, 19, 38), ("stage_1_h", "stage_1_p", "h", "p")),
        ((19, 38, 19, 38), ("stage_1_h", "stage_0_p", "stage_0_h", "stage_2_p")),
        ((19, 38, 19, 38), ("stage_1_h", "stage_1_p", "stage_1_i", "stage_1_q")),
    ],
)
def test_ambiguous_outputs_are_refused_with_their_list(
    channels: tuple[int, ...], names: tuple[str, ...]
) -> None:
    ports = outputs(*channels, names=names)
    with pytest.raises(SetupError, match=r"more than one output of (19|38) channels") as caught:
        select_outputs(ports, coco_body())
    assert all(port.name in str(caught.value) for port in ports)


@pytest.mark.parametrize(
    ("ports", "message"),
    [
        ([ModelPort("y", (1, 46, 80, 19)), ModelPort("z", (1, 46, 80, 38))], r"y \[1, 46.*NHWC"),
        ([ModelPort("y", ())], r"no output of 19 .*: y \[no shape\]"),
        ([ModelPort("y", (None, None, None, None))], r"y \[\?, \?, \?, \?\]"),
        ([], "no output of 19 channels for the heatmaps of keypoint set coco_body: none"),
        (outputs(19), "no output of 38 channels for the PAFs"),
    ],
)
def test_missing_outputs_are_refused_with_the_list_of_outputs(
    ports: list[ModelPort], message: str
) -> None:
    with pytest.raises(SetupError, match=message):
        select_outputs(ports, coco_body())


@pytest.mark.parametrize("count", [2, 6, 21, 100])
def test_outputs_are_those_of_the_keypoint_set(count: int) -> None:
    keypoints = chain_of(count)
    ports = outputs(*(keypoints.num_heatmaps, keypoints.num_pafs) * 2)
    assert select_outputs([*ports, *outputs(19, 38)], keypoints) == ("3", "4")


@pytest.mark.parametrize(
    ("channels", "fits"),
    [
        ((7, 10), "6 keypoints and 5 limbs"),
        ((10, 7), "6 keypoints and 5 limbs"),
        ((22, 40, 22, 40), "21 keypoints and 20 limbs"),
        ((10, 7, 38), "OpenPose family"),
        ((7,), "OpenPose family"),
    ],
)
def test_a_model_of_another_set_is_refused_with_the_size_that_it_fits(
    channels: tuple[int, ...], fits: str
) -> None:
    with pytest.raises(SetupError, match=f"no output of 19 channels.*coco_body.*({fits})"):
        select_outputs(outputs(*channels), coco_body())


def test_a_model_of_the_body_of_coco_is_refused_for_another_set() -> None:
    with pytest.raises(SetupError, match=r"no output of 7 channels.*chain_of_6.*18 keypoints"):
        select_outputs(outputs(19, 38), chain_of(6))


def test_pafs_are_known_by_name_where_a_set_has_as_many_of_them_as_heatmaps() -> None:
    keypoints = chain_of(3)
    names = ("stage_0_pafs", "stage_0_h", "stage_1_h", "stage_1_pafs")
    assert select_outputs(outputs(4, 4, 4, 4, names=names), keypoints) == names[2:]
    with pytest.raises(SetupError, match=r"4 channels, named as in stage_1_pafs, for the PAFs"):
        select_outputs(outputs(4, 4), keypoints)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("batch", [None, 1, 8])
def test_floats_of_any_width_batch_and_dynamic_size_fit_every_profile(
    dtype: str, profile: str, batch: int | None
) -> None:
    check_profile(image(batch, 3, None, None, dtype=dtype), PROFILES[profile], "M.onnx")
    check_profile(image(batch, None, 368, None, dtype=dtype), PROFILES[profile], "M.onnx")


@pytest.mark.parametrize(
    ("profile", "size", "sizes"),
    [
        ("modelzoo", (256, 456), ("256x456", "368x640")),
        ("modelzoo", (None, 656), ("?x656", "368x640")),
        ("uint8", (256, None), ("256x?", "368x640")),
        ("upstream", (368, 656), ("368x656", "368 by any width")),
        ("upstream", (None, 640), ("?x640", "368 by any width")),
    ],
)
def test_a_fixed_size_other_than_the_profiles_is_refused_with_both_sizes(
    profile: str, size: tuple[int | None, int | None], sizes: tuple[str, str]
) -> None:
    with pytest.raises(SetupError, match=r"M.onnx takes inputs of") as caught:
        check_profile(image(None, 3, *size), PROFILES[profile], "M.onnx")
    assert all(text in str(caught.value) for text in (*sizes, f"profile {profile}"))


@pytest.mark.parametrize(
    ("profile", "size", "hint"),
    [
        ("modelzoo", (256, 456), "set input=256x456, or export it with dynamic height and width"),
        ("modelzoo", (256, None), "set input=256x640, or"),
        ("upstream", (368, 656), "set profile=modelzoo and input=368x656, or"),
        ("upstream", (256, None), "set input=256x256, or"),
        ("upstream", (None, 640), "set profile=modelzoo and input=368x640, or"),
    ],
)
def test_the_hint_for_a_fixed_size_names_settings_that_the_model_takes(
    profile: str, size: tuple[int | None, int | None], hint: str
) -> None:
    inputs = image(None, 3, *size)
    with pytest.raises(SetupError) as caught:
        check_profile(inputs, PROFILES[profile], "M.onnx")
    assert hint in caught.value.hint
    settings = re.findall(r"(profile|input)=(\w+)", caught.value.hint)
    named = {"profile": profile, **dict(settings)}
    check_profile(inputs, PROFILES[named["profile"]].sized(InputSize.parse(named["input"])), "M")


def test_the_profiles_own_size_fits() -> None:
    for profile in ("modelzoo", "uint8"):
        check_profile(image(1, 3, 368, 640), PROFILES[profile], "M.onnx")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (image(1, 368, 640, 3), r"M.onnx has inputs data \[1, 368, 640, 3\].*channels-last"),
        (image(None, None, None, 3), "channels-last"),
        (image(1, 1, 368, 640), r"data \[1, 1, 368, 640\] .*expected one of \[batch, 3, "),
        (image(), r"data \[no shape\]"),
        (image(3, 368, 640), r"data \[3, 368, 640\]"),
        ([], "M.onnx has inputs none"),
        ([*image(1, 3, 368, 640), ModelPort("size", (2,))], r"data .*, size \[2\]"),
        (image(0, 3, 368, 640), r"data \[0, 3, 368, 640\] with a dimension of 0"),
        (image(1, 3, 368, 640, dtype="int64"), "input data of int64, .*float32 input"),
        (image(1, 3, 368, 640, dtype="bfloat16"), "input data of bfloat16"),
        (image(1, 3, 368, 640, dtype="uint8"), "M.onnx takes uint8, .*without its normalisation"),
    ],
)
def test_an_input_that_no_profile_makes_is_refused_by_name(
    inputs: list[ModelPort], message: str
) -> None:
    with pytest.raises(SetupError, match=message):
        check_profile(inputs, PROFILES["modelzoo"], "M.onnx")


def test_an_image_input_may_take_bytes() -> None:
    assert check_input(image(1, 3, 368, 640, dtype="uint8")) == "data"

"""The inputs and outputs of an `.om` are read alike for every runtime."""

import numpy as np
import pytest

from distributed_pose import SetupError
from distributed_pose.backends.base import InputBatch
from distributed_pose.backends.om import Chunk, image_input, map_outputs, om_port
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.records.images import Geometry


def test_an_output_has_its_name_in_the_onnx_model_and_not_that_of_its_node() -> None:
    names = {
        "Conv_1:0:stage_1_output_1_heatmaps": "stage_1_output_1_heatmaps",
        "PartitionedCall_/stage_9/Conv_2:0:stage_0:x": "stage_0:x",
        "Conv_44:0": "Conv_44:0",
        "data": "data",
    }
    assert [om_port(name, (1,), "float32").name for name in names] == list(names.values())


def test_a_stage_is_read_from_the_name_of_the_output_and_not_of_its_node() -> None:
    outputs = [
        om_port(f"stage_9/Conv:0:stage_0_{kind}", (1, channels, 4, 6), "float32")
        for kind, channels in (("heatmaps", 19), ("pafs", 38))
    ]
    outputs += [
        om_port(f"last/Conv:0:stage_1_{kind}", (1, channels, 4, 6), "float32")
        for kind, channels in (("pafs", 38), ("heatmaps", 19))
    ]
    assert map_outputs(outputs, coco_body()) == (3, 2)


@pytest.mark.parametrize("dims", [(-1, 3, -1, -1), (1, 3, 368, -1), (-1, 3, 368, 640)])
def test_an_input_of_dynamic_size_is_refused(dims: tuple[int, ...]) -> None:
    with pytest.raises(SetupError, match=r"data has dimensions that are not fixed: \[-?1, 3"):
        image_input([om_port("data", dims, "float32")])


def test_an_output_of_dynamic_size_is_refused() -> None:
    outputs = [
        om_port("heatmaps", (1, 19, -1, -1), "float32"),
        om_port("pafs", (1, 38, 4, 6), "float32"),
    ]
    with pytest.raises(SetupError, match="heatmaps has no fixed size"):
        map_outputs(outputs, coco_body())


@pytest.mark.parametrize("dims", [(1, 3), (1, 4, 8, 8)])
def test_an_input_that_is_not_an_image_is_refused(dims: tuple[int, ...]) -> None:
    with pytest.raises(SetupError, match="the model has inputs data"):
        image_input([om_port("data", dims, "float32")])


def test_more_than_one_input_is_refused() -> None:
    with pytest.raises(SetupError, match=r"the model has inputs a .*, b"):
        image_input([om_port(name, (1, 3, 8, 8), "float32") for name in "ab"])


@pytest.mark.parametrize(
    ("sizes", "images", "chunks"),
    [
        ((4,), 4, [(0, 4, 4)]),
        ((4,), 9, [(0, 4, 4), (4, 8, 4), (8, 9, 4)]),
        ((8, 1, 2), 3, [(0, 3, 8)]),
        ((8, 1, 2), 10, [(0, 8, 8), (8, 10, 2)]),
    ],
)
def test_a_batch_is_run_in_parts(
    sizes: tuple[int, ...], images: int, chunks: list[tuple[int, int, int]]
) -> None:
    taken = image_input([om_port("data", (-1, 3, 8, 8), "float32")], sizes)
    assert taken.chunks(images) == [Chunk(*chunk) for chunk in chunks]


@pytest.mark.parametrize("dims", [(4, 3, 16, 24), (4, 16, 24, 3)])
def test_images_are_written_in_the_layout_of_the_model(dims: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 24), dtype=np.uint8)
    taken = image_input([om_port("data", dims, "uint8")])
    out = np.full((4, *taken.image_shape), 7, np.uint8)
    taken.pack(images, out)
    axes = (0, 2, 3, 1) if taken.channels_last else (0, 1, 2, 3)
    assert taken.port.shape == (None, 3, 16, 24)
    np.testing.assert_array_equal(out[:3], images.transpose(axes))
    assert not out[3:].any()


@pytest.mark.parametrize(
    ("dims", "axes"), [((2, 3, 4, 6), (0, 1, 2, 3)), ((2, 4, 6, 3), (0, 2, 3, 1))]
)
def test_a_model_with_half_precision_inputs_gets_converted_floats(
    dims: tuple[int, ...], axes: tuple[int, ...]
) -> None:
    image = image_input([om_port("data", dims, "float16")])
    inputs = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 3, 4, 6)).astype(np.float32)
    image.check(InputBatch((1,), (Geometry(4, 6, 0, 0, 0, 0),), inputs), limit=2)
    memory = np.ones(dims, np.float16)
    image.pack(inputs, memory)
    np.testing.assert_array_equal(memory[:1], inputs.astype(np.float16).transpose(axes))
    assert not memory[1:].any()

"""Rendered pictures vary, and their labels match the drawn people."""

import numpy as np
import pytest

from distributed_pose.demo.drawing import Canvas, draw_figure, visible_keypoints
from distributed_pose.demo.figures import JOINTS, Figure, sample_figure
from distributed_pose.demo.scenes import render_scene
from distributed_pose.demo.wardrobe import sample_outfit
from distributed_pose.keypoints.reading import coco_body

SCENES = 80


@pytest.fixture(scope="module")
def scenes():
    return [render_scene(0, index) for index in range(SCENES)]


def figure_towards(yaw):
    """A figure that stands upright in the middle of a 400 x 400 image, turned by `yaw` degrees."""
    generator = np.random.default_rng(3)
    while True:
        figure = sample_figure(generator, 300.0)
        limbs = figure.joint("left_hip")[0] - figure.joint("right_hip")[0]
        if abs(figure.yaw - yaw) < 8 and abs(figure.head_yaw - yaw) < 8 and abs(limbs) < 60:
            return figure.moved(200, 220)


def draw(figure):
    canvas = Canvas(np.zeros((400, 400, 3), np.uint8), np.zeros((400, 400), np.int16))
    draw_figure(canvas, figure, sample_outfit(np.random.default_rng(0)), person=0)
    return canvas


def labelled(figure):
    visibility = visible_keypoints(draw(figure), figure, 0, coco_body())[:, 2]
    return dict(zip(coco_body().dataset_keypoints, visibility, strict=True))


def test_a_seed_and_an_index_determine_a_picture(scenes):
    again = render_scene(0, 7)
    np.testing.assert_array_equal(again.image_HW3, scenes[7].image_HW3)
    other = render_scene(1, 7)
    assert (
        other.image_HW3.shape != again.image_HW3.shape or (other.image_HW3 != again.image_HW3).any()
    )


def test_pictures_vary_in_shape(scenes):
    shapes = {scene.image_HW3.shape for scene in scenes}
    assert any(height > width for height, width, _ in shapes)
    assert any(height < width for height, width, _ in shapes)
    assert len(shapes) >= 6


def test_pictures_show_no_person_one_person_or_several(scenes):
    counts = {len(scene.people) for scene in scenes}
    assert {0, 1, 2, 3} <= counts


def test_crowds_and_unlabelled_people_occur(scenes):
    people = [person for scene in scenes for person in scene.people]
    crowds = [person for person in people if person.crowd]
    unlabelled = [
        person for person in people if not person.crowd and not person.keypoints_Dx3.any()
    ]
    assert crowds
    assert unlabelled
    assert not any(person.keypoints_Dx3.any() for person in crowds)


def test_all_visibilities_occur_and_labels_lie_inside_of_the_picture(scenes):
    seen = set()
    for scene in scenes:
        height, width, _ = scene.image_HW3.shape
        for person in scene.people:
            x, y, v = person.keypoints_Dx3.T
            seen |= set(v)
            assert ((x >= 0) & (x <= width) & (y >= 0) & (y <= height)).all()
            assert (x[v == 0] == 0).all()
    assert seen == {0, 1, 2}


def test_visible_keypoints_lie_on_their_person(scenes):
    for scene in scenes:
        for person in scene.people:
            for x, y, v in person.keypoints_Dx3:
                if v == 2:
                    assert person.mask_HW[round(y - 0.5), round(x - 0.5)]


def test_most_people_are_tall_enough_to_learn_from(scenes):
    heights = [
        np.ptp(np.flatnonzero(person.mask_HW.any(axis=1)))
        for scene in scenes
        for person in scene.people
        if person.keypoints_Dx3[:, 2].sum() > 20
    ]
    assert np.mean(np.array(heights) > 100) > 0.9


def test_a_face_is_labelled_from_the_front_and_not_from_behind():
    front, behind = labelled(figure_towards(0)), labelled(figure_towards(180))
    assert front["nose"] == front["left_eye"] == front["right_eye"] == 2
    assert behind["nose"] == behind["left_eye"] == behind["right_eye"] == 0
    assert behind["left_ear"] == behind["right_ear"] == 2


def test_a_profile_labels_the_near_ear_only():
    # Yaw 90 faces the right edge: the viewer sees the right side of the body.
    to_the_right, to_the_left = labelled(figure_towards(90)), labelled(figure_towards(-90))
    assert (to_the_right["right_ear"], to_the_right["left_ear"]) == (2, 0)
    assert (to_the_left["right_ear"], to_the_left["left_ear"]) == (0, 2)


def test_left_is_on_the_right_of_the_picture_for_people_who_face_the_viewer():
    front, behind = figure_towards(0), figure_towards(180)
    assert front.joint("left_shoulder")[0] > front.joint("right_shoulder")[0]
    assert behind.joint("left_shoulder")[0] < behind.joint("right_shoulder")[0]


def test_moving_a_figure_shifts_every_joint():
    figure = Figure(np.zeros((len(JOINTS), 3)), 100.0, 0.0, 0.0).moved(3, 4)
    assert (figure.joints_Jx3 == (3, 4, 0)).all()

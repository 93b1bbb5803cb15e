"""Keypoint sets: the keypoints and limbs of a network, and the keypoints of a dataset."""

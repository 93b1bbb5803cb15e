"""Maps the decoder's pose scores to the range from 0 to 1."""

# Score of a person with eight keypoints and seven limbs that are all certain: the sum of keypoint
# and limb scores, times the number of keypoints less one; see `assemble`.
_HALF = (8 + 7) * 7.0


def normalised_score(score: float) -> float:
    """Returns a pose score in [0, 1]; 0.5 is a person with eight certain keypoints.

    The map is strictly increasing, so that detections keep their order and AP its value.

    Args:
        score: pose score of the decoder, 0 or more.
    """
    return score / (score + _HALF)

"""Limits on what an image's heatmaps may hold, so that no output of a network takes seconds.

A network that is given other inputs than those it was trained on can answer with noise, whose
candidates all pair up with each other. Crowds stay far below the limits: `docs/explanation/decoder`
has the measurements.
"""

from distributed_pose.errors import ExecutionError

# Candidates of one keypoint in an image.
MAX_CANDIDATES = 1000

# Pairs of candidates that may be limbs, of all kinds in an image together.
MAX_PAIRS = 1_000_000

_NO_POSES = "the heatmaps are not pose heatmaps"


class NoPoseMapsError(ExecutionError):
    """The heatmaps of an image exceed a limit, so they do not show poses."""


def too_many_candidates(keypoint: str) -> NoPoseMapsError:
    """Returns the error about a keypoint, by name, with more than `MAX_CANDIDATES`."""
    return NoPoseMapsError(f"{_NO_POSES}: more than {MAX_CANDIDATES} candidates of {keypoint}")


def too_many_pairs(number: int) -> NoPoseMapsError:
    """Returns the error about more than `MAX_PAIRS` pairs."""
    return NoPoseMapsError(f"{_NO_POSES}: {number} pairs of candidates (at most {MAX_PAIRS})")

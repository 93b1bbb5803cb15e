"""The stages of an image, and the times that they take."""

from collections.abc import Mapping

# Durations in nanoseconds by stage, one entry per measurement. They stay raw until the end of the
# run, because percentiles of merged runs cannot be had from percentiles of their parts.
Durations = Mapping[str, tuple[int, ...]]


# The parts of a batch's time on its device, in order.
DEVICE_STAGES = ("copy_in", "compute", "copy_out")


# The parts of decoding, in order.
DECODE_STAGES = ("peaks", "limbs", "assemble")


# The stages that a report lists, in the order in which an image meets them.
STAGES = (
    "read",
    "decode_jpeg",
    "preprocess",
    *DEVICE_STAGES,
    "check",
    "transfer",
    *DECODE_STAGES,
    "score",
)

"""Logs runs for TensorBoard, as an event file in the folder of the run."""

from time import time

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.scalar.summary import scalar_pb
from tensorboard.plugins.text.summary import text_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from distributed_pose.tracking.base import TrackedRun

_FOLDER = "tensorboard"


def log(run: TrackedRun) -> None:
    """Writes parameters, figures and files of a run to the folder `tensorboard` in its own.

    Raises:
        ValueError: if the run has no folder on this machine.
    """
    if run.folder is None:
        raise ValueError("the run has no folder on this machine; give it a local --output")
    summaries = [
        hparams_pb(dict(run.parameters), trial_id=run.name),
        *(scalar_pb(name, value) for name, value in run.metrics.items()),
        *(text_pb(name, _as_code(text)) for name, text in run.files.items()),
    ]
    writer = EventFileWriter(str(run.folder / _FOLDER))
    try:
        for summary in summaries:
            event = Event(wall_time=time(), step=0)
            event.summary.ParseFromString(summary.SerializeToString())
            writer.add_event(event)
    finally:
        writer.close()


def _as_code(text: str) -> str:
    """Returns a text as a block of code in Markdown, which TensorBoard shows."""
    return "".join(f"    {line}\n" for line in text.splitlines())

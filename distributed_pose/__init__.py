"""COCO keypoint accuracy and aggregate throughput of Lightweight OpenPose over many devices."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from distributed_pose.config.loading import load_config, parse_config
from distributed_pose.config.schema import RunConfig
from distributed_pose.errors import ConfigError, ExecutionError, PoseEvalError, SetupError
from distributed_pose.report.run_report import RunReport

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "ConfigError",
    "ExecutionError",
    "PoseEvalError",
    "RunConfig",
    "RunReport",
    "SetupError",
    "__version__",
    "evaluate",
    "load_config",
    "parse_config",
]

__version__ = version("distributed-pose")


def evaluate(
    config: RunConfig, output: "Path | str | None" = None, *, restart: bool = False
) -> RunReport:
    """Returns the report of an evaluation run.

    Args:
        config: configuration of the run, from `load_config` or `parse_config`.
        output: folder for `detections.json`, `report.json`, `config.yaml` and the ledger, from
            which an interrupted run is resumed; a path, or a URI that pyarrow opens.
            None writes nothing.
        restart: whether to replace the run that the folder holds.

    Raises:
        PoseEvalError: if the run cannot be done. A run that is done but not complete, because
            images failed, is not an error: check `report.complete`.
    """
    # Loads Ray and the rest, which importing this package must not.
    from distributed_pose.evaluation import evaluate as run

    return run(config, output, restart=restart)

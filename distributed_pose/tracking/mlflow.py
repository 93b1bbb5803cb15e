"""Logs runs to MLflow, at the place that MLflow's own variables name."""

import mlflow

from distributed_pose.tracking.base import TrackedRun


def log(run: TrackedRun) -> None:
    """Logs a run as a run of MLflow.

    `MLFLOW_TRACKING_URI` and `MLFLOW_EXPERIMENT_NAME` say where.
    """
    with mlflow.start_run(run_name=run.name or None):
        mlflow.log_params(dict(run.parameters))
        mlflow.log_metrics(dict(run.metrics))
        for name, text in run.files.items():
            mlflow.log_text(text, name)

"""Logs runs to Weights & Biases, at the place that its own variables name."""

import wandb

from distributed_pose.tracking.base import TrackedRun

# Without a terminal, wandb would wait for a login that cannot come.
_LOGIN_TIMEOUT_S = 30


def log(run: TrackedRun) -> None:
    """Logs a run as a run of Weights & Biases, with its files as an artifact.

    `WANDB_PROJECT`, `WANDB_ENTITY` and `WANDB_MODE` say where.
    """
    settings = wandb.Settings(silent=True, console="off", login_timeout=_LOGIN_TIMEOUT_S)
    with wandb.init(
        name=run.name or None, config=dict(run.parameters), settings=settings
    ) as logged:
        logged.log(dict(run.metrics))
        artifact = wandb.Artifact(f"run-{logged.id}", type="evaluation")
        for name, text in run.files.items():
            with artifact.new_file(name) as file:
                file.write(text)
        logged.log_artifact(artifact)

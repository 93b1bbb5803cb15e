"""The commands that examine devices without running a model: `devices` and `doctor`."""

import json
from typing import Annotated

import typer

from distributed_pose.cli.options import ConfigFile, Overrides, Verbose
from distributed_pose.cli.terminal import Terminal, print_line, print_text, start_logging
from distributed_pose.config.loading import load_config
from distributed_pose.errors import SetupError


def devices(
    *, config: ConfigFile = None, overrides: Overrides = None, verbose: Verbose = False
) -> None:
    """List the devices that an evaluation would use."""
    start_logging(verbose=verbose)
    settings = load_config(config, overrides or ())
    from distributed_pose.cluster.survey import survey_devices
    from distributed_pose.report.tables import device_table

    found = survey_devices(settings).devices
    rows = [(device.plan, settings.on(device.plan.kind), device.takes) for device in found]
    Terminal().print(device_table(rows))


def doctor(
    *,
    config: ConfigFile = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    verbose: Verbose = False,
) -> None:
    """Show the backends that can run each device, what the others lack, and how to install it.

    The exit code is 0 only if each device has a backend.
    """
    start_logging(verbose=verbose)
    settings = load_config(config, overrides or ())
    from distributed_pose.cluster.survey import missing_features, survey_all
    from distributed_pose.report.doctor_text import doctor_lines, doctor_record

    survey, features = survey_all(settings), missing_features()
    if as_json:
        print_text(json.dumps(doctor_record(survey, features), indent=2) + "\n")
    else:
        for line in doctor_lines(survey, features):
            print_line(line)
    if not survey.is_ready:
        raise typer.Exit(SetupError.exit_code)

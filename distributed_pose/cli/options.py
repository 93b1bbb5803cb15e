"""The options that several commands share, each described once."""

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.yaml",
        help="YAML file of configuration keys; keys that it leaves out have their defaults.",
    ),
]
KeypointsFile = Annotated[
    Path | None,
    typer.Option(
        "--keypoints", metavar="FILE", help="YAML file of a keypoint set; none is the body of COCO."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Configuration key to set, which wins over the file; may be repeated. "
        "`distributed-pose config keys` lists the keys.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print only the figures, as JSON.")]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Also print what the command does, and the logs of Ray."),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print no progress and no warnings, only errors.")
]

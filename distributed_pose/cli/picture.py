"""The `picture` command: the people of a run on its images."""

from pathlib import Path
from typing import Annotated

import typer

from distributed_pose.cli.terminal import print_line
from distributed_pose.errors import ConfigError

_MAX_IMAGES = 64


def picture(  # noqa: PLR0913 - one argument per option
    *,
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Output folder of a run, a path or a URI.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT.jpg", help="Picture to write.")],
    images: Annotated[
        int, typer.Option(help="Largest number of images in the picture.", min=1, max=_MAX_IMAGES)
    ] = 4,
    worst: Annotated[
        int,
        typer.Option(
            help="Show this many images with the largest loss, the worst first.",
            min=0,
            max=_MAX_IMAGES,
        ),
    ] = 0,
    image: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Id of an image to show; may be repeated."),
    ] = None,
    with_truth: Annotated[
        bool,
        typer.Option("--with-truth", help="Show the labelled people to the left of each image."),
    ] = False,
    scores: Annotated[
        bool, typer.Option("--scores", help="Write the normalised score above each person.")
    ] = False,
    columns: Annotated[
        int, typer.Option(help="Number of images in a row.", min=1, max=_MAX_IMAGES)
    ] = 4,
) -> None:
    """Draw the detected poses of a run on its images."""
    if worst and image:
        raise ConfigError("--worst and --image exclude each other", "give one of them")
    if len(image or ()) > _MAX_IMAGES:
        raise ConfigError(f"--image: over {_MAX_IMAGES} images")
    from distributed_pose.report.run_picture import PictureOptions, draw_run
    from distributed_pose.report.stored_run import read_run

    options = PictureOptions(
        count=images,
        worst=worst,
        image_ids=image or (),
        with_truth=with_truth,
        with_scores=scores,
        columns=columns,
    )
    draw_run(read_run(run), output, options)
    print_line(f"Written to {output}")

"""The `guide` commands: the steps of the vendor guide, with its files as input and output."""

from enum import Enum
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

from distributed_pose.cli.options import Quiet, Verbose
from distributed_pose.cli.progress import progress
from distributed_pose.cli.terminal import Terminal, print_line, start_logging
from distributed_pose.config.loading import load_config
from distributed_pose.records.images import InputSize

guide = typer.Typer(
    name="guide",
    help="Run the vendor guide's steps with its files: network inputs, info file, AP of outputs.",
    no_args_is_help=True,
)


class Kind(Enum):
    """The kind of files that an info file lists; the guide's own writer has further kinds."""

    BIN = "bin"


_Pads = Annotated[
    Path,
    typer.Option("--pad-txt-path", metavar="pad.txt", help="File with the padding of each image."),
]


_Results = Annotated[
    Path,
    typer.Option(
        "--result-dir", metavar="DIR", help="Folder with outputs of cann-benchmark or ais_bench."
    ),
]
_Labels = Annotated[
    Path, typer.Option("--labels", metavar="FILE", help="COCO keypoint annotation file.")
]
_Detections = Annotated[
    Path,
    typer.Option(
        "--detections-save-path",
        metavar="OUT.json",
        help="File to write the detections to, in COCO's results format.",
    ),
]
_Category = Annotated[
    str | None,
    typer.Option("--category", help="Id or name of the person's category in the labels."),
]


def _input_size(text: str) -> InputSize | None:
    """Returns the size that an option names; None for that of the profile.

    Raises:
        ConfigError: if it is not the text of a size.
    """
    return load_config(None, [f"input={text}"]).input_size


_Input = Annotated[
    str,
    typer.Option(
        "--input", metavar="HxW", help="Height and width of the network input; auto is 368x640."
    ),
]


@guide.command("preprocess")
def preprocess(
    *,
    images: Annotated[
        Path, typer.Option("--src-path", metavar="IMAGES", help="Folder of the images.")
    ],
    output: Annotated[
        Path, typer.Option("--save-path", metavar="DIR", help="Folder to write the .bin files to.")
    ],
    pad_file: _Pads,
    input_: _Input = "auto",
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Write the network input of each image as .bin, and pad.txt (step 3.2 of the guide)."""
    start_logging(verbose=verbose, quiet=quiet)
    from distributed_pose.guide.preprocess import preprocess_folder

    size = _input_size(input_)
    start = perf_counter()
    with progress() as on_progress:
        number = preprocess_folder(images, output, pad_file, on_progress, size)
    _print_summary(number, perf_counter() - start, f"{output} and {pad_file}")


@guide.command("info")
def info(
    *,
    kind: Annotated[Kind, typer.Argument(metavar="bin", help="Kind of the files; always bin.")],
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Folder of the .bin files.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.info", help="Info file to write.")],
    width: Annotated[
        int,
        typer.Argument(
            metavar="WIDTH",
            help="Width of the network input in pixels, usually 640.",
            min=1,
            max=2**31 - 1,
        ),
    ],
    height: Annotated[
        int,
        typer.Argument(
            metavar="HEIGHT",
            help="Height of the network input in pixels, usually 368.",
            min=1,
            max=2**31 - 1,
        ),
    ],
) -> None:
    """Write the list of a folder's .bin files for cann-benchmark (step 3.3 of the guide)."""
    del kind  # It has only one value.
    from distributed_pose.guide.preprocess import write_info

    number = write_info(folder, output, width, height)
    print_line(f"Written to {output}: {number} files")


@guide.command("postprocess")
def postprocess(  # noqa: PLR0913 - one argument per option
    *,
    results: _Results,
    pad_file: _Pads,
    labels: _Labels,
    output: _Detections,
    category: _Category = None,
    input_: _Input = "auto",
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Decode the outputs of a benchmark tool on all CPUs, and print AP (step 5.5 of the guide)."""
    start_logging(verbose=verbose, quiet=quiet)
    from distributed_pose.files.local import check_not_input, write_atomically
    from distributed_pose.guide.postprocess import postprocess as run
    from distributed_pose.report.detections_json import detections_json
    from distributed_pose.report.tables import ap_table

    size = _input_size(input_)
    inputs = {"--pad-txt-path": pad_file, "--labels": labels}
    if output.suffix in {".bin", ".txt"}:
        inputs["a file of --result-dir"] = results / output.name
    check_not_input(output, inputs)
    with progress() as on_progress:
        scored = run(results, pad_file, labels, on_progress, category, size)
    write_atomically(output, detections_json(scored.detections))
    part = f" of {scored.num_labelled}" if scored.num_images < scored.num_labelled else ""
    title = f"COCO keypoint AP, {scored.num_images}{part} images"
    detections = f"{len(scored.detections)} detections"
    for note in scored.notes:
        print_line(note)
    if scored.ap is None:
        print_line(f"Nothing to score: {labels} has no annotations; {detections}")
    else:
        Terminal().print(ap_table(scored.ap, title, detections))
    _print_summary(scored.num_images, scored.seconds, str(output))


def _print_summary(number: int, seconds: float, where: str) -> None:
    rate = f"{number / seconds:.1f} images/s"
    print_line(f"Written to {where}: {number} images in {seconds:.1f} s, {rate}")

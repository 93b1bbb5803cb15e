"""The commands `export` and `compile` for models, and `picture`, which draws the poses of a run."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from distributed_pose.backends.registry import targets
from distributed_pose.backends.table import BACKENDS
from distributed_pose.cli.bench import batch_sizes
from distributed_pose.cli.options import ConfigFile, Overrides
from distributed_pose.cli.terminal import print_line, print_text
from distributed_pose.config.loading import load_config
from distributed_pose.errors import SetupError
from distributed_pose.files.local import check_not_input


def export(
    *,
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Checkpoint to export.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="ONNX file to write.")],
    opset: Annotated[int, typer.Option(help="Version of the ONNX operator set.")] = 11,
    last_stage: Annotated[
        bool, typer.Option("--last-stage", help="Write only the outputs of the last stage.")
    ] = False,
    refinement_stages: Annotated[
        int, typer.Option(help="Number of refinement stages of the network.", min=1, max=3)
    ] = 1,
) -> None:
    """Write a Lightweight OpenPose checkpoint as ONNX for compilers."""
    from distributed_pose.files.local import write_atomically
    from distributed_pose.model.artifacts import load_source
    from distributed_pose.model.checkpoint import load_checkpoint
    from distributed_pose.model.export import export_onnx

    check_not_input(output, {"the checkpoint": checkpoint})
    source = load_source(checkpoint, refinement_stages)
    if source.format != "pth":
        raise SetupError(f"{checkpoint} is no checkpoint", "give the checkpoint to export")
    _tell(source.notes)
    weights = load_checkpoint(source.content, source.path, refinement_stages).weights
    content = export_onnx(
        weights, refinement_stages=refinement_stages, opset=opset, last_stage=last_stage
    )
    write_atomically(output, content)
    print_line(f"Written to {output}: {len(content) / 1e6:.1f} MB, opset {opset}")


def compile_(  # noqa: PLR0913 - one argument an option
    *,
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="ONNX file or checkpoint to compile.")
    ],
    target: Annotated[
        str,
        typer.Option(
            "--for",
            metavar="TARGET",
            help=f"Device or runtime to compile for: {', '.join(targets(BACKENDS))}, "
            "such as ascend310p3.",
        ),
    ],
    batch: Annotated[
        str, typer.Option(help="Batch sizes to compile for, separated by commas.")
    ] = "1",
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="Compile one .om for all batch sizes.")
    ] = False,
    precision: Annotated[
        str | None,
        typer.Option(help="Precision to compile for; sets precision."),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(help="Preprocessing profile of the inputs; sets profile."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="DIR", help="Folder to copy the artifact and its card to."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the vendor's commands instead of running them.")
    ] = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Compile a model for a device, once: the artifact and its card are kept by content."""
    given = {"precision": precision, "profile": profile}
    keys = [f"{key}={value}" for key, value in given.items() if value]
    settings = load_config(config, [*(overrides or ()), *keys])
    sizes = batch_sizes(batch)
    from distributed_pose.compilation import commands_for, compile_for, orders_for
    from distributed_pose.run.inputs import load_model

    orders = orders_for(target, settings.precision, settings.profile, sizes, dynamic=dynamic_batch)
    source = load_model(model, settings.profile, settings.model.refinement_stages)
    _tell(source.notes)
    if dry_run:
        print_text(f"{commands_for(source, orders)}\n")
        return
    for compiled in compile_for(source, orders, settings, output):
        card = compiled.artifact.card
        batches = ",".join(map(str, card["batch_sizes"]))
        details = f"batch {batches}, {card['bytes'] / 1e6:.1f} MB, {card['seconds']:.1f} s"
        print_line(f"{compiled.path}: {details}")
        if accuracy := card.get("accuracy"):
            print_line(", ".join(f"{name} {value}" for name, value in accuracy.items()))


def picture(
    *,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of an evaluation.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.jpg", help="Picture to write.")],
    images: Annotated[
        int, typer.Option(help="Largest number of images in the picture.", min=1, max=64)
    ] = 4,
) -> None:
    """Draw the poses that a run found."""
    from distributed_pose.report.pictures import draw_run

    draw_run(run, output, images)
    print_line(f"Written to {output}")


def _tell(notes: Iterable[str]) -> None:
    """Prints notes on a model to standard error, since programs may read the standard output."""
    for note in notes:
        print_line(note, err=True)

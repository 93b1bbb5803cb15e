"""The commands `export` and `compile` for models."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distributed_pose.backends.registry import targets
from distributed_pose.backends.table import BACKENDS
from distributed_pose.cli.bench import batch_sizes
from distributed_pose.cli.options import ConfigFile, Overrides, Quiet, Verbose
from distributed_pose.cli.progress import progress
from distributed_pose.cli.terminal import print_line, print_text, start_logging
from distributed_pose.config.loading import load_config
from distributed_pose.errors import SetupError
from distributed_pose.files.local import check_not_input

if TYPE_CHECKING:
    from distributed_pose.compilation import Compiled


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
        raise SetupError(f"{checkpoint} is not a checkpoint", "give the checkpoint to export")
    _print_notes(source.notes)
    weights = load_checkpoint(source.content, source.path, refinement_stages).weights
    content = export_onnx(
        weights, refinement_stages=refinement_stages, opset=opset, last_stage=last_stage
    )
    write_atomically(output, content)
    print_line(f"Written to {output}: {len(content) / 1e6:.1f} MB, opset {opset}")


_Target = Annotated[
    str,
    typer.Option(
        "--for",
        metavar="TARGET",
        help=f"Device or runtime to compile for: {', '.join(targets(BACKENDS))}, such as "
        "ascend310p3.",
    ),
]
_Batches = Annotated[str, typer.Option(help="Batch sizes to compile for, separated by commas.")]
_DynamicBatch = Annotated[
    bool, typer.Option("--dynamic-batch", help="Compile one .om for all batch sizes.")
]
_Precision = Annotated[str | None, typer.Option(help="Precision to compile for; sets precision.")]
_Profile = Annotated[
    str | None, typer.Option(help="Preprocessing profile of the inputs; sets profile.")
]
_Input = Annotated[
    str | None,
    typer.Option(
        "--input", metavar="HxW", help="Height and width of the inputs in pixels; sets input."
    ),
]
_ArtifactFolder = Annotated[
    Path | None,
    typer.Option("--output", metavar="DIR", help="Folder to copy the artifact and its card to."),
]
_DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the vendor's commands instead of running them.")
]


def compile_(  # noqa: PLR0913 - one argument per option
    *,
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="ONNX file or checkpoint to compile.")
    ],
    target: _Target,
    batch: _Batches = "1",
    dynamic_batch: _DynamicBatch = False,
    precision: _Precision = None,
    profile: _Profile = None,
    input_: _Input = None,
    output: _ArtifactFolder = None,
    dry_run: _DryRun = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Compile a model for a device; the cache keeps the artifact and its card."""
    start_logging(verbose=verbose, quiet=quiet)
    given = {"precision": precision, "profile": profile, "input": input_}
    keys = [f"{key}={value}" for key, value in given.items() if value]
    settings = load_config(config, [*(overrides or ()), *keys])
    sizes = batch_sizes(batch)
    from distributed_pose.compilation import commands_for, compile_for, compile_specs
    from distributed_pose.run.models import load_model

    stages = settings.model.refinement_stages
    source, input_size = load_model(model, settings.profile, stages, settings.input_size)
    specs = compile_specs(
        target,
        settings.precision,
        settings.profile,
        sizes,
        dynamic=dynamic_batch,
        input_size=input_size,
    )
    _print_notes(source.notes)
    if dry_run:
        print_text(f"{commands_for(source, specs)}\n")
        return
    with progress():
        artifacts = compile_for(source, specs, settings, output)
    for compiled in artifacts:
        _print_compiled(compiled)


def _print_compiled(compiled: "Compiled") -> None:
    """Prints the artifact's path, batch sizes, size and time, and its accuracy if it is int8."""
    card = compiled.artifact.card
    batches = ",".join(map(str, card["batch_sizes"]))
    details = f"batch {batches}, {card['bytes'] / 1e6:.1f} MB, {card['seconds']:.1f} s"
    print_line(f"{compiled.path}: {details}")
    if accuracy := card.get("accuracy"):
        print_line(", ".join(f"{name} {value}" for name, value in accuracy.items()))


def _print_notes(notes: Iterable[str]) -> None:
    """Prints notes on a model to standard error, since programs may read the standard output."""
    for note in notes:
        print_line(note, err=True)

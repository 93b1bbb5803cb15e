"""The `report` commands: a run in the words of other tools, their logs, and all in one table."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from distributed_pose.cli_terminal import Terminal, print_line, print_text
from distributed_pose.errors import ConfigError


class _Report(TyperGroup):
    """Takes what is none of its commands for a run to show, as in `report RUN --as guide`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["show", *args]
        return super().parse_args(ctx, args)


report = typer.Typer(
    name="report",
    cls=_Report,
    help="Figures of runs and of other tools' logs: `report RUN --as guide`, import, table.",
    no_args_is_help=True,
)


class Form(Enum):
    """Whose lines are printed."""

    GUIDE = "guide"
    TRTEXEC = "trtexec"


class Reference(Enum):
    """Whose published figures stand beside others."""

    GUIDE = "guide"


_Log = Annotated[Path, typer.Argument(metavar="LOG", help="Perf file, log or the guide's table.")]


@report.command("show")
def show(
    *,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or a log.")],
    form: Annotated[Form, typer.Option("--as", help="The guide's perf file, or trtexec's line.")],
) -> None:
    """Print a run as the guide's tools print theirs; `show` may be left out."""
    from distributed_pose.report.logs import perf_text, trtexec_text
    from distributed_pose.report.sources import read_source

    source = read_source(run)
    if form is Form.GUIDE and source.perf:
        text = perf_text(source.perf)
    elif form is Form.TRTEXEC and source.times:
        text = trtexec_text(source.times)
    else:
        why = "; ".join(source.notes) if source.format == "run" else f"it is of {source.format}"
        raise ConfigError(f"{run} has no figures to print as {form.value}: {why}")
    print_text(text)
    _tell(run, source.notes)


@report.command("import")
def import_(
    *,
    log: _Log,
    device: Annotated[str, typer.Option(help="Its name, such as Ascend310P3.")] = "",
    batch: Annotated[
        int | None, typer.Option(min=1, max=2**31 - 1, help="Images in a batch.")
    ] = None,
    precision: Annotated[str, typer.Option(help="Such as f16.")] = "",
    ap: Annotated[
        float | None, typer.Option("--ap", min=0, max=1, help="Of the model on COCO.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="RECORD.json", help="Write it there.")
    ] = None,
) -> None:
    """Read a log of cann-benchmark, ais_bench or trtexec into a record (JSON) for the table.

    Options say what the log does not.
    """
    from distributed_pose.files import check_not_input, write_atomically
    from distributed_pose.report.sources import Given, read_source

    if output:
        check_not_input(output, {"the log": log})
    source = read_source(log, Given(device, batch, precision, ap))
    if output:
        write_atomically(output, source.to_json())
        print_line(f"Written to {output}: {source.format}, {len(source.rows)} rows")
    else:
        print_text(source.to_json())
    _tell(log, source.notes)


@report.command("table")
def table(
    *,
    sources: Annotated[
        list[Path] | None, typer.Argument(metavar="RUN|LOG...", help="Runs, logs and records.")
    ] = None,
    reference: Annotated[
        Reference | None, typer.Option("--reference", help="Add its published rows.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print markdown.")] = False,
) -> None:
    """Print runs, logs and the guide's published figures as one table (section 6)."""
    from distributed_pose.report.results_table import (
        results_json,
        results_markdown,
        results_table,
        table_bases,
    )
    from distributed_pose.report.rows import published_rows
    from distributed_pose.report.sources import read_source

    read = [(path, read_source(path)) for path in sources or ()]
    rows = [row for _, source in read for row in source.rows]
    rows += published_rows() if reference else []
    if not rows:
        raise ConfigError("there is nothing to show", "name runs or logs, or --reference guide")
    bases = table_bases(rows, published=reference is not None)
    if as_json:
        print_text(results_json(rows, bases))
    elif markdown:
        print_text(results_markdown(rows, bases))
    else:
        Terminal().print(results_table(rows, bases))
    for path, source in read:
        if source.format == "trtexec":
            _tell(path, source.notes)


def _tell(path: Path, notes: tuple[str, ...]) -> None:
    # On stderr, so that stdout is what the tools would print.
    for note in notes:
        print_line(f"{path}: {note}", err=True)

"""The `report` commands: stored runs as text or page, other tools' formats and logs."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from distributed_pose.cli.pages import check_page
from distributed_pose.cli.terminal import Terminal, print_line, print_text
from distributed_pose.errors import ConfigError
from distributed_pose.files.local import write_atomically


class _Report(TyperGroup):
    """Interprets a first argument that is not a command as `show RUN`: `report RUN --html FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["show", *args]
        return super().parse_args(ctx, args)


report = typer.Typer(
    name="report",
    cls=_Report,
    help="Show and explain stored runs, and compare logs: `report RUN --html FILE`, import, table.",
    no_args_is_help=True,
)


class Form(Enum):
    """The tool whose format is printed."""

    GUIDE = "guide"
    TRTEXEC = "trtexec"


class Reference(Enum):
    """A publication whose figures can be added to the table."""

    GUIDE = "guide"


_Log = Annotated[
    Path, typer.Argument(metavar="LOG", help="Perf file, log, or the guide's results table.")
]


@report.command("show")
def show(
    *,
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="Output folder of a run, a path or a URI; with --as also a log or its record.",
        ),
    ],
    form: Annotated[
        Form | None,
        typer.Option("--as", help="Format: the guide's perf file, or the summary of trtexec."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page that explains the run."),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the report of the run and the analysis of its AP."),
    ] = False,
) -> None:
    """Print a stored run as the terminal showed it, as a page, or in the format of other tools.

    The word `show` may be omitted.
    """
    if sum((form is not None, html is not None, as_json)) > 1:
        raise ConfigError("--as, --html and --json exclude each other", "give one of them")
    before, _, name = run.rpartition("/")
    folder = (before or ".") if name == "report.json" else run
    if form:
        _show_as(Path(run), form)
    elif html:
        _write_page(folder, html)
    elif as_json:
        from distributed_pose.report.run_json import run_json
        from distributed_pose.report.stored_run import read_run

        print_text(run_json(read_run(folder)))
    else:
        from distributed_pose.report.run_report import RunReport
        from distributed_pose.report.tables import run_tables

        Terminal().print(*run_tables(RunReport.load(folder)), sep="\n")


def _show_as(run: Path, form: Form) -> None:
    from distributed_pose.guide.logs import perf_text, trtexec_text
    from distributed_pose.guide.sources import read_source

    source = read_source(run)
    if form is Form.GUIDE and source.perf:
        text = perf_text(source.perf)
    elif form is Form.TRTEXEC and source.times:
        text = trtexec_text(source.times)
    else:
        reason = (
            "; ".join(source.notes) if source.format == "run" else f"its format is {source.format}"
        )
        raise ConfigError(f"{run} has no figures to print as {form.value}: {reason}")
    print_text(text)
    _print_notes(run, source.notes)


def _write_page(run: str, page: Path) -> None:
    check_page(page, [run])
    from distributed_pose.report.page import run_page
    from distributed_pose.report.stored_run import read_run
    from distributed_pose.run.timeline import read_timeline

    write_atomically(page, run_page(read_run(run), read_timeline(run)))
    print_line(f"Written to {page}")


@report.command("import")
def import_(
    *,
    log: _Log,
    device: Annotated[str, typer.Option(help="Name of the device, such as Ascend310P3.")] = "",
    batch: Annotated[
        int | None, typer.Option(min=1, max=2**31 - 1, help="Batch size of the log.")
    ] = None,
    precision: Annotated[str, typer.Option(help="Precision of the model, such as f16.")] = "",
    ap: Annotated[
        float | None, typer.Option("--ap", min=0, max=1, help="AP of the model on COCO.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="RECORD.json", help="File to write the record to."),
    ] = None,
) -> None:
    """Convert a log of cann-benchmark, ais_bench or trtexec to a record (JSON) for the table.

    Options complete the facts in the log, and take precedence over them.
    """
    from distributed_pose.files.local import check_not_input
    from distributed_pose.guide.sources import LogFacts, read_source

    if output:
        check_not_input(output, {"the log": log})
    source = read_source(log, LogFacts(device, batch, precision, ap))
    if output:
        write_atomically(output, source.to_json())
        print_line(f"Written to {output}: {source.format}, {len(source.rows)} rows")
    else:
        print_text(source.to_json())
    _print_notes(log, source.notes)


@report.command("table")
def table(
    *,
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN|LOG...", help="Output folders of runs, logs, and records of logs."
        ),
    ] = None,
    reference: Annotated[
        Reference | None,
        typer.Option("--reference", help="Add the figures that the guide publishes."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table as Markdown.")
    ] = False,
) -> None:
    """Print runs, logs and published figures in a table as in section 6 of the vendor guide."""
    from distributed_pose.guide.results_table import (
        results_json,
        results_markdown,
        results_table,
        table_bases,
    )
    from distributed_pose.guide.rows import published_rows
    from distributed_pose.guide.sources import read_source

    read = [(path, read_source(path)) for path in sources or ()]
    rows = [row for _, source in read for row in source.rows]
    rows += published_rows() if reference else []
    if not rows:
        raise ConfigError("the table would be empty", "name runs or logs, or --reference guide")
    bases = table_bases(rows, published=reference is not None)
    if as_json:
        print_text(results_json(rows, bases))
    elif markdown:
        print_text(results_markdown(rows, bases))
    else:
        Terminal().print(results_table(rows, bases))
    for path, source in read:
        if source.format == "trtexec":
            _print_notes(path, source.notes)


def _print_notes(path: Path, notes: tuple[str, ...]) -> None:
    # On stderr, so that stdout equals the output of the tools.
    for note in notes:
        print_line(f"{path}: {note}", err=True)

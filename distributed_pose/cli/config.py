"""The `config` commands: the keys, a run's resolved configuration, and the shipped examples."""

import json
from dataclasses import asdict
from importlib.resources import files
from typing import Annotated

import typer
import yaml
from rich.padding import Padding
from rich.text import Text

from distributed_pose.cli.options import ConfigFile, Overrides
from distributed_pose.cli.terminal import Terminal, print_line, print_text
from distributed_pose.config.loading import load_config
from distributed_pose.errors import ConfigError

config = typer.Typer(
    name="config",
    help="List the configuration keys, show a resolved configuration, write an example.",
    no_args_is_help=True,
)

# Folders of the package whose files are examples.
_FOLDERS = ("configs", "launch")


@config.command("keys")
def keys(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the keys as JSON.")] = False,
) -> None:
    """List every configuration key with its type, default and meaning."""
    from distributed_pose.config.keys import config_keys

    known = config_keys()
    if as_json:
        print_text(json.dumps([asdict(key) for key in known], indent=2) + "\n")
        return
    terminal = Terminal()
    for key in known:
        terminal.print(Text.assemble((key.name, "bold"), f": {key.values}; default {key.default}"))
        terminal.print(Padding(Text(key.description), (0, 0, 1, 4)))


@config.command("show")
def show(
    *,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Print the resolved configuration of a run as YAML, with all defaults."""
    settings = load_config(config_file, overrides or ())
    print_text(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))


@config.command("example")
def example(
    *,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="File name of the example.")
    ] = None,
) -> None:
    """Print a shipped configuration, script or manifest; without a name, list all of them."""
    examples = {
        entry.name: entry
        for folder in _FOLDERS
        for entry in sorted((files("distributed_pose") / folder).iterdir(), key=lambda e: e.name)
        if entry.is_file()
    }
    if name is None:
        for known in examples:
            print_line(known)
    elif name in examples:
        print_text(examples[name].read_text())
    else:
        raise ConfigError(f"there is no example {name}", f"available: {', '.join(examples)}")

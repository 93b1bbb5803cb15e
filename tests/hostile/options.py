"""Hostile command lines: every option and argument of every command, with what none of them is."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random

import typer

from distributed_pose.cli.main import app
from tests.hostile.cases import HOSTILE_NAMES, Case, write_dataset

_VALUES = (
    *("", " ", "-1", "0", "1e999", "nan", "-nan", "9" * 400, "\u0663", "1_0", "0x10", "1.5", ","),
    *("a,b", "1," * 5000, "=", "a=", "=1", "x" * 5000, "a=1," * 5000, "[", "{", "~", "*", "cpu:*"),
    *("/dev/null", "/dev/zero", "in/..", "in/nowhere/a", "http://[", "foo://x", "file://host/x"),
    *("mock://a", "://", "\udcff", "auto", "ascend" + "9" * 300, "tensorrt", "%s", "$(id)", "`id`"),
    *HOSTILE_NAMES,
)

# Without these options a command would run the demo or use the network.
_INLINE = ("--set", "engine=inline", "--set", "backend=oracle", "--set", "devices=cpu")
_COMMANDS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("evaluate",): (*_INLINE, "--output", "out/run"),
    ("devices",): _INLINE,
    ("doctor",): _INLINE,
    ("export",): ("in/a", "out/a"),
    ("compile",): ("in/a.onnx", "--for", "ascend310", "--dry-run"),
    ("picture",): ("in/run", "out/a.jpg"),
    ("plan",): ("--devices", "300=4", "--costs", "in/costs.json"),
    ("demo-data",): ("out/data", "--images", "1"),
    ("pack",): ("out/pack",),
    ("bench", "device"): (*_INLINE, "--batch", "1", "--seconds", "0"),
    ("report", "show"): ("in/a", "--as", "guide"),
    ("report", "import"): ("in/a",),
    ("report", "table"): ("in/a",),
    ("guide", "preprocess"): ("--src-path", "in/images", "--save-path", "out/a"),
    ("guide", "info"): ("bin", "in/images", "out/a", "640", "368"),
    ("guide", "postprocess"): ("--result-dir", "in/images", "--pad-txt-path", "in/a"),
}

_NO_DATA = {
    "devices",
    "doctor",
    "export",
    "compile",
    "picture",
    "plan",
    "demo-data",
    "report",
    "guide",
}


def _write(command: tuple[str, ...], folder: Path, random: Random) -> Sequence[str]:
    dataset = write_dataset(folder, {})[1:5]
    (folder / "a").write_bytes(b"a")
    words = [*_COMMANDS[command]]
    if command[0] not in _NO_DATA:
        words += dataset
    value = random.choice(_VALUES)
    options = _options(command)
    drawn = random.random()
    if drawn < 0.15:
        words[random.randrange(len(words))] = value
    elif drawn < 0.3:
        words.insert(random.randrange(len(words) + 1), value)
    elif drawn < 0.5 and "--set" in options:
        keys = ("data.images", "data.limit", "devices", "batch_size", "npu.soc", "dump_maps", "a.b")
        words += ["--set", f"{random.choice(keys)}={value}"]
    elif options:
        words += [random.choice(options), value]
    return [*command, *words]


def _options(command: tuple[str, ...]) -> list[str]:
    """Returns the options of a command that take a value."""
    found = typer.main.get_command(app)
    for name in command:
        found = found.commands[name]  # type: ignore[attr-defined]
    # Without these the demo would be rendered.
    return [
        parameter.opts[0]
        for parameter in found.params
        if parameter.opts[0].startswith("--") and not getattr(parameter, "is_flag", False)
    ]


def option_cases(_random: Random) -> list[Case]:
    """Returns a case of each command."""
    return [Case("option", " ".join(command), partial(_write, command)) for command in _COMMANDS]

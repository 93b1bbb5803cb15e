"""Compiles fakes of vendors' shared libraries, with the symbols that the package looks up."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest


def build_library(
    file: Path,
    *,
    source: str = "",
    needed: Sequence[Path] = (),
    version: str = "",
    symbols: Sequence[str] = (),
) -> Path:
    """Returns a compiled shared library, whose soname is the name of its file.

    Args:
        file: path of the library.
        source: C code of the library.
        needed: libraries that it is linked with, even if it does not use them.
        version: version of its symbols, as in `cudaMalloc@libcudart.so.13`; empty for none.
        symbols: names of functions to add, which return 0.
    """
    compiler = shutil.which("cc") or pytest.skip("there is no C compiler")
    file.parent.mkdir(parents=True, exist_ok=True)
    stubs = "".join(f"long {symbol}(void) {{ return 0; }}\n" for symbol in symbols)
    command = [compiler, "-shared", "-fPIC", "-w", "-x", "c", "-", "-x", "none", "-o", str(file)]
    command += [f"-Wl,-soname,{file.name}", "-Wl,--no-as-needed", *map(str, needed)]
    if version:
        script = file.with_suffix(".map")
        script.write_text(f"{version} {{ global: *; }};\n")
        command.append(f"-Wl,--version-script,{script}")
    subprocess.run(command, input=source + stubs, text=True, check=True, timeout=60)
    return file

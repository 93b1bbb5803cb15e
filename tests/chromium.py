"""Loads a page in Chromium, without a display, and returns its requests and errors."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--enable-logging=stderr",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
# Addresses on the network, without those that Chromium itself asks for its own updates.
_WEB = re.compile(r"(?:https?|wss?|ftp)://(?![^/]+\.google(?:apis)?\.com/)")


@dataclass(frozen=True)
class Visit:
    """A page as Chromium loaded it.

    Attributes:
        dom: the document after loading.
        console: lines that the page logged, errors and violations of its policy included.
        requests: addresses on the network that were asked for.
    """

    dom: str
    console: list[str]
    requests: set[str]


def visit(page: Path, folder: Path) -> Visit:
    """Returns a visit of a page; skips the test if Chromium is not installed."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("chromium is not installed")
    log = folder / "net.json"
    answer = subprocess.run(
        [
            program,
            *_FLAGS,
            f"--user-data-dir={folder}",
            f"--log-net-log={log}",
            "--dump-dom",
            page.absolute().as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    console = [line for line in answer.stderr.splitlines() if "CONSOLE" in line]
    return Visit(answer.stdout, console, _requests(log))


def _requests(log: Path) -> set[str]:
    events = json.loads(log.read_text())["events"]
    urls = (event.get("params", {}).get("url", "") for event in events)
    return {url for url in urls if isinstance(url, str) and _WEB.match(url)}

"""Packages that extend this one, installed as pip does it: modules beside their metadata."""

import shutil
import tomllib
from pathlib import Path


def install(project: Path, folder: Path) -> None:
    """Installs the modules of a project into a folder, which is then put on the PYTHONPATH.

    Args:
        project: folder of the project, with its `pyproject.toml`.
        folder: folder to install into.
    """
    described = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    name, version = described["name"], described["version"]
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{point} = {value}\n" for point, value in points.items())
        for group, points in described["entry-points"].items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    for module in project.glob("*.py"):
        shutil.copy(module, folder)

"""Links and named files of the pages exist, layers are those of the check, the README is short."""

import re
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PAGES = [
    *REPOSITORY.glob("*.md"),
    *REPOSITORY.glob("docs/**/*.md"),
    REPOSITORY / "tests" / "README.md",
]

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Returns the anchors of a page's headings, as code hosts make them."""
    text = _FENCE.sub("", page.read_text())
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_between_pages_point_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for link in _LINK.findall(_FENCE.sub("", page.read_text())):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_readme_is_short() -> None:
    text = (REPOSITORY / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert len(text.encode()) <= 9_000


def test_the_places_that_contributing_names_exist() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    table = [line for line in text.splitlines() if line.startswith("| ")]
    named = {name for line in table for name in re.findall(r"`([\w/]+\.py)`", line)}
    roots = (REPOSITORY, REPOSITORY / "distributed_pose")
    assert named
    assert [
        name for name in sorted(named) if not any((root / name).exists() for root in roots)
    ] == []


def test_the_architecture_has_the_layers_that_are_checked() -> None:
    text = (REPOSITORY / "docs" / "explanation" / "architecture.md").read_text()
    (sentence,) = re.findall(
        r"^Layers, high to low: (.*?)\. A test", text, re.MULTILINE | re.DOTALL
    )
    described = [set(re.findall(r"`(\w+)`", layer)) for layer in sentence.split(">")]
    tools = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]
    (layers,) = (one["layers"] for one in tools["importlinter"]["contracts"] if "layers" in one)
    checked = [set(re.findall(r"distributed_pose\.(\w+)", layer)) for layer in layers]
    assert described == checked[1:], "the first layer is __main__, which starts the command"

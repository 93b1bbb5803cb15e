"""Links, paths and layers in the pages are those of the project, and the README is short."""

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


_SPAN = re.compile(r"`([^`\n]+)`")

# A file of Python, and names in it after a colon: `room/file.py`, `room/file.py:function, Class`.
_SOURCE = re.compile(r"([\w./-]+\.py)(?::([\w., ]+))?")

# Paths from the root of the repository; names in capitals, and patterns, stand for others.
_PLACE = re.compile(r"(?:distributed_pose|tests|docs|examples|launch|configs)/[\w./-]*")
_PLACEHOLDER = re.compile(r"\b[A-Z]{3,}\b(?<!README)")

# Files of the reference implementation and of the vendor guide.
_FOREIGN = {"val.py", "OpenPose_pth2onnx.py"}


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


def existing(name: str, page: Path) -> Path | None:
    """Returns the file or folder that a page names from a folder that its readers know."""
    folders = (REPOSITORY, REPOSITORY / "distributed_pose", REPOSITORY / "examples", page.parent)
    return next((folder / name for folder in folders if (folder / name).exists()), None)


def spans(page: Path) -> list[str]:
    """Returns the spans of code in a page that are not placeholders."""
    found = _SPAN.findall(_FENCE.sub("", page.read_text()))
    return [span for span in found if not _PLACEHOLDER.search(span) and span not in _FOREIGN]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_paths_in_a_page_exist(page: Path) -> None:
    paths = [span for span in spans(page) if _PLACE.fullmatch(span)]
    paths += [match[1] for span in spans(page) if (match := _SOURCE.fullmatch(span))]
    assert [path for path in paths if not existing(path, page)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_names_after_a_path_in_a_page_are_in_the_file(page: Path) -> None:
    missing = []
    for span in spans(page):
        if not (match := _SOURCE.fullmatch(span)) or not match[2]:
            continue
        source = (existing(match[1], page) or page).read_text()
        parts = [part for name in match[2].split(", ") for part in name.split(".")]
        defined = r"^\s*(?:def |class )?{}\b"
        missing += [p for p in parts if not re.search(defined.format(p), source, re.MULTILINE)]
    assert missing == []


def test_the_readme_is_short() -> None:
    text = (REPOSITORY / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert len(text.encode()) <= 9_000


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

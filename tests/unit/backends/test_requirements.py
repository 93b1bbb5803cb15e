"""Missing requirements are found, with packages, libraries and variables made for the test."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distributed_pose.backends.needs import Library, Module, Need, Variable, Version
from distributed_pose.backends.requirements import lacks
from distributed_pose.devices.lacks import Lack
from tests.fakes.hosts import Host, entered


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    with entered(tmp_path, monkeypatch) as host:
        yield host


def found(need: Need) -> Lack | None:
    (lack,) = lacks([need]) or (None,)
    return lack


@pytest.mark.parametrize(
    "source",
    ["class Session: ...\n", "from other import Session\n", "Session = None\n"],
    ids=["defined", "imported", "assigned"],
)
def test_a_name_that_the_source_binds_is_available(host: Host, source: str) -> None:
    host.package("vendor.infer", source)
    assert found(Module("vendor.infer", "remedy", "Session")) is None
    assert "vendor" not in sys.modules


def test_a_name_that_the_source_does_not_bind_is_missing(host: Host) -> None:
    folder = host.package("vendor", "class Other: ...\n")
    expected = Lack("vendor.Session", str(folder / "__init__.py"), "remedy")
    assert found(Module("vendor", "remedy", "Session")) == expected


def test_a_folder_left_by_a_removed_package_is_not_a_package(host: Host) -> None:
    (host.package("vendor") / "__init__.py").unlink()
    assert found(Module("vendor", "remedy")) == Lack("vendor", "another vendor", "remedy")


@pytest.mark.parametrize(
    ("source", "what", "reason"),
    [
        ("raise ImportError('libgone.so.3: cannot open shared object file')", "libgone.so.3", ""),
        ("raise RuntimeError('built for NumPy 1\\nmore')", "vendor.run", "built for NumPy 1"),
        ("import os; os.abort()", "vendor.run", "it ends the process that loads it"),
        ("raise SystemExit", "vendor.run", "SystemExit"),
        ("print('hello')", "vendor.run", "module 'vendor' has no attribute 'run'"),
    ],
    ids=["library", "error", "crash", "exit", "attribute"],
)
def test_a_module_that_cannot_be_loaded_is_missing_with_the_reason(
    host: Host, source: str, what: str, reason: str
) -> None:
    host.package("vendor", source)
    lack = found(Module("vendor", "remedy", "run", is_loaded=True))
    assert lack is not None
    assert (lack.what, lack.remedy) == (what, "remedy")
    assert reason in lack.found


def test_output_of_a_module_is_not_part_of_the_answer(host: Host) -> None:
    host.package("vendor", "print('hello')\ndef run(): ...\n")
    assert found(Module("vendor", "remedy", "run", is_loaded=True)) is None


@pytest.mark.parametrize(
    ("version", "is_there"), [("1.26.4", True), ("2.0.0rc1", False), ("2.4.6", False)]
)
def test_a_version_out_of_its_range_is_a_missing_requirement(
    host: Host, version: str, *, is_there: bool
) -> None:
    host.distribution("vendor-package", version)
    lack = found(Version("vendor-package", "<2", "remedy"))
    expected = Lack("vendor-package<2", f"vendor-package {version}", "remedy")
    assert lack == (None if is_there else expected)


def test_a_library_that_loads_with_its_dependencies_is_available(host: Host) -> None:
    host.library("libinner.so.1")
    host.library("libouter.so.1", needed=["libinner.so.1"])
    assert found(Library("libouter.so.1", "remedy")) is None


def test_a_library_with_a_missing_dependency_names_the_dependency(host: Host) -> None:
    host.library("libinner.so.2")
    host.library("libouter.so.2", needed=["libinner.so.2"])
    (host.folder / "lib" / "libinner.so.2").unlink()
    expected = Lack("libinner.so.2", "libouter.so.2 needs it", "remedy")
    assert found(Library("libouter.so.2", "remedy")) == expected


@pytest.mark.parametrize(
    ("value", "is_there"), [(None, False), ("", False), ("/no/such", False), ("/", True)]
)
def test_a_variable_must_name_a_folder(
    host: Host, monkeypatch: pytest.MonkeyPatch, value: str | None, *, is_there: bool
) -> None:
    del host
    if value is not None:
        monkeypatch.setenv("VENDOR_HOME", value)
    lack = found(Variable("VENDOR_HOME", "remedy"))
    assert lack == (None if is_there else Lack("variable VENDOR_HOME", value or "", "remedy"))


def test_a_missing_item_of_several_needs_is_reported_once(host: Host) -> None:
    del host
    need = Library("libgone.so.7", "remedy")
    other = Library("libgone.so.7", "another way")
    assert lacks([need, other]) == (Lack("libgone.so.7", "", "remedy"),)

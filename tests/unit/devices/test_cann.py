"""CANN is found on a machine, read, and checked before its compiler is called."""

import os
import sys
from pathlib import Path

import pytest

from distributed_pose import ConfigError, SetupError
from distributed_pose.devices.cann import find_cann
from distributed_pose.devices.cann_lacks import (
    compiler_environment,
    compiler_lacks,
    runtime_lacks,
)
from distributed_pose.devices.lacks import Lack
from distributed_pose.model.atc import AtcSpec, preparation, run_atc, toolchain_version
from tests.fakes.ascend import CHIPS, HEIGHT, WIDTH, FakeCann, install_cann, network, stand_ins

SPEC = AtcSpec("310P3", height=HEIGHT, width=WIDTH)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and an environment without CANN."""
    for name in ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def cann(home: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCann:
    """An installation in the user's home that the environment does not name."""
    found = install_cann(home / "Ascend")
    monkeypatch.setenv("PATH", found.path)
    return found


def lacks(soc: str = "310P3") -> tuple[Lack, ...]:
    return compiler_lacks(find_cann(), soc)


class TestIsFound:
    def test_in_the_home_with_its_version_and_chips(self, cann: FakeCann) -> None:
        found = find_cann()
        assert found is not None
        assert (found.home, found.version, found.number) == (cann.home, "8.0.0", (8, 0))
        assert found.chips == tuple(sorted(CHIPS))
        assert found.script == cann.root / "ascend-toolkit" / "set_env.sh"
        assert str(found) == f"CANN 8.0.0 in {cann.home}"

    @pytest.mark.parametrize("variable", ["ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH"])
    def test_where_the_environment_names_it_before_the_usual_places(
        self, cann: FakeCann, home: Path, monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        newer = install_cann(home / "elsewhere", "8.5.0")
        monkeypatch.setenv(variable, str(newer.home))
        assert toolchain_version() == "8.5.0"
        del cann

    def test_in_the_folder_of_releases_since_8_5(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        built = install_cann(home / "built", "8.5.0")
        (home / "Ascend").mkdir()
        (built.root / "ascend-toolkit").rename(home / "Ascend" / "cann-8.5.0")
        script = home / "Ascend" / "cann-8.5.0" / "set_env.sh"
        script.write_text(script.read_text().replace(str(built.home), f"{script.parent}/latest"))
        monkeypatch.setenv("PATH", built.path)
        found = find_cann()
        assert found is not None
        assert (found.version, found.script) == ("8.5.0", script)

    def test_where_variables_alone_name_it(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (home / "bare").mkdir()
        (home / "bare" / "version.info").write_text("Version=6.0.1\n")
        monkeypatch.setenv("ASCEND_HOME_PATH", str(home / "bare"))
        monkeypatch.setenv("PYTHONPATH", f"/ours:{home}/bare/python/site-packages")
        found = find_cann()
        assert found is not None
        assert (found.version, found.script, found.chips) == ("6.0.1", None, ())
        assert found.environment["PYTHONPATH"] == f"{home}/bare/python/site-packages"

    def test_in_no_folder_if_it_is_not_installed(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ASCEND_HOME_PATH", str(home / "gone"))
        assert find_cann() is None
        assert toolchain_version() == ""

    def test_not_by_a_script_that_fails(self, home: Path) -> None:
        (home / "Ascend" / "nnae").mkdir(parents=True)
        (home / "Ascend" / "nnae" / "set_env.sh").write_text("exit 1\n")
        assert find_cann() is None


@pytest.mark.parametrize(
    ("file", "text", "version"),
    [
        ("aarch64-linux/ascend_toolkit_install.info", "path=/x\nversion=8.0.RC1\n", "8.0.RC1"),
        ("version.cfg", "# made\nruntime_running_version=[7.6.0.1.220:8.0.0]\n", "8.0.0"),
        ("version.cfg", "runtime_running_version=[5.1.RC2]\n", "5.1.RC2"),
        ("compiler/version.info", "Version=6.0.1\nversion_dir=6\n", "6.0.1"),
        ("version.cfg", "nothing \n", ""),
    ],
)
def test_the_version_is_read_from_the_file_of_each_release(
    file: str, text: str, version: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "cann" / file).parent.mkdir(parents=True)
    (home / "cann" / file).write_text(text)
    monkeypatch.setenv("ASCEND_HOME_PATH", str(home / "cann"))
    assert toolchain_version() == version


class TestEnvironment:
    def test_the_compiler_runs_in_canns_python_although_ours_is_first_in_path(
        self, cann: FakeCann, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYTHONPATH", "/ours")
        monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
        monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        content, run = run_atc(SPEC, network())
        assert content.startswith(b"IMOD")
        assert run.toolchain == "8.0.0"
        assert len(cann.log.read_text().splitlines()) == 1

    @pytest.mark.usefixtures("cann")
    def test_has_the_scripts_variables_and_none_of_our_python(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYTHONPATH", "/ours")
        monkeypatch.setenv("PYTHONHOME", "/ours")
        found = find_cann()
        assert found is not None
        environment = compiler_environment(found)
        assert environment["ASCEND_HOME_PATH"] == str(found.home)
        assert environment["PYTHONPATH"] == f"{found.home}/python/site-packages:"
        assert "PYTHONHOME" not in environment

    def test_is_computed_again_if_the_script_was_sourced_before(
        self, cann: FakeCann, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ASCEND_TOOLKIT_HOME", str(cann.home))
        monkeypatch.setenv("PYTHONPATH", f"{cann.home}/python/site-packages:/ours")
        assert run_atc(SPEC, network())[0].startswith(b"IMOD")

    def test_the_shell_lines_reproduce_it(self, cann: FakeCann) -> None:
        first, second, *files = preparation(AtcSpec("910B4", precision="f32", aipp=True))
        assert first.startswith("unset PYTHONPATH PYTHONHOME")
        script = f"source {cann.root}/ascend-toolkit/set_env.sh"
        assert second == f"{script}  # CANN 6.3 or newer"
        assert preparation(AtcSpec("310"))[1] == script
        assert [line.split()[2] for line in files] == ["aipp.cfg", "no_hf32.ini"]


class TestLacks:
    @pytest.mark.usefixtures("cann")
    def test_are_empty_on_a_machine_that_compiles_for_the_chip(self) -> None:
        assert lacks("310P3") == lacks("ascend310p3") == lacks("") == ()

    def test_name_cann_if_it_is_not_installed(self) -> None:
        (lack,) = lacks()
        assert lack.what == "CANN"
        assert "--dry-run" in lack.remedy
        with pytest.raises(SetupError, match=r"atc cannot compile: CANN is missing.*--dry-run"):
            run_atc(SPEC, network())

    def test_name_the_compiler_if_only_the_runtime_is_installed(self, cann: FakeCann) -> None:
        (cann.home / "bin" / "atc").unlink()
        (lack,) = lacks()
        assert lack == Lack(
            "atc, the Ascend compiler",
            f"CANN 8.0.0 in {cann.home} without it",
            "install the toolkit package of CANN",
        )

    def test_name_a_chip_that_the_compiler_does_not_support(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chips = ("Ascend310", "Ascend910A")
        old = install_cann(home / "Ascend", "5.0.4", chips, python="8 1.19.5")
        monkeypatch.setenv("PATH", old.path)
        (lack,) = lacks("310P3")
        assert lack.what == "a compiler for Ascend310P3"
        assert lack.found.endswith("which supports Ascend310, Ascend910A")
        assert lack.remedy.startswith("install CANN 5.1 or newer")
        assert lacks("310") == ()

    @pytest.mark.parametrize(
        ("version", "soc", "is_known"),
        [
            ("5.1.RC2", "310P3", True),
            ("5.0.4", "310P3", False),
            ("7.0.0", "310B4", True),
            ("6.0.1", "910B4-1", False),
            ("8.0.RC3", "910_9392", True),
            ("", "910_9392", True),
        ],
    )
    def test_follow_from_the_version_if_the_chips_are_not_listed(
        self,
        version: str,
        soc: str,
        home: Path,
        monkeypatch: pytest.MonkeyPatch,
        *,
        is_known: bool,
    ) -> None:
        found = install_cann(home / "Ascend", version, (), python="8 1.19.5")
        monkeypatch.setenv("PATH", found.path)
        assert (lacks(soc) == ()) is is_known

    @pytest.mark.parametrize(
        ("version", "python", "problem"),
        [
            ("8.0.0", "11 2.1.0", "NumPy 2.1.0"),
            ("8.0.0", "11 1.26.4", "NumPy 1.26.4"),
            ("8.0.0", "12 1.24.4", "Python 3.12"),
            ("8.5.0", "11 2.1.0", "NumPy 2.1.0"),
            ("5.1.RC2", "10 1.21.6", "Python 3.10"),
            ("8.0.0", "10 1.24.4 decorator sympy", "no decorator, no sympy"),
            ("8.0.0", "10 - numpy", "no numpy"),
            ("8.5.0", "13 1.26.4", ""),
            ("5.1.RC2", "9 1.21.6", ""),
            ("9.1.0", "14 1.26.4", ""),
        ],
    )
    def test_name_the_reason_why_the_compiler_cannot_use_each_python(
        self, version: str, python: str, problem: str, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = install_cann(home / "Ascend", version, python=python)
        # Only the shell is in PATH, because the Python of this machine may fit.
        (home / "bin").mkdir()
        (home / "bin" / "bash").symlink_to("/bin/bash")
        (home / "bin" / "env").symlink_to("/usr/bin/env")
        monkeypatch.setenv("PATH", f"{found.python}{os.pathsep}{home}/bin")
        lacking = lacks()
        assert bool(lacking) is bool(problem)
        if lacking:
            assert f"{found.python}/python3: {problem}" in lacking[0].found
            assert "numpy<" in lacking[0].remedy

    @pytest.mark.usefixtures("cann")
    def test_of_an_invalid_chip_name_are_a_config_error(self) -> None:
        with pytest.raises(ConfigError, match="T4 is not an Ascend chip"):
            lacks("T4")

    def test_of_the_runtime_name_the_script_to_source(self, cann: FakeCann) -> None:
        (lack,) = runtime_lacks(find_cann())
        assert lack.what == "the Python module acl"
        assert f"source {cann.root}/ascend-toolkit/set_env.sh" in lack.remedy
        with stand_ins():
            assert runtime_lacks(find_cann()) == ()

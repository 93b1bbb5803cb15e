"""The requirements of a backend on its machine, as data; `requirements` finds those missing.

A need that can be missing in only one way has a `remedy`, the way to install or set it: a shell
command, or a sentence where no command exists.
"""

from dataclasses import dataclass

# In a `remedy`, this placeholder is replaced by the path of the machine's CANN script.
SET_ENV = "{set_env}"


@dataclass(frozen=True)
class Module:
    """A Python module that a backend calls.

    Attributes:
        name: full name of the module itself, not of a package above it: other distributions may own
            the same top-level name.
        remedy: way to install the module.
        attribute: dotted name that is called in the module; empty for any.
        is_loaded: whether the check imports the module, in a process of its own. Needed for
            extension modules that can fail on shared libraries or variables of their vendor; other
            modules are looked up in their source.
        rivals: distributions that own the same top-level name and bring another module.
    """

    name: str
    remedy: str
    attribute: str = ""
    is_loaded: bool = False
    rivals: tuple[str, ...] = ()


@dataclass(frozen=True)
class Version:
    """A range of versions of a distribution that the package installs in any case.

    Attributes:
        distribution: name of the distribution on the package index.
        allowed: version specifier, such as `<2`.
        remedy: way to install an allowed version.
    """

    distribution: str
    allowed: str
    remedy: str


@dataclass(frozen=True)
class Library:
    """A shared library that must load, with all its dependencies.

    Attributes:
        name: file name that the loader searches for, such as `libcuda.so.1`.
        remedy: way to make the loader find the library.
    """

    name: str
    remedy: str


@dataclass(frozen=True)
class Variable:
    """An environment variable that must name a folder.

    Attributes:
        name: name of the variable.
        remedy: way to set the variable.
    """

    name: str
    remedy: str


@dataclass(frozen=True)
class CudaBuild:
    """A PyTorch that was built with CUDA, and a driver that is new enough for it.

    Attributes:
        remedy: way to install a PyTorch that is built with CUDA.
    """

    remedy: str


@dataclass(frozen=True)
class NvidiaProvider:
    """A provider of ONNX Runtime for NVIDIA cards, with the libraries that the provider links.

    Attributes:
        variant: variant of the provider, `cuda` or `tensorrt`.
    """

    variant: str


@dataclass(frozen=True)
class CannProvider:
    """The provider of ONNX Runtime for Ascend chips; the libraries are separate needs.

    Attributes:
        remedy: way to install the ONNX Runtime that has the provider.
    """

    remedy: str


@dataclass(frozen=True)
class PyAcl:
    """The Python interface of CANN's runtime (pyACL), available in this process's environment."""


@dataclass(frozen=True)
class AscendCompiler:
    """ATC, the compiler of CANN, and a Python interpreter that it runs in.

    Attributes:
        soc: name of the chip to compile for; empty if it is unknown, and None for any chip.
    """

    soc: str | None = None


Need = (
    Module
    | Version
    | Library
    | Variable
    | CudaBuild
    | NvidiaProvider
    | CannProvider
    | PyAcl
    | AscendCompiler
)

"""What a backend needs where it runs, as data; `requirements` finds out what of it is missing.

A need that can be missing in one way alone says how to mend that: a command for a shell, or a
sentence where no command can do it.
"""

from dataclasses import dataclass

# In a way to mend something, this is replaced by the script that the machine's CANN has.
SET_ENV = "{set_env}"


@dataclass(frozen=True)
class Module:
    """A Python module that is called.

    Attributes:
        name: full name of the module that is called, and not that of a package above it: other
            distributions may own the same top-level name.
        mend: how to install it.
        attribute: dotted name that is called in it; empty for any.
        is_loaded: whether to import it, in a process of its own. For extension modules that stop
            at shared libraries or variables of their vendor; others are looked up in their source.
        rivals: distributions that own the same top-level name and bring another module.
    """

    name: str
    mend: str
    attribute: str = ""
    is_loaded: bool = False
    rivals: tuple[str, ...] = ()


@dataclass(frozen=True)
class Version:
    """A range of versions of a distribution that is installed anyway.

    Attributes:
        distribution: on the package index.
        allowed: a specifier such as `<2`.
        mend: how to install one of these.
    """

    distribution: str
    allowed: str
    mend: str


@dataclass(frozen=True)
class Library:
    """A shared library that must load, with all that it needs.

    Attributes:
        name: that the loader searches for, such as `libcuda.so.1`.
        mend: how to have it found.
    """

    name: str
    mend: str


@dataclass(frozen=True)
class Variable:
    """An environment variable that must name a folder.

    Attributes:
        name: of the variable.
        mend: how to set it.
    """

    name: str
    mend: str


@dataclass(frozen=True)
class CudaBuild:
    """A PyTorch that was built with CUDA, and a driver that is new enough for it.

    Attributes:
        mend: how to install one.
    """

    mend: str


@dataclass(frozen=True)
class NvidiaProvider:
    """A provider of ONNX Runtime for NVIDIA cards, with the libraries that it links.

    Attributes:
        variant: `cuda` or `tensorrt`.
    """

    variant: str


@dataclass(frozen=True)
class CannProvider:
    """The provider of ONNX Runtime for Ascend chips; its libraries are needs of their own.

    Attributes:
        mend: how to install the ONNX Runtime that has it.
    """

    mend: str


@dataclass(frozen=True)
class PyAcl:
    """pyACL, the Python interface of CANN's runtime, in this process's environment."""


@dataclass(frozen=True)
class AscendCompiler:
    """ATC, the compiler of CANN, and a Python that it runs in.

    Attributes:
        soc: name of the chip to compile for; empty for any.
    """

    soc: str = ""


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

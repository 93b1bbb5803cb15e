"""Models, their inputs and outputs, and artifacts that are compiled of them."""

from dataclasses import dataclass, field

from distributed_pose.records.images import InputSize

# NumPy's name of the floating-point types that a configuration names.
FLOATS = {"f32": "float32", "f16": "float16"}


@dataclass(frozen=True)
class ModelPort:
    """An input or output of a model.

    Attributes:
        name: name in the model.
        shape: dimensions; None for those that are not fixed.
        dtype: NumPy's name of the type that the runtime takes or returns, if it has one.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"


@dataclass(frozen=True, kw_only=True, slots=True)
class CompileSpec:
    """The key facts of an artifact that is to be compiled.

    Attributes:
        backend: name in the registry.
        precision: precision to compile for; `auto` where the device decides when it loads the
            artifact.
        profile: preprocessing profile, which fixes the type of the inputs.
        batch_sizes: batch sizes that the device must take; compilers of fixed shapes need them.
        target: chip or GPU that only this artifact runs on; empty for portable artifacts.
        compiler: location of the `model.makers.Compiler` of the artifact; empty for a
            backend that loads its source unchanged.
        model_formats: formats of a user's model that the backend takes.
        input_size: size of the inputs; None for the size of the profile.
        index: index of a device to compile on, among those that the process sees; any device of the
            same type will do.
    """

    backend: str
    precision: str
    profile: str
    batch_sizes: tuple[int, ...] = (1,)
    target: str = ""
    compiler: str = ""
    model_formats: tuple[str, ...] = ("pth", "onnx")
    input_size: InputSize | None = None
    index: int = field(default=0, compare=False)

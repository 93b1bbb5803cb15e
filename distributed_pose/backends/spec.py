"""The entry of a backend: everything that is known of it without loading it."""

from dataclasses import dataclass

from distributed_pose.backends.needs import Need


@dataclass(frozen=True)
class BackendSpec:
    """The properties of a backend that are known without loading it.

    Functions and objects are given by their location, `module:attribute`, and are loaded on first
    use.

    Attributes:
        factory: location of the backend's `base.BackendFactory`.
        kinds: kinds of devices that the backend runs on; empty for all kinds.
        precisions: precisions that a configuration can request; whether a device supports one is
            known only on that device.
        default: precision that `auto` stands for; `auto` itself where the device decides.
        compiler: location of the `model.makers.Compiler` of the backend's artifacts; empty
            if the backend loads its source unchanged.
        model_formats: formats of the user's model that the backend takes; a checkpoint (`pth`) is
            converted first for a backend that takes `onnx`, too.
        fixed_shapes: whether the backend's models are compiled for one input size.
        bound_to: `chip` or `device` if an artifact runs only on one chip, or only on one model of
            device; empty if it is portable.
        target: name of the backend in `compile --for`, where the chip's name follows if artifacts
            are bound to one; empty if the backend is not a target.
        variants: further names of the backend after a colon, which its factory distinguishes.
        runs_model: whether the backend loads the user's model.
        replays: whether the backend answers from recorded maps. A backend that neither runs the
            model nor replays answers from the ground truth.
        needs: requirements for the backend to start.
        compiler_needs: further requirements if the user's model is not compiled yet.
        distributions: distributions whose versions a worker reports, as far as they are installed.
        versions: location of a function that returns further versions by name; empty for none.
    """

    factory: str
    kinds: tuple[str, ...]
    precisions: tuple[str, ...]
    default: str = "auto"
    compiler: str = ""
    model_formats: tuple[str, ...] = ("pth", "onnx")
    fixed_shapes: bool = False
    bound_to: str = ""
    target: str = ""
    variants: tuple[str, ...] = ()
    runs_model: bool = True
    replays: bool = False
    needs: tuple[Need, ...] = ()
    compiler_needs: tuple[Need, ...] = ()
    distributions: tuple[str, ...] = ()
    versions: str = ""

    def runs_on(self, kind: str) -> bool:
        """Returns whether the backend runs on devices of a kind."""
        return not self.kinds or kind in self.kinds

    @property
    def is_fake(self) -> bool:
        """Whether the backend answers from the ground truth."""
        return not (self.runs_model or self.replays)

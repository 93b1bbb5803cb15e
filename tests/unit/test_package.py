import subprocess
import sys

import distributed_pose

HEAVY = ("ray", "torch", "openvino", "onnxruntime", "cv2", "acl", "tensorrt", "pyarrow")


def test_importing_the_package_loads_no_runtime() -> None:
    code = f"import sys, distributed_pose; print([m for m in {HEAVY} if m in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_the_public_names_are_these() -> None:
    assert sorted(distributed_pose.__all__) == [
        "ConfigError",
        "ExecutionError",
        "PoseEvalError",
        "RunConfig",
        "SetupError",
        "__version__",
        "evaluate",
        "load_config",
        "parse_config",
    ]
    assert all(hasattr(distributed_pose, name) for name in distributed_pose.__all__)

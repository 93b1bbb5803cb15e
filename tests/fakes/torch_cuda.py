"""A fake of PyTorch's CUDA with the functions that the package calls, on the CPU.

The test sets the function that a graph replays, since nothing is captured on a CPU.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch


class FakeGraph:
    """A CUDA graph with its number of replays and the pool of its memory."""

    def __init__(self) -> None:
        self.replays = 0
        self.shared_pool: object = None
        self.replayed: Callable[[], None] = lambda: None

    def pool(self) -> object:
        return self.shared_pool or self

    def replay(self) -> None:
        self.replays += 1
        self.replayed()


class FakeStream:
    """A stream with a handle of the fake driver."""

    def __init__(self, handle: int, device: torch.device) -> None:
        self.handle = handle
        self.device = device

    def synchronize(self) -> None:
        pass


@contextmanager
def nothing(*_: object) -> Iterator[None]:
    yield


@contextmanager
def capture(
    graph: FakeGraph, pool: object, stream: FakeStream, capture_error_mode: str
) -> Iterator[None]:
    assert capture_error_mode in {"global", "thread_local", "relaxed"}
    assert isinstance(stream, FakeStream)
    graph.shared_pool = pool
    yield


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces PyTorch's functions and classes by the fakes."""
    replacements: dict[str, Any] = {
        "CUDAGraph": FakeGraph,
        "ExternalStream": FakeStream,
        "graph": capture,
        "stream": nothing,
        "device": nothing,
        "empty_cache": lambda: None,
    }
    for name, replacement in replacements.items():
        monkeypatch.setattr(torch.cuda, name, replacement)

"""A GPU that there is not: copies that end when a test says so, and a look at every life that a real one would suffer from."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from rudder._tables import TableInfo


class FakeEvent:
    """Comes when all that was put on its stream before has been done."""

    def __init__(self, due: list[Callable[[], None]]) -> None:
        self.due = due


class FakeTensor:
    """Rows on the device: nothing but what was copied there."""

    is_cuda = True

    def __init__(self, shape: tuple[int, ...], dtype: Any, device: str) -> None:
        self.shape = shape
        self.dtype = dtype
        self.device = device
        self.data: np.ndarray | None = None
        self.used_on: list[str] = []


class FakeDriver:
    """As :class:`rudder._gpu.Driver`, over host memory.

    Attributes
    ----------
    pinned : dict of int to int
        Registrations, by address.
    log : list of str
        Calls that a test may want to see in their order.
    fail : set of str
        Calls that fail.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.pinned: dict[int, int] = {}
        self.registered = 0
        self.log: list[str] = []
        self.fail: set[str] = set()
        self.fail_after = 0
        self.called_by_a_child: list[str] = []
        self.lock = threading.RLock()
        self.queue: list[Callable[[], None]] = []

    def _call(self, name: str) -> None:
        if os.getpid() != self.pid:
            self.called_by_a_child.append(name)
            raise AssertionError(f"a forked child called {name}")
        with self.lock:
            self.log.append(name)
            if name in self.fail:
                if self.fail_after == 0:
                    raise RuntimeError(f"{name} failed, as was asked")
                self.fail_after -= 1

    def run(self, most: int = 1 << 30) -> None:
        """Do what was put on the side stream, as far as ``most`` copies go."""
        with self.lock:
            for _ in range(min(most, len(self.queue))):
                self.queue.pop(0)()

    def register(self, address: int, size: int) -> None:
        self._call("register")
        assert address not in self.pinned, "registered twice"
        self.pinned[address] = size
        self.registered += 1

    def unregister(self, address: int) -> None:
        self._call("unregister")
        maps = open("/proc/self/maps").read()
        assert f"{address:x}-" in maps, "the memory went before its registration"
        del self.pinned[address]

    def device(self, device: Any) -> str:
        return "cuda:0" if str(device) == "cuda" else str(device)

    def side(self, device: Any) -> str:
        return f"side of {device}"

    def current(self, device: Any) -> str:
        return f"{threading.current_thread().name} on {device}"

    def host(self, rows: Any, info: TableInfo) -> np.ndarray:
        return np.asarray(rows)

    def empty(self, host: np.ndarray, device: str, stream: str) -> FakeTensor:
        return FakeTensor(host.shape, host.dtype, device)

    def copy_async(self, target: FakeTensor, host: np.ndarray, stream: str) -> None:
        self._call("copy")
        # The memory is read later, and nothing here keeps it alive: that is the caller's part, as with a real device.
        address, size, shape, dtype = host.ctypes.data, host.nbytes, host.shape, host.dtype

        def copy() -> None:
            import ctypes

            target.data = np.frombuffer(ctypes.string_at(address, size), dtype).reshape(shape)

        with self.lock:
            self.queue.append(copy)

    def record(self, stream: str) -> FakeEvent:
        self._call("record")
        with self.lock:
            return FakeEvent(list(self.queue) if stream.startswith("side") else [])

    def wait(self, stream: str, event: FakeEvent) -> None:
        self._call(f"{stream} waits")

    def use(self, tensor: FakeTensor, stream: str) -> None:
        tensor.used_on.append(stream)

    def query(self, event: FakeEvent) -> bool:
        self._call("query")
        with self.lock:
            return not any(copy in self.queue for copy in event.due)

    def synchronize(self, event: FakeEvent) -> None:
        self._call("synchronize")
        with self.lock:
            while any(copy in self.queue for copy in event.due):
                self.run(1)

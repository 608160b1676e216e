"""Rows on their way to a GPU, with a fake one: leases last as long as copies, registrations as long as arenas."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cluster import Daemon, Source
from fake_gpu import FakeDriver, FakeTensor
from test_memory import arenas, in_arena
from test_processes import in_child

import rudder
from rudder import _gpu, _selection

IDS = np.arange(1_000)


@pytest.fixture()
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    """The GPU that clients find."""
    fake = FakeDriver()
    monkeypatch.setattr(_gpu, "cuda_driver", lambda: fake)
    return fake


@pytest.fixture()
def pinned(daemons: list[Daemon], driver: FakeDriver) -> Iterator[rudder.Client]:
    """A client that pins."""
    with daemons[0].connect(pin=True) as client:
        yield client


def until(condition: Any) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def on_device(tensor: FakeTensor) -> np.ndarray:
    """What lies on the device."""
    assert tensor.data is not None, "the copy has not ended"
    return tensor.data


def test_a_lease_ends_when_the_copy_that_reads_it_has(
    pinned: rudder.Client, driver: FakeDriver, source: Source
) -> None:
    address = pinned.fetch("f32", IDS).ctypes.data
    tensor = pinned.fetch("f32", IDS, device="cuda")
    assert (tensor.shape, tensor.device) == ((1_000, 17), "cuda:0")
    # The host rows are still read: other fetches get other memory.
    for _ in range(3):
        rows = pinned.fetch("f32", IDS + 1_000)
        assert rows.ctypes.data != address
        del rows
    driver.run()
    source.check("f32", IDS, on_device(tensor))
    # The next call reclaims them.
    other = pinned.fetch("f32", IDS + 2_000, device="cuda")
    assert pinned.fetch("f32", IDS).ctypes.data == address
    driver.run()
    source.check("f32", IDS + 2_000, on_device(other))
    source.check("f32", IDS, on_device(tensor))


def test_the_stream_of_the_caller_waits_for_the_copy_and_the_thread_does_not(
    pinned: rudder.Client, driver: FakeDriver
) -> None:
    tensor = pinned.fetch("f32", IDS, device="cuda:1")
    assert tensor.data is None
    assert driver.log[-1] == "MainThread on cuda:1 waits"
    assert tensor.used_on == ["MainThread on cuda:1"]
    assert "synchronize" not in driver.log


def test_copies_in_flight_are_bounded(pinned: rudder.Client, driver: FakeDriver, source: Source) -> None:
    tensors = [pinned.fetch("f32", [number], device="cuda") for number in range(2 * _gpu.COPIES_MAX)]
    assert pinned._copies is not None
    assert len(pinned._copies) == _gpu.COPIES_MAX
    source.check("f32", [_gpu.COPIES_MAX - 1], on_device(tensors[_gpu.COPIES_MAX - 1]))
    assert tensors[_gpu.COPIES_MAX].data is None


def test_a_fetch_in_flight_is_copied_when_its_rows_come(
    pinned: rudder.Client, driver: FakeDriver, source: Source
) -> None:
    pending = pinned.fetch_async(["f32", "u8"], IDS, device="cuda")
    # Nobody waits for it, and its copies begin.
    until(lambda: len(driver.queue) == 2)
    driver.run()
    until(pending.done)
    rows = pending.wait()
    assert driver.log[-1] == "MainThread on cuda:0 waits"
    source.check("f32", IDS, on_device(rows["f32"]))
    source.check("u8", IDS, on_device(rows["u8"]))
    assert rows["u8"].used_on == ["MainThread on cuda:0"]
    assert pending.done()
    with pytest.raises(RuntimeError, match="taken"):
        pending.wait()

    async def main() -> Any:
        return await pinned.fetch_async("f32", IDS, device="cuda")

    tensor = asyncio.run(main())
    assert tensor.used_on == ["MainThread on cuda:0"]
    driver.run()
    source.check("f32", IDS, on_device(tensor))


def test_rows_of_a_pending_that_is_dropped_go_back(pinned: rudder.Client, driver: FakeDriver, source: Source) -> None:
    address = pinned.fetch("f32", IDS).ctypes.data
    del_me = pinned.fetch_async("f32", IDS, device="cuda")
    until(lambda: len(driver.queue) == 1)
    del del_me
    assert pinned.fetch("f32", IDS).ctypes.data != address
    driver.run()
    pinned.fetch("f32", [1], device="cuda")
    assert pinned.fetch("f32", IDS).ctypes.data == address


def test_an_error_of_a_fetch_in_flight_is_its_waiters(pinned: rudder.Client, source: Source) -> None:
    pending = pinned.fetch_async("f32", np.array([source.ROWS]), device="cuda")
    with pytest.raises(rudder.IdOutOfRangeError):
        pending.wait()


def test_rows_into_tensors_of_the_caller(pinned: rudder.Client, driver: FakeDriver, source: Source) -> None:
    out = FakeTensor((1_000, 17), np.dtype(np.float32), "cuda:0")
    monkeyed = _selection.check_out
    try:
        _selection.check_out = lambda *_: None  # type: ignore[assignment]
        assert pinned.fetch("f32", IDS, out=out) is out
        # The copy waits for what the caller did with the tensor before.
        assert driver.log.index("side of cuda:0 waits") < driver.log.index("copy")
        assert pinned.fetch_async("f32", IDS, out=out, device="cuda").wait() is out
        with pytest.raises(ValueError, match="'f32' lies on cuda:0, not on cuda:1"):
            pinned.fetch("f32", IDS, out=out, device="cuda:1")
    finally:
        _selection.check_out = monkeyed
    with pytest.raises(ValueError, match="'f32' lies on cpu, not on cuda:0"):
        pinned.fetch("f32", IDS, out=np.zeros((1_000, 17), np.float32), device="cuda")
    driver.run()
    source.check("f32", IDS, on_device(out))


def test_a_tensor_of_the_caller_outlives_a_copy_that_is_given_up(
    pinned: rudder.Client, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = FakeTensor((1_000, 17), np.dtype(np.float32), "cuda:0")
    monkeypatch.setattr(_selection, "check_out", lambda *_: None)
    pending = pinned.fetch_async("f32", IDS, out=out, device="cuda")
    until(lambda: len(driver.queue) == 1)
    del pending
    assert out.used_on == ["side of cuda:0"]


def test_large_selections_are_copied_as_one(
    pinned: rudder.Client, driver: FakeDriver, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_selection, "PIECE_ROWS_MAX", 1_000)
    tensors = [pinned.fetch("f32", None, device="cuda"), pinned.fetch_async("f32", device="cuda").wait()]
    gc.collect()
    driver.run()
    for tensor in tensors:
        source.check("f32", np.arange(source.ROWS), on_device(tensor))


def test_a_copy_that_fails_keeps_the_rows_of_those_before_it(
    pinned: rudder.Client, driver: FakeDriver, source: Source
) -> None:
    address = pinned.fetch("f32", IDS).ctypes.data
    driver.fail, driver.fail_after = {"copy"}, 1
    with pytest.raises(RuntimeError, match="copy failed"):
        pinned.fetch(["f32", "u8"], IDS, device="cuda")
    driver.fail = set()
    assert pinned.fetch("f32", IDS).ctypes.data != address
    driver.run()
    pinned.fetch("f32", [1], device="cuda")
    assert pinned.fetch("f32", IDS).ctypes.data == address

    driver.fail = {"copy"}
    pending = pinned.fetch_async("f32", IDS, device="cuda")
    with pytest.raises(RuntimeError, match="copy failed"):
        pending.wait()


def test_rows_whose_copy_cannot_be_followed_never_go_back(
    pinned: rudder.Client, driver: FakeDriver, source: Source
) -> None:
    address = pinned.fetch("f32", IDS).ctypes.data
    driver.fail = {"record"}
    with pytest.raises(RuntimeError, match="record failed"):
        pinned.fetch("f32", IDS, device="cuda")
    driver.fail = set()
    driver.run()
    # The error itself holds on to what it went through.
    gc.collect()
    assert pinned.fetch("f32", IDS).ctypes.data != address


@pytest.mark.parametrize("how", ["close", "drop"])
def test_a_client_that_goes_waits_for_its_copies(
    daemons: list[Daemon], driver: FakeDriver, source: Source, how: str
) -> None:
    gc.collect()
    before = len(arenas())
    client = daemons[0].connect(pin=True)
    tensor = client.fetch("f32", IDS, device="cuda")
    pending = client.fetch_async("u8", IDS, device="cuda")
    until(pending.done)
    if how == "close":
        client.close()
        with pytest.raises(rudder.ClosedError):
            client.fetch("f32", IDS, device="cuda")
    del client
    source.check("u8", IDS, on_device(pending.wait())) if how == "close" else pending.wait()
    del pending
    gc.collect()
    source.check("f32", IDS, on_device(tensor))
    assert len(arenas()) == before
    assert driver.pinned == {}
    # Copies ended before their memory was unpinned.
    assert driver.log.index("synchronize") < driver.log.index("unregister")


def test_a_fetch_that_waits_ends_when_its_client_is_closed(own_daemons: list[Daemon], driver: FakeDriver) -> None:
    client = own_daemons[0].connect(timeout_s=60)
    client.fetch("f32", [1])
    own_daemons[0].freeze()
    pending = [client.fetch_async("f32", [1], device="cuda") for _ in range(3)]
    threading.Timer(0.1, client.close).start()
    start = time.monotonic()
    for fetch in pending:
        with pytest.raises(rudder.RudderError):
            fetch.wait()
    assert time.monotonic() - start < 30


def test_an_arena_is_pinned_once_and_unpinned_before_it_goes(
    daemons: list[Daemon], driver: FakeDriver, source: Source
) -> None:
    client = daemons[0].connect(pin=True)
    held = [client.fetch("f32", np.arange(source.ROWS)) for _ in range(100)]
    assert all(map(in_arena, held))
    mapped = {arena.start: len(arena) for arena in arenas()}
    assert len(driver.pinned) > 1
    assert driver.pinned.items() <= mapped.items()
    assert driver.registered == len(driver.pinned)
    assert client._pins is not None
    assert client._pins.bytes == sum(driver.pinned.values())
    client.close()
    assert len(driver.pinned) >= 1
    held.clear()
    assert driver.pinned == {}


def test_memory_that_cannot_be_pinned_is_said_once_and_used(
    daemons: list[Daemon], driver: FakeDriver, source: Source
) -> None:
    driver.fail = {"register"}
    client = daemons[0].connect(pin=True)
    with pytest.warns(RuntimeWarning, match="cannot be pinned .register failed.*ulimit -l") as caught:
        held = [client.fetch("f32", np.arange(source.ROWS)) for _ in range(100)]
    assert len(caught) == 1
    tensor = client.fetch("f32", IDS, device="cuda")
    driver.run()
    source.check("f32", IDS, on_device(tensor))
    del held, client
    assert "unregister" not in driver.log


def test_an_error_of_the_driver_is_not_left_to_the_next_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA keeps the last error of a thread, and torch raises it where a kernel is launched."""
    left: list[int] = []

    def answer(*_: object) -> int:
        left.append(712)
        return 712

    def launch(*_: object, **__: object) -> None:
        if left:
            raise RuntimeError(f"CUDA error {left.pop()}")

    cudart = SimpleNamespace(
        cudaHostRegister=answer, cudaHostUnregister=answer, cudaGetErrorString=lambda status: f"words of {status}"
    )
    cuda = SimpleNamespace(is_available=lambda: True, cudart=lambda: cudart)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda, zeros=launch))
    driver = _gpu.CudaDriver()
    with pytest.raises(RuntimeError, match="cudaHostRegister answered 712: words of 712"):
        driver.register(4096, 4096)
    launch()
    with pytest.raises(RuntimeError, match="cudaHostUnregister answered 712: words of 712"):
        driver.unregister(4096)
    launch()


def test_a_fork_leaves_the_gpu_of_its_parent_alone(pinned: rudder.Client, driver: FakeDriver, source: Source) -> None:
    rows = pinned.fetch("f32", IDS)
    tensor = pinned.fetch("f32", IDS, device="cuda")
    pending = pinned.fetch_async("f32", IDS, device="cuda")
    until(lambda: len(driver.queue) == 2)

    def work() -> None:
        # The fake one fails if a child calls it.
        nonlocal rows, pending
        held = [pinned.fetch("f32", np.arange(source.ROWS)) for _ in range(100)]
        source.check("f32", np.arange(source.ROWS), held[-1])
        del held, rows
        assert driver.called_by_a_child == []
        # A child that asks for its parent's GPU begins with nothing of it, and hears what the driver says to that.
        for fetch in (pinned.fetch, lambda *a, **k: pinned.fetch_async(*a, **k).wait()):
            with pytest.raises(AssertionError, match="a forked child called copy"):
                fetch("f32", IDS, device="cuda")
        driver.called_by_a_child.clear()
        del pending
        gc.collect()
        pinned.close()
        assert driver.called_by_a_child == []

    in_child(work)
    assert driver.pinned
    driver.run()
    source.check("f32", IDS, on_device(tensor))
    source.check("f32", IDS, on_device(pending.wait()))


def test_a_pickled_client_does_not_pin(pinned: rudder.Client) -> None:
    function, arguments = pinned.__reduce__()
    assert function(*arguments)._pins is None


def test_no_gpu_is_a_clear_error(daemons: list[Daemon], client: rudder.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(RuntimeError, match="torch, which is not installed"):
        client.fetch("f32", IDS, device="cuda")
    with pytest.raises(RuntimeError, match="torch, which is not installed"):
        daemons[0].connect(pin=True)


def test_a_torch_without_a_gpu_is_a_clear_error(daemons: list[Daemon], client: rudder.Client) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(RuntimeError, match="torch sees no CUDA device"):
        client.fetch("f32", IDS, device=torch.device("cuda"))
    with pytest.raises(RuntimeError, match="torch sees no CUDA device"):
        daemons[0].connect(pin=True)


def test_rows_on_a_real_gpu(daemons: list[Daemon], source: Source) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    with daemons[0].connect(pin=True) as client:
        assert torch.from_numpy(client.fetch("f32", IDS)).is_pinned()
        rng = np.random.default_rng(1)
        wanted = [rng.integers(0, source.ROWS, 2_000) for _ in range(200)]
        pending = [client.fetch_async(["f32", "bf16"], ids, device="cuda") for ids in wanted]
        for ids, fetch in zip(wanted, pending):
            rows = fetch.wait()
            assert rows["f32"].is_cuda
            source.check("f32", ids, rows["f32"].cpu().numpy())
            source.check("bf16", ids, rows["bf16"].view(torch.int16).cpu().numpy().view(np.uint16))
        # A registration that fails leaves nothing behind for the next kernel.
        with pytest.raises(RuntimeError, match="cudaHostRegister answered"):
            _gpu.CudaDriver().register(client.fetch("f32", IDS).ctypes.data, 4096)
        assert int((torch.ones(5, device="cuda") * 2).sum()) == 10
        out = torch.zeros(1_000, 17, device="cuda")
        for first in range(0, 5_000, 100):
            assert client.fetch("f32", IDS + first, out=out) is out
            source.check("f32", IDS + first, out.cpu().numpy())

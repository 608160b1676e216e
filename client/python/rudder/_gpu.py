"""Rows on their way to a GPU: arenas that are pinned, and copies that the training does not wait for.

It owns two lives. A pinned arena is registered once, and unregistered before its memory goes. The host rows of a copy stay
leased until the copy has read them: the memory would otherwise serve the next fetch in mid-copy. It must never touch the
driver in a forked child, to which neither registrations nor streams belong.

What CUDA does is behind :class:`Driver`, so that both lives are tested where there is no GPU.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
import weakref
from collections import deque
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, Protocol

from ._arrays import as_rows
from ._tables import TableInfo
from .errors import ClosedError

__all__ = ["Copies", "Copy", "Driver", "Pins", "cuda_driver"]

#: Copies of one client in flight; the next one waits for the oldest. Each holds the host rows that it reads.
COPIES_MAX = 64


class Driver(Protocol):
    """What is needed of a GPU. Streams, events and tensors are whatever the driver takes them for."""

    def register(self, address: int, size: int) -> None:
        """Pin host memory."""

    def unregister(self, address: int) -> None:
        """Undo :meth:`register`."""

    def device(self, device: Any) -> Any:
        """The device itself, with its index."""

    def side(self, device: Any) -> Any:
        """The stream of a device on which rows are copied."""

    def current(self, device: Any) -> Any:
        """The stream of a device on which the calling thread works."""

    def host(self, rows: Any, info: TableInfo) -> Any:
        """Host rows as something to copy from; it keeps them alive."""

    def empty(self, host: Any, device: Any, stream: Any) -> Any:
        """Memory on the device for the rows, to be used on the stream."""

    def copy_async(self, target: Any, host: Any, stream: Any) -> None:
        """Begin to copy."""

    def record(self, stream: Any) -> Any:
        """An event after all that was put on the stream before."""

    def wait(self, stream: Any, event: Any) -> None:
        """Make what is put on the stream from now on wait for the event."""

    def use(self, tensor: Any, stream: Any) -> None:
        """Say that a tensor is used on a stream, so that its memory serves nobody else before."""

    def query(self, event: Any) -> bool:
        """Whether the event has come. This never blocks."""

    def synchronize(self, event: Any) -> None:
        """Wait for the event."""


class CudaDriver:
    """The driver of ``torch.cuda``: no more than one call of it for each, but for what an error leaves behind."""

    def __init__(self) -> None:
        import torch  # type: ignore[import-not-found, unused-ignore]

        if not torch.cuda.is_available():
            raise RuntimeError("this torch sees no CUDA device: torch.cuda.is_available() is False")
        self._torch = torch
        self._sides: dict[Any, Any] = {}

    def register(self, address: int, size: int) -> None:
        # 1 is cudaHostRegisterPortable: pinned for every device.
        cudart = self._torch.cuda.cudart()
        self._check("cudaHostRegister", cudart, cudart.cudaHostRegister(address, size, 1))

    def unregister(self, address: int) -> None:
        cudart = self._torch.cuda.cudart()
        self._check("cudaHostUnregister", cudart, cudart.cudaHostUnregister(address))

    def _check(self, what: str, cudart: Any, status: Any) -> None:
        if int(status) == 0:
            return
        # CUDA keeps the error of this thread, and torch raises it at the next kernel that the training launches. One
        # of our own takes it away: torch has no call that does only that.
        with contextlib.suppress(RuntimeError):
            self._torch.zeros(1, device="cuda")
        raise RuntimeError(f"{what} answered {int(status)}: {cudart.cudaGetErrorString(status)}")

    def device(self, device: Any) -> Any:
        device = self._torch.device(device)
        return device if device.index is not None else self._torch.device("cuda", self._torch.cuda.current_device())

    def side(self, device: Any) -> Any:
        if device not in self._sides:
            self._sides[device] = self._torch.cuda.Stream(device)
        return self._sides[device]

    def current(self, device: Any) -> Any:
        return self._torch.cuda.current_stream(device)

    def host(self, rows: Any, info: TableInfo) -> Any:
        return as_rows(rows, True, info)

    def empty(self, host: Any, device: Any, stream: Any) -> Any:
        with self._torch.cuda.stream(stream):
            return self._torch.empty(host.shape, dtype=host.dtype, device=device)

    def copy_async(self, target: Any, host: Any, stream: Any) -> None:
        with self._torch.cuda.stream(stream):
            target.detach().copy_(host, non_blocking=True)

    def record(self, stream: Any) -> Any:
        return stream.record_event()

    def wait(self, stream: Any, event: Any) -> None:
        stream.wait_event(event)

    def use(self, tensor: Any, stream: Any) -> None:
        tensor.record_stream(stream)

    def query(self, event: Any) -> bool:
        return bool(event.query())

    def synchronize(self, event: Any) -> None:
        event.synchronize()


def cuda_driver() -> Driver:
    """The driver of this machine.

    Raises
    ------
    RuntimeError
        If there is no torch, or it has no CUDA device.
    """
    try:
        return CudaDriver()
    except ImportError as missing:
        raise RuntimeError("rows on a GPU need torch, which is not installed") from missing


class Pins:
    """The registrations of one client's arenas.

    Parameters
    ----------
    driver : Driver
        Who registers.
    """

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self._pid = os.getpid()
        self._pinned: dict[int, int] = {}
        self._said = False

    @property
    def bytes(self) -> int:
        """Bytes that are pinned now."""
        return sum(self._pinned.values())

    def created(self, address: int, size: int) -> None:
        """Pin a new arena. Where that fails, its rows are copied from pageable memory, which is said once."""
        if os.getpid() != self._pid:
            return
        try:
            self.driver.register(address, size)
        except Exception as failure:
            if not self._said:
                self._said = True
                warnings.warn(
                    f"an arena of {size} bytes cannot be pinned ({failure}): copies of its rows to a GPU take longer and hold "
                    "the training up; raise the limit of locked memory (ulimit -l), or connect without pin=True",
                    RuntimeWarning,
                    stacklevel=2,
                )
            return
        self._pinned[address] = size

    def dropped(self, address: int) -> None:
        """Unpin an arena whose memory is about to go."""
        if os.getpid() == self._pid and self._pinned.pop(address, None) is not None:
            self.driver.unregister(address)


class Copy:
    """Copies of the rows of one fetch, begun and perhaps not ended.

    Attributes
    ----------
    tensors : list
        Where the rows come to lie, one for each part.
    event : object
        Comes when the copies have ended.
    """

    __slots__ = ("device", "event", "tensors")

    def __init__(self, device: Any, tensors: list[Any], event: Any) -> None:
        self.device = device
        self.tensors = tensors
        self.event = event


class _Flight:
    """Copies in flight with the host rows that they read, and the thread that begins copies when rows have come.

    Apart from :class:`Copies`, so that a client that is dropped can still wait for them.
    """

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.inherited: list[Any] = []
        self.flying: deque[tuple[Any, list[Any]]] = deque()
        self.renew()

    def renew(self) -> None:
        """Begin with nothing, at first and in a forked child."""
        # What flies in a child is its parent's. It is kept: to drop an event is to call the driver.
        self.inherited.append(self.flying)
        self.flying = deque()
        self.pid = os.getpid()
        # A collection of garbage may end the flight of a client in the middle of anything.
        self.lock = threading.RLock()
        self.executor: ThreadPoolExecutor | None = None
        self.thread = 0
        self.closed = False

    def reclaim(self, most: int = COPIES_MAX) -> None:
        """Give the host rows of ended copies back, and wait until at most ``most`` fly. The caller has the lock."""
        while self.flying and (len(self.flying) > most or self.driver.query(self.flying[0][0])):
            self.driver.synchronize(self.flying[0][0])
            self.flying.popleft()

    def check_open(self) -> None:
        """Refuse to begin what nobody would wait for."""
        if self.closed:
            raise ClosedError("the client was closed: make a new one")

    def copy(self, rows: list[Any], infos: list[TableInfo], device: Any, outs: list[Any], after: Any) -> Copy:
        """As :meth:`Copies.begin`."""
        driver = self.driver
        with self.lock:
            self.check_open()
            self.reclaim(COPIES_MAX - 1)
            hosts = [driver.host(part, info) for part, info in zip(rows, infos)]
            stream = driver.side(device)
            if after is not None:
                driver.wait(stream, after)
            tensors, event = [], None
            try:
                for host, out in zip(hosts, outs):
                    tensor = driver.empty(host, device, stream) if out is None else out
                    if out is not None:
                        # A fetch that is given up is never delivered, and the caller may drop the tensor in mid-copy.
                        driver.use(out, stream)
                    driver.copy_async(tensor, host, stream)
                    tensors.append(tensor)
            finally:
                # Also after a failure: the copies that were begun before it still read their rows.
                if tensors:
                    event = self._record(stream, hosts)
        return Copy(device, tensors, event)

    def _record(self, stream: Any, hosts: list[Any]) -> Any:
        try:
            event = self.driver.record(stream)
        except Exception:
            # Nobody will learn when these copies end: their rows never go back.
            self.inherited.append(hosts)
            raise
        self.flying.append((event, hosts))
        return event

    def copy_when_come(
        self, source: Any, infos: list[TableInfo], device: Any, outs: list[Any], after: Any
    ) -> Future[Copy]:
        """As :meth:`Copies.follow`."""
        with self.lock:
            self.check_open()
            self.reclaim()
            if self.executor is None:
                self.executor = ThreadPoolExecutor(1, "rudder-copies", initializer=self._note_thread)
            return self.executor.submit(lambda: self.copy(source.wait(), infos, device, outs, after))

    def _note_thread(self) -> None:
        self.thread = threading.get_ident()

    def end(self) -> None:
        """Wait for all copies and give their host rows back."""
        if os.getpid() != self.pid:
            return
        self.closed = True
        executor, self.executor = self.executor, None
        if executor is not None:
            # Its own thread may be the one that collects garbage, and cannot wait for itself.
            executor.shutdown(wait=threading.get_ident() != self.thread, cancel_futures=True)
        with self.lock:
            self.reclaim(0)


class Copies:
    """The copies of one client to its devices.

    Parameters
    ----------
    driver : Driver
        Who copies.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._flight = _Flight(driver)
        # Also at the end of the interpreter: rows that a copy reads must not go before.
        self._end = weakref.finalize(self, self._flight.end)

    def __len__(self) -> int:
        """Fetches whose copies are in flight, as far as was looked."""
        return len(self._here().flying)

    def _here(self) -> _Flight:
        if self._flight.pid != os.getpid():
            self._flight.renew()
        return self._flight

    def device(self, device: Any) -> Any:
        """A device as the driver names it."""
        return self._driver.device(device)

    def mark(self, device: Any) -> Any:
        """An event after what the calling thread has put on its stream: tensors that it gives may be written after that."""
        return self._driver.record(self._driver.current(device))

    def begin(self, rows: list[Any], infos: list[TableInfo], device: Any, outs: list[Any], after: Any) -> Copy:
        """Begin to copy the rows of a fetch.

        Parameters
        ----------
        rows : list
            Of each part, from the native client.
        infos : list of TableInfo
            Their tables.
        device : object
            Where to.
        outs : list
            Tensors on the device to copy into, or ``None`` for new ones.
        after : object, optional
            The event that the copies wait for, from :meth:`mark`.

        Returns
        -------
        Copy
        """
        return self._here().copy(rows, infos, device, outs, after)

    def follow(self, source: Any, infos: list[TableInfo], device: Any, outs: list[Any], after: Any) -> Following:
        """Begin to copy when the rows of a fetch in flight have come, whatever the calling thread does then.

        Parameters
        ----------
        source : object
            The fetch in flight.
        infos, device, outs, after
            As :meth:`begin`.

        Returns
        -------
        Following
        """
        return Following(self._here().copy_when_come(source, infos, device, outs, after))

    def deliver(self, copy: Copy) -> list[Any]:
        """Hand the tensors to the calling thread: what it does with them on its stream waits for the copies."""
        driver = self._driver
        stream = driver.current(copy.device)
        driver.wait(stream, copy.event)
        for tensor in copy.tensors:
            driver.use(tensor, stream)
        return copy.tensors

    def close(self) -> None:
        """Wait for all copies and give their host rows back. Tensors that were handed out stay valid."""
        self._here().end()


class Following:
    """A fetch in flight whose rows are copied to a device when they come. Its rows are a :class:`Copy`."""

    __slots__ = ("_future",)

    def __init__(self, future: Future[Copy]) -> None:
        self._future: Future[Copy] | None = future

    def __del__(self) -> None:
        # Given up, unless the thread waits for it already.
        if self._future is not None:
            self._future.cancel()

    def done(self) -> bool:
        """Whether :meth:`wait` would return at once."""
        return self._future is None or self._future.done()

    def wait(self) -> Copy:
        """Wait until the copies have begun."""
        future, self._future = self._future, None
        if future is None:
            raise RuntimeError("the rows of this fetch were taken: keep what the first wait() answered")
        try:
            return future.result()
        except CancelledError:
            raise ClosedError("the client was closed while this fetch was in flight") from None

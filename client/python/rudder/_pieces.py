"""Large selections in pieces: masks, slices and whole tables, gathered into memory of the caller.

It owns how many rows are in flight at a time. It must never hold more of the daemon's memory than two pieces. The
other parts of the same call are fetched in one message and may take more.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ._arrays import is_tensor_object, written
from ._selection import Wanted, piece_rows

__all__ = ["Pieces"]

#: Pieces in flight at a time: one is copied while the daemon gathers the next.
_IN_FLIGHT = 2

#: Sends a fetch of one part, ``(table, ids)``, and answers what has ``wait()`` and ``done()``.
Send = Callable[[str, np.ndarray], Any]

#: Sends a fetch of several parts, and answers the same.
SendParts = Callable[[list[tuple[str, np.ndarray]]], Any]


class Pieces:
    """A fetch in pieces, with the interface of the native client's fetches in flight.

    Parameters
    ----------
    want : Wanted
        What is asked for.
    outs : list
        For each part what its rows are to be put into, or ``None``. Arrays, and tensors that NumPy can look at, are filled
        directly.
    send : callable
        Sends one piece.
    send_parts : callable
        Sends the parts that are not fetched in pieces.
    """

    def __init__(self, want: Wanted, outs: list[Any], send: Send, send_parts: SendParts) -> None:
        self._lock = threading.Lock()
        self._send = send
        # Of each part that comes in pieces what these are gathered into; ``None`` for the others.
        self._targets: list[np.ndarray | None] | None = [
            _target(out, (len(ids), *info.shape), info.numpy_dtype) if large else None
            for out, ids, info, large in zip(outs, want.ids, want.infos, want.large())
        ]
        self._rest = self._plan(want, self._targets)
        # At once, for their ids lie in the caller's own memory, which may change when the call has returned.
        parts = want.parts()
        self._whole = send_parts(parts) if parts else None
        self._flying: deque[tuple[Any, np.ndarray]] = deque()
        self._failure: BaseException | None = None
        self._fly()

    @staticmethod
    def _plan(want: Wanted, targets: list[np.ndarray | None]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for info, ids, target in zip(want.infos, want.ids, targets):
            if target is None:
                continue
            step = piece_rows(info)
            for first in range(0, len(ids), step):
                yield info.name, written(ids[first : first + step]), target[first : first + step]

    def _fly(self) -> None:
        while len(self._flying) < _IN_FLIGHT:
            piece = next(self._rest, None)
            if piece is None:
                return
            name, ids, target = piece
            self._flying.append((self._send(name, ids), target))

    def _land(self) -> None:
        """Take the oldest piece and send the next."""
        pending, target = self._flying.popleft()
        try:
            (rows,) = pending.wait()
            np.copyto(target, np.asarray(rows))
            del rows
            self._fly()
        except BaseException as failure:
            self._failure = failure
            self._flying.clear()
            raise

    def done(self) -> bool:
        """Whether :meth:`wait` would return at once. Each call takes the pieces that have come and sends the next."""
        with self._lock:
            while self._flying and self._flying[0][0].done():
                try:
                    self._land()
                except Exception:
                    break
            return self._failure is not None or not self._flying and (self._whole is None or bool(self._whole.done()))

    def wait(self) -> list[Any]:
        """Wait for all pieces and answer the rows of each part."""
        with self._lock:
            targets, self._targets = self._targets, None
            if targets is None:
                raise RuntimeError("the rows of this fetch were taken: keep what the first wait() answered")
            whole, self._whole = self._whole, None
            if self._failure is not None:
                raise self._failure
            while self._flying:
                self._land()
            rows = iter(() if whole is None else whole.wait())
            return [next(rows) if target is None else target for target in targets]


def _target(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """The array that the rows of one part are gathered into: the caller's own where that can be."""
    if isinstance(out, np.ndarray):
        return out
    if is_tensor_object(out) and out.device.type == "cpu" and out.is_contiguous():
        torch, data = sys.modules["torch"], out.detach()
        array: np.ndarray = (data.view(torch.int16) if data.dtype == torch.bfloat16 else data).numpy()
        return array.view(dtype)
    return np.empty(shape, dtype)

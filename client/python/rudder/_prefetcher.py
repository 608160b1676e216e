"""Minibatches between their sampling and their use: announced in their order, fetched in their order, a little ahead.

It owns the minibatches that wait, how many of them are announced, and the fetches in flight. It samples nothing and
counts no epochs: loaders and the adapters of frameworks push what was sampled and pop what is trained. It must never end a
training because of an announcement, and never fetch in another order than minibatches were pushed in.
"""

from __future__ import annotations

import contextlib
import operator
import os
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ._client import Client
from ._connect import default_client
from ._selection import Batch
from .errors import (
    ConnectError,
    ConnectionLostError,
    DrainingError,
    LimitError,
    PeerUnavailableError,
    RudderError,
    SharedMemoryError,
    TimeoutError,
)

__all__ = ["Prefetcher"]

#: Ids of a minibatch that are looked at one by one.
_LOOKED_AT = 64

#: Minibatches to announce ahead before any was fetched: the daemon does not know yet how large they are.
_FIRST_AHEAD = 8

#: Steps after which one more minibatch is announced ahead where the daemon had no room before.
_ROOM_STEPS = 16

#: Troubles of an announcement that end: it is announced at the next step.
_LATER = (LimitError, ConnectError, ConnectionLostError, DrainingError, TimeoutError)

#: What can befall a fetch because it was sent ahead: its place in the training asks once more.
_AGAIN = (ConnectionLostError, DrainingError, LimitError, PeerUnavailableError, SharedMemoryError)


class Prefetcher:
    """Announces minibatches as they are sampled, and has the rows of the next ones gathered while the trainer computes.

    One thread at a time uses it. It is a context manager, and ``len()`` counts the minibatches that wait.

    Parameters
    ----------
    client : Client, optional
        By default the one that all loaders of the process share.
    horizon : int, optional
        Minibatches to announce ahead of those that are fetched; by default what the daemon asks for. 0 announces nothing.
    overlap : int
        Fetches that are in flight while the trainer uses the rows of the one before. 0 fetches when :meth:`pop` is called.
    learns : bool
        ``False`` for an evaluation: its fetches teach the cache nothing, and without a ``horizon`` nothing is announced.
    device : str or torch.device, optional
        As :meth:`Client.fetch`.

    Examples
    --------
    >>> ahead = Prefetcher(client)                                  # doctest: +SKIP
    >>> for batch in sampler:                                       # doctest: +SKIP
    ...     ahead.push({"feat": batch.n_id}, batch)
    ...     while not ahead.hungry():
    ...         train(*ahead.pop())
    >>> while ahead:                                                # doctest: +SKIP
    ...     train(*ahead.pop())
    """

    def __init__(
        self,
        client: Client | None = None,
        *,
        horizon: int | None = None,
        overlap: int = 1,
        learns: bool = True,
        device: Any = None,
    ) -> None:
        for what, value in (("horizon", horizon), ("overlap", overlap)):
            if value is not None and operator.index(value) < 0:
                raise ValueError(f"{what} is {value}: it must be at least 0")
        if horizon is None and not learns:
            horizon = 0
        self._client = default_client() if client is None else client
        self._horizon = horizon
        self._overlap = overlap
        # An evaluation that announces is asked for by name: then its fetches are those that were announced.
        self._learns = learns or bool(horizon)
        self._options = {} if device is None else {"device": device}
        self._waiting: deque[_Waiting] = deque()
        self._announced = 0
        self._sent = 0
        self._pushed = 0
        # An announcement failed in this step.
        self._is_deferred = False
        # Minibatches that the daemon seems to have room for, once it has refused some.
        self._room: int | None = None
        self._refusals = self._client._course.refusals
        self._pid = os.getpid()

    def __len__(self) -> int:
        return len(self._waiting)

    def hungry(self) -> bool:
        """Whether another minibatch should be pushed before the next :meth:`pop`.

        Returns
        -------
        bool
            ``False`` once as many wait as the daemon asks for, or has room for.
        """
        waiting = len(self._waiting)
        if waiting <= self._overlap:
            return True
        return self._announce_waiting() and waiting <= self._ahead() + self._overlap

    def push(self, wants: Any, payload: Any = None) -> None:
        """Take a minibatch that was sampled, and announce it.

        Parameters
        ----------
        wants : mapping of str to ids, or (table, ids), or (list of tables, ids)
            What the minibatch will need. The ids must stay as they are until it is popped.
        payload : object
            Given back by :meth:`pop`.

        Raises
        ------
        TypeError
            If ``wants`` has another form. What is wrong with ids or tables, the fetch says, at its place.
        """
        tables, is_single = _tables_of(wants)
        digests = None if self._horizon == 0 and self._overlap == 0 else _digests(tables)
        new = _Waiting(self._pushed, tables, is_single, payload, digests)
        # One object for every minibatch: its ids may be new each time, but what comes out with the rows is the last.
        last = self._waiting[-1] if self._waiting else None
        if last is not None and payload is not None and last.payload is payload and last.digests != digests:
            last.is_spoiled = True
        self._pushed += 1
        self._waiting.append(new)
        self._announce_waiting()

    def pop(self) -> tuple[Any, Any]:
        """Take the oldest minibatch with its rows, and send the fetches of those that follow.

        Returns
        -------
        payload : object
            As it was pushed.
        rows : dict of str to rows, or rows
            By table; the rows alone for a ``wants`` of ``(table, ids)``.

        Raises
        ------
        IndexError
            If nothing waits.
        RuntimeError
            If the ids have changed since the minibatch was pushed.
        RudderError, TypeError, ValueError
            As :meth:`Client.fetch`. The minibatch is gone then, and the next call gives the one that follows.
        """
        if not self._waiting:
            raise IndexError("no minibatch waits")
        if os.getpid() != self._pid:
            self._leave_parent()
        before = self._sent
        if self._overlap > 0:
            self._send_ahead()
        taken = self._waiting.popleft()
        self._announced = max(0, self._announced - 1)
        self._sent = max(0, self._sent - 1)
        self._is_deferred = False
        self._look_for_room(taken.number)
        if taken.is_spoiled or taken.digests is not None and taken.digests != _digests(taken.tables):
            raise _reused(taken)
        rows = self._rows_of(taken, was_sent_before=before > 0)
        self._client._course.has_fetched = True
        return taken.payload, rows

    def close(self) -> None:
        """Give up all that waits: rows in flight, and announcements, which the daemon drops when the next one comes."""
        waiting, self._waiting = self._waiting, deque()
        announced, sent, self._announced, self._sent = self._announced, self._sent, 0, 0
        if os.getpid() == self._pid:
            for given_up in list(waiting)[sent:announced]:
                self._client._course.begin_again(given_up.tables)

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_pid"):
            self.close()

    def _ahead(self) -> int:
        """Minibatches to announce ahead of those that are asked for."""
        ahead = self._horizon
        if ahead is None:
            ahead = _FIRST_AHEAD
            if self._client._course.has_fetched and self._waiting:
                with contextlib.suppress(RudderError, TypeError, ValueError):
                    # Tables differ in their caches: the one that wants to know most decides.
                    ahead = max((self._client.horizon(table) for table in self._waiting[-1].tables), default=1)
        return ahead if self._room is None else min(ahead, self._room)

    def _look_for_room(self, step: int) -> None:
        """Announce less far ahead where the daemon had no room, and a little further from time to time."""
        if self._refusals != self._client._course.refusals:
            self._refusals = self._client._course.refusals
            self._room = max(1, (len(self._waiting) - self._sent) // 2)
        elif self._room is not None and step % _ROOM_STEPS == 0:
            self._room += 1

    def _announce_waiting(self) -> bool:
        """Announce what waits; whether there is more to announce."""
        if self._is_deferred:
            return False
        while self._horizon != 0 and self._announced < len(self._waiting):
            try:
                self._announce(self._waiting[self._announced])
            except _LATER:
                self._is_deferred = True
                return False
            except (RudderError, TypeError, ValueError):
                # It is no use to announce this one. Its fetch says why.
                pass
            self._announced += 1
        return True

    def _announce(self, waiting: _Waiting) -> None:
        if waiting.tables:
            if waiting.step is None:
                waiting.step = self._client._course.next_step(waiting.tables)
            waiting.batch = self._client.announce(*waiting.asked_for(), step=waiting.step)

    def _send_ahead(self) -> None:
        """Send the fetches of the oldest minibatch and of those that overlap it."""
        while self._sent < min(len(self._waiting), 1 + self._overlap):
            next_one = self._waiting[self._sent]
            # Its place in the training says what is wrong with it.
            with contextlib.suppress(RudderError, TypeError, ValueError):
                next_one.pending = _fetch_async(self._client, next_one, self._learns, self._options)
            self._sent += 1
        # What is asked for needs no announcement any more.
        self._announced = max(self._announced, self._sent)

    def _rows_of(self, taken: _Waiting, was_sent_before: bool) -> Any:
        if taken.pending is not None:
            try:
                return taken.pending.wait()
            except _AGAIN:
                if not was_sent_before:
                    raise
            # The others may hold the memory that this one needs.
            taken.pending = None
            for other in self._waiting:
                other.pending = None
            self._sent = 0
        return _fetch(self._client, taken, self._learns, self._options)

    def _leave_parent(self) -> None:
        """This is a forked child: what is in flight belongs to the parent."""
        for waiting in self._waiting:
            waiting.pending = None
        self._sent = 0
        self._pid = os.getpid()


class _Digest(NamedTuple):
    """What tells the ids of one minibatch from those of another."""

    count: int
    total: int
    some: tuple[int, ...]


class _Waiting:
    """A minibatch that was pushed and not popped yet.

    Attributes
    ----------
    number : int
        Minibatches that were pushed before.
    tables : dict of str to ids
        What it needs.
    is_single : bool
        Whether its rows are given without their table's name.
    payload : object
        The caller's.
    digests : dict of str to _Digest, optional
        Of the ids when it was pushed.
    step : int, optional
        Its number to the daemon, once it was to be announced.
    batch : Batch, optional
        What it was announced as.
    pending : Pending, optional
        Its fetch in flight.
    is_spoiled : bool
        Whether the minibatch after it is the same object with other ids.
    """

    __slots__ = ("batch", "digests", "is_single", "is_spoiled", "number", "payload", "pending", "step", "tables")

    def __init__(
        self, number: int, tables: dict[str, Any], is_single: bool, payload: Any, digests: dict[str, Any] | None
    ) -> None:
        self.number = number
        self.tables = tables
        self.is_single = is_single
        self.payload = payload
        self.digests = digests
        self.step: int | None = None
        self.batch: Batch | None = None
        self.pending: Any = None
        self.is_spoiled = False

    def asked_for(self) -> tuple[Any, ...]:
        """How a call of the client names its rows."""
        if self.batch is not None:
            return (self.batch,)
        return next(iter(self.tables.items())) if self.is_single else (self.tables,)


def _tables_of(wants: Any) -> tuple[dict[str, Any], bool]:
    """The ids by table, and whether it is one table without a mapping."""
    if isinstance(wants, Mapping):
        return dict(wants), False
    if isinstance(wants, tuple) and len(wants) == 2:
        names, ids = wants
        if isinstance(names, str):
            return {names: ids}, True
        if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names):
            return dict.fromkeys(names, ids), False
    raise TypeError(
        f"what a minibatch needs must be a mapping of tables to ids, or a pair (table, ids), not a {type(wants).__name__}"
    )


def _digests(tables: Mapping[str, Any]) -> dict[str, _Digest | None]:
    """The digest of each table's ids; tables often share them."""
    known: dict[int, _Digest | None] = {}
    for ids in tables.values():
        if id(ids) not in known:
            known[id(ids)] = _digest(ids)
    return {table: known[id(ids)] for table, ids in tables.items()}


def _digest(ids: Any) -> _Digest | None:
    """The digest of ids, or ``None`` where they lie on a device, or are no list of numbers: the fetch reads them."""
    if ids is None or isinstance(ids, slice) or getattr(getattr(ids, "device", None), "type", "cpu") != "cpu":
        return None
    try:
        array = np.asarray(ids)
    except (TypeError, ValueError, RuntimeError):
        return None
    if array.dtype.kind not in "iub" or array.ndim != 1:
        return None
    some = array[:: max(1, len(array) // _LOOKED_AT)]
    return _Digest(len(array), int(np.add.reduce(array, dtype=np.uint64)), tuple(some.tolist()))


def _reused(waiting: _Waiting) -> RuntimeError:
    return RuntimeError(
        f"the ids of minibatch {waiting.number} of this iteration have changed while it waited to be fetched: the loader puts "
        "each minibatch where the one before lies. Have it give copies (ids.copy(), ids.clone()), or give horizon=0 and "
        "overlap=0, so that no minibatch waits"
    )


def _learning(client: Client, learns: bool) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext() if learns else client.paused()


def _fetch_async(client: Client, waiting: _Waiting, learns: bool, options: Mapping[str, Any]) -> Any:
    with _learning(client, learns):
        return client.fetch_async(*waiting.asked_for(), **options)


def _fetch(client: Client, waiting: _Waiting, learns: bool, options: Mapping[str, Any]) -> Any:
    with _learning(client, learns):
        return client.fetch(*waiting.asked_for(), **options)

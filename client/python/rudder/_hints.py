"""Hints of a trainer to the daemon: what comes, how far the training is, and which calls do not belong to it.

It owns the one-way calls and what the daemon says of them later. It must never change which rows a fetch gives, and never
wait for the daemon, but for the first :meth:`Hints.horizon`.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

from ._course import Course
from ._numbers import STEP_MAX, U32_MAX, integer, next_batch
from ._selection import Asker, Batch, Of
from ._tables import TableInfo, table_of
from .errors import LimitError

if TYPE_CHECKING:
    from ._client import Client

__all__ = ["Hints"]

#: The clients that are paused here, once for each pause. A thread and an asyncio task have their own.
_paused: ContextVar[tuple[int, ...]] = ContextVar("rudder_paused", default=())


class Hints:
    """The part of :class:`Client` that announces, and reports progress."""

    __slots__ = ()

    ids: str
    trainer: int
    _asker: Asker
    _course: Course
    _key: int
    _native: Any
    _said: set[str]
    _tables: dict[str, TableInfo]

    def announce(self, of: Of, ids: Any = None, step: int | None = None) -> Batch:
        """Say which rows a coming minibatch will fetch, so that they are there in time.

        This is one-way: it waits for no answer. What the daemon refuses of it, it says at a later call, as a
        :class:`RuntimeWarning`, once for each reason. :class:`Loader` announces by itself.

        Fetch the batch that is returned, from any process of this trainer. Or fetch exactly these ids, in this order: the
        daemon recognises them. A fetch that was not announced is served like any other.

        Parameters
        ----------
        of, ids
            As :meth:`fetch`.
        step : int, optional
            The trainer's number for the minibatch, growing by one per step. By default minibatches follow each other in
            the order in which their announcements arrive.

        Returns
        -------
        Batch
            What :meth:`fetch` takes.

        Raises
        ------
        RudderError, TypeError, ValueError
            As :meth:`fetch`, for what is known without the daemon.
        """
        if step is not None:
            step = integer("step", step, 0, STEP_MAX)
        want = self._asker.wanted(of, ids)
        parts = want.parts()
        number = None
        if parts and self._learns():
            number = next_batch()
            self._native.announce(parts, step, number)
            self._say()
            if step is not None:
                for name, _ in parts:
                    self._course.announced(name, step)
        return Batch(number, self.trainer, self.ids, parts, want.tensors, want.is_one)

    def horizon(self, table: str) -> int:
        """Minibatches that the daemon would like announced ahead; it follows the size of its cache.

        Parameters
        ----------
        table : str
            The table.

        Returns
        -------
        int
            What the daemon said last; it is asked if it has not said yet.

        Raises
        ------
        RudderError
            As :meth:`fetch`.
        """
        table_of(self._tables, table)
        horizon: int = self._native.horizon(table)
        return horizon

    def progress(self, epoch: int, step: int, steps_per_epoch: int) -> None:
        """Tell the daemon's cache how far this trainer has come.

        Its scores are computed from that, so call this at each step. A :class:`Loader` calls it by itself. This is one-way,
        as :meth:`announce`.

        Parameters
        ----------
        epoch : int
            Epochs ended so far.
        step : int
            Steps of this epoch ended so far.
        steps_per_epoch : int
            Steps of an epoch, above 0.

        Raises
        ------
        TypeError, ValueError
            If a number is no integer, negative, or above 2**32 - 1.
        RudderError
            What the connection suffers.
        """
        epoch = integer("epoch", epoch, 0, U32_MAX)
        step = integer("step", step, 0, U32_MAX)
        steps_per_epoch = integer("steps_per_epoch", steps_per_epoch, 1, U32_MAX)
        if self._learns():
            self._native.progress(epoch, step, steps_per_epoch)
            self._say()

    @contextlib.contextmanager
    def paused(self) -> Iterator[Client]:
        """For evaluation: fetches teach the cache nothing, and announcements and progress are ignored.

        It holds for calls of this client by this thread or asyncio task, and by processes that are forked meanwhile. Pauses
        may be nested.

        Examples
        --------
        >>> with client.paused():                               # doctest: +SKIP
        ...     evaluate(model, client.fetch("feat", test_ids))
        """
        _paused.set((*_paused.get(), self._key))
        try:
            yield cast("Client", self)
        finally:
            rest = list(_paused.get())
            # Not there where the block is left in another thread than it was entered in.
            if self._key in rest:
                rest.remove(self._key)
            _paused.set(tuple(rest))

    def _learns(self) -> bool:
        """Whether the cache may learn from a fetch that is made here."""
        return self._key not in _paused.get()

    def _say(self) -> None:
        """Warn of what the daemon said of one-way calls, once for each reason."""
        for code, message in self._native.warnings():
            if code == LimitError.code:
                self._course.refusals += 1
            if code not in self._said:
                self._said.add(code)
                warnings.warn(message, RuntimeWarning, stacklevel=3)

"""Loaders that know what comes: minibatches come out with their rows, and the daemon knows those that follow.

It owns the iterators of the loader that it wraps, the numbers of epochs, and what was sampled of the next epoch. The minibatches
that wait for their rows are the :class:`Prefetcher`'s. It must never end a training because of a hint to the daemon, and never
let the iterator of a loader go on after the iteration that it was made for.
"""

from __future__ import annotations

import contextlib
import operator
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from ._client import Client
from ._connect import default_client
from ._prefetcher import Prefetcher
from .errors import RudderError

__all__ = ["Ahead", "Clock", "Prefetcher"]

Batch = TypeVar("Batch")

#: What a forked child has of its parent's iterations: to end it is the parent's.
_parents: list[Any] = []


def is_one_shot(iterable: Any) -> bool:
    """Whether the iterable can be used once only, as a generator.

    Loaders that are their own iterators and begin again by themselves have a length; generators, ``map`` and files have none.
    """
    return isinstance(iterable, Iterator) and not hasattr(iterable, "__len__")


class Ahead(Generic[Batch]):
    """Wraps a loader of minibatches: announces those that come, fetches their rows in time, and reports progress.

    It is iterated as the loader is, once per epoch, and counts the epochs by itself: each iteration is the epoch after the one
    that an ``Ahead`` or :class:`Loader` of the same client began before, also if that was broken off. An exception of the
    loader comes out at its place, after the minibatches before it.

    Iterations at the same time are kept apart: each has an iterator of the loader, and an epoch of its own. Only if the loader
    has one iterator for both, they are refused.

    Parameters
    ----------
    loader : iterable
        Minibatches of one epoch; it is iterated again for each.
    wants : callable
        What a minibatch needs: ``wants(batch)`` returns a mapping of tables to ids, or ``(table, ids)``.
    put : callable, optional
        ``put(batch, rows)`` puts the rows in, and returns the minibatch to yield, or ``None`` if that is ``batch`` itself.
        ``rows`` are a mapping by table, or the rows alone for a ``wants`` of ``(table, ids)``. Without ``put``, pairs of
        minibatch and rows come out.
    client : Client, optional
        By default all loaders of the process share one that :func:`connect` makes.
    horizon : int, optional
        Minibatches to announce ahead; by default the number that the daemon asks for, and 0 announces nothing. The minibatches
        that are announced are held.
    overlap : int
        Fetches in flight while the trainer uses the rows of the one before. With 1, at most two minibatches have rows beside
        those that the trainer keeps. With 0, rows are fetched when they are needed.
    progress : bool
        ``False`` for an evaluation: it counts no epoch, reports and announces nothing, and its fetches teach the cache nothing.
        With a ``horizon`` above 0 it only counts and reports nothing, for trainers that call :meth:`Client.progress` themselves.
    steps_per_epoch : int, optional
        By default ``len(loader)``. Where neither is known, the first whole epoch tells, and progress is reported from the next.
    early : bool
        Begin to sample the next epoch when the loader has given the last minibatch of this one, so that lookahead has no gap.
        The loader's ``iter()`` is then called before this epoch's training has ended. What was sampled after the last epoch is
        dropped with this object, or by :meth:`close`.
    device : str or torch.device, optional
        As :meth:`Client.fetch`: with a GPU, the rows of the next minibatch are copied to it while the trainer computes.

    Raises
    ------
    ValueError
        If a number makes no sense, or the loader can be used once only (a generator) and ``early`` is set.
    RuntimeError
        While iterating: if the loader is used up, has one iterator for two iterations, or puts new ids where those of a minibatch
        lie that still waits.

    Examples
    --------
    >>> ahead = rudder.Ahead(loader, lambda b: {"feat": b.n_id}, lambda b, rows: setattr(b, "x", rows["feat"]))  # doctest: +SKIP
    >>> for epoch in range(10):                                                                                  # doctest: +SKIP
    ...     for batch in ahead:
    ...         train(batch)
    """

    #: Epochs that one iteration yields.
    _epochs = 1

    def __init__(
        self,
        loader: Iterable[Batch],
        wants: Callable[[Batch], Any],
        put: Callable[[Batch, Any], Any] | None = None,
        *,
        client: Client | None = None,
        horizon: int | None = None,
        overlap: int = 1,
        progress: bool = True,
        steps_per_epoch: int | None = None,
        early: bool = False,
        device: Any = None,
    ) -> None:
        for what, value, least in (("horizon", horizon, 0), ("overlap", overlap, 0), ("steps_per_epoch", steps_per_epoch, 1)):
            if value is not None and operator.index(value) < least:
                raise ValueError(f"{what} is {value}: it must be at least {least}")
        if early and is_one_shot(loader):
            raise ValueError(
                f"the loader is a {type(loader).__name__}, which can be used once, and early is set: give a list, a DataLoader or "
                "another object whose iter() begins again"
            )
        self._loader = loader
        self._wants = wants
        self._put = put
        self._client = default_client() if client is None else client
        self._horizon = horizon
        self._overlap = overlap
        self._progress = progress
        self._steps_per_epoch = steps_per_epoch
        self._early = early
        self._device = device
        # Of the first whole epoch.
        self._steps_seen: int | None = None
        self._is_used = False
        # The next epoch, if it was begun early.
        self._begun: _Stream | None = None
        self._live: weakref.WeakSet[_Stream] = weakref.WeakSet()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_begun": None, "_live": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._live = weakref.WeakSet()

    def __len__(self) -> int:
        steps = self._steps()
        if steps is None:
            raise TypeError("the length is not known: give steps_per_epoch")
        return self._epochs * steps

    def __iter__(self) -> Iterator[Any]:
        if self._is_used and is_one_shot(self._loader):
            raise RuntimeError(
                f"the minibatches are a {type(self._loader).__name__}, and an iteration before this one used it: give a "
                "list, a DataLoader or another object whose iter() begins again"
            )
        self._is_used = True
        return self._iterate()

    def close(self) -> None:
        """Give up what was sampled of an epoch that has not begun (``early``). Another iteration begins a new one."""
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.close()

    def _steps(self) -> int | None:
        """Minibatches of an epoch, as far as they are known."""
        known = self._length() if self._steps_per_epoch is None else self._steps_per_epoch
        return self._steps_seen if known is None else known

    def _length(self) -> int | None:
        """What the loader says of its length, if it has one; that of a ``DataLoader`` depends on its data set."""
        try:
            return len(self._loader)  # type: ignore[arg-type]
        except TypeError:
            return None

    def _end_of_epoch(self, epoch: int, steps: int) -> None:
        """The loader has ended an epoch: ``epoch`` counts from 0 in its stream."""
        if steps == 0 and self._steps_seen:
            raise RuntimeError(
                f"the loader gave no minibatch, and {self._steps_seen} in the epoch before: it can be used once only; give one "
                "whose iter() begins again"
            )
        self._steps_seen = steps

    def _iterate(self) -> Iterator[Any]:
        stream = self._take_stream()
        last, at, clock, is_over = stream.epoch + self._epochs - 1, -1, None, False
        try:
            while stream.fill(last):
                if self._progress:
                    if clock is None or at != stream.oldest_epoch:
                        at, clock = stream.oldest_epoch, Clock(self._client, self._steps())
                    clock.tick()
                # No name here may hold the rows while the trainer has them.
                yield self._filled(*stream.pop())
            is_over = True
        finally:
            if is_over and self._early and self._begun is None and len(self._live) == 1:
                stream.epoch = last + 1
                self._begun = stream
            else:
                stream.close()

    def _take_stream(self) -> _Stream:
        begun, self._begun = self._begun, None
        if begun is not None:
            if begun.pid == os.getpid():
                return begun
            _parents.append(begun)
        ahead = Prefetcher(
            self._client, horizon=self._horizon, overlap=self._overlap, learns=self._progress, device=self._device
        )
        stream = _Stream(self._loader, self._wants, ahead, None if self._early else self._epochs, self._end_of_epoch)
        stream.keep_apart(self._live)
        return stream

    def _filled(self, batch: Batch, rows: Any) -> Any:
        if self._put is None:
            return batch, rows
        other = self._put(batch, rows)
        return batch if other is None else other


class Clock:
    """Numbers one epoch and reports its steps.

    Parameters
    ----------
    client : Client
        Whose epochs it counts: all loaders of a client count together.
    steps_per_epoch : int, optional
        Without it the epoch is counted, and its steps are not reported.

    Attributes
    ----------
    epoch : int, optional
        The number, once the first minibatch is used.
    """

    def __init__(self, client: Client, steps_per_epoch: int | None) -> None:
        self._client = client
        self._steps_per_epoch = steps_per_epoch
        self._step = 0
        self.epoch: int | None = None

    def tick(self) -> None:
        """Say that the next minibatch of the epoch is about to be used."""
        course = self._client._course
        if self.epoch is None:
            self.epoch = course.epoch
            course.epoch += 1
        if self._steps_per_epoch:
            # The fetch says what is wrong with the connection.
            with contextlib.suppress(RudderError):
                self._client.progress(self.epoch, min(self._step, self._steps_per_epoch), self._steps_per_epoch)
        self._step += 1


class _Stream:
    """Minibatches of a loader, epoch after epoch, and the prefetcher that they go through.

    Parameters
    ----------
    loader : iterable
        Iterated once per epoch, when its first minibatch is wanted.
    wants : callable
        Of :class:`Ahead`.
    ahead : Prefetcher
        Where the minibatches wait.
    epochs : int, optional
        Epochs to sample; without it there is no end.
    end_of_epoch : callable
        Told the epoch and its number of minibatches when the loader has ended it.

    Attributes
    ----------
    epoch : int
        The first epoch, counted from 0, that no iteration has had.
    oldest_epoch : int
        Of the minibatch that comes next.
    pid : int
        The process whose iterators these are.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        wants: Callable[[Any], Any],
        ahead: Prefetcher,
        epochs: int | None,
        end_of_epoch: Callable[[int, int], None],
    ) -> None:
        self.epoch = 0
        self.pid = os.getpid()
        self._loader = loader
        self._wants = wants
        self._ahead = ahead
        self._epochs = epochs
        self._end_of_epoch = end_of_epoch
        self._iterator: Iterator[Any] | None = None
        # Where the loader is.
        self._sampled_epoch = 0
        self._sampled_steps = 0
        # What it ended with, in the epoch where it is.
        self._failure: BaseException | None = None
        self._epochs_waiting: deque[int] = deque()
        self._others: weakref.WeakSet[_Stream] = weakref.WeakSet()

    @property
    def oldest_epoch(self) -> int:
        return self._epochs_waiting[0]

    def keep_apart(self, live: weakref.WeakSet[_Stream]) -> None:
        """Join the streams of the same loader, none of which may have the iterator of another."""
        self._others = live
        live.add(self)

    def fill(self, last: int) -> bool:
        """Sample until enough minibatches wait.

        Parameters
        ----------
        last : int
            The last epoch that this iteration has.

        Returns
        -------
        bool
            Whether a minibatch of that epoch, or one before, waits.

        Raises
        ------
        Exception
            What the loader raised, once everything before that was used.
        """
        while self._failure is None and self._ahead.hungry() and self._sample():
            pass
        if self._epochs_waiting:
            return self.oldest_epoch <= last
        if self._failure is not None and self._sampled_epoch <= last:
            failure, self._failure, self._epochs = self._failure, None, 0
            try:
                raise failure
            finally:
                # Its frames hold the loader's iterator, with its workers, and this one would hold it.
                del failure
        return False

    def pop(self) -> tuple[Any, Any]:
        """The minibatch that comes next, and its rows."""
        self._epochs_waiting.popleft()
        return self._ahead.pop()

    def close(self) -> None:
        """Give up everything: minibatches that wait, and the loader's iterator."""
        self._ahead.close()
        self._epochs_waiting.clear()
        self._epochs = 0
        self._others.discard(self)
        iterator, self._iterator = self._iterator, None
        # Workers end with their iterator. A loader that is its own iterator belongs to its user.
        if iterator is not None and iterator is not self._loader and hasattr(iterator, "close"):
            iterator.close()

    def _sample(self) -> bool:
        """Push the next minibatch; ``False`` if there is no more."""
        try:
            while self._epochs is None or self._sampled_epoch < self._epochs:
                if self._iterator is None:
                    self._iterator = self._open()
                try:
                    batch = next(self._iterator)
                except StopIteration:
                    self._iterator = None
                    self._end_of_epoch(self._sampled_epoch, self._sampled_steps)
                    if self._sampled_steps == 0:
                        self._epochs = 0
                    self._sampled_epoch, self._sampled_steps = self._sampled_epoch + 1, 0
                    continue
                self._ahead.push(self._wants(batch), batch)
                self._epochs_waiting.append(self._sampled_epoch)
                self._sampled_steps += 1
                return True
        except Exception as error:
            self._failure = error
        return False

    def _open(self) -> Iterator[Any]:
        iterator = iter(self._loader)
        for other in self._others:
            if other is not self and other._iterator is iterator:
                error = RuntimeError(
                    f"two iterations are under way at once, and the loader, a {type(self._loader).__name__}, has one iterator for "
                    "both: end the first before the second begins, or give each a loader of its own"
                )
                # The loader has begun again for the second, so the first would get minibatches of the wrong epoch.
                other._failure = other._failure or error
                raise error
        return iterator

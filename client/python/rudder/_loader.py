"""A loader that announces: minibatches come out with their rows, and the daemon knows those that follow."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from ._client import Client, default_client
from .errors import LimitError

__all__ = ["Loader"]

Batch = TypeVar("Batch")


def _itself(batch: Any) -> Any:
    return batch


def _is_one_shot(iterable: Any) -> bool:
    """Whether the iterable can be used once only, as a generator.

    Loaders that are their own iterators and begin again by themselves have a length; generators, ``map`` and files have none.
    """
    return isinstance(iterable, Iterator) and not hasattr(iterable, "__len__")


class Loader(Generic[Batch]):
    """Wraps an iterable of minibatches: announces ahead, reports progress, and yields each with its rows.

    The epochs that it reports go on where the client's loader before it ended. So each of these loops reports epochs 0, 1, 2
    and so on: one loader with ``epochs``, one loader that is iterated again for each epoch, and a new loader for each epoch.
    An iteration that is broken off is followed by the next epoch. With ``epochs``, the announcements run on from one epoch
    into the next.

    A daemon that refuses an announcement (:class:`LimitError`) has no room for it now. The loader keeps the minibatch, goes
    on, and announces it at the next step.

    Parameters
    ----------
    iterable : iterable
        Minibatches of one epoch, for instance a sampler or a ``DataLoader``. It is iterated again for each epoch.
    table : str
        Table whose rows are fetched.
    client : Client, optional
        By default all loaders of the process share one that :func:`connect` makes.
    ids : callable, optional
        The ids of a minibatch; by default the minibatch is its ids.
    epochs : int
        Epochs that one iteration yields.
    epoch : int, optional
        Number of the first epoch, for a training that goes on where another process ended. By default the loader goes on
        where the client's loader before it ended. Later iterations and loaders count on from it.
    steps_per_epoch : int, optional
        By default ``len(iterable)``. Without either, progress is not reported.
    progress : bool
        Whether to report progress and count epochs. Give ``False`` to a loader for validation.
    horizon : int, optional
        Minibatches to announce ahead; by default the number that the daemon asks for, and 0 announces nothing. The loader
        holds the minibatches that are announced.

    Yields
    ------
    batch, rows
        The minibatch as the iterable gave it, and its rows as :meth:`Client.fetch` gives them.

    Raises
    ------
    ValueError
        If a number makes no sense, or ``iterable`` can be used once only (a generator) and ``epochs`` is above 1.
    RuntimeError
        While iterating: if ``iterable`` is used up.

    Examples
    --------
    >>> for epoch in range(10):                                                           # doctest: +SKIP
    ...     for batch, x in rudder.Loader(sampler, "feat", ids=lambda b: b.n_id):
    ...         train(batch, x)
    """

    def __init__(
        self,
        iterable: Iterable[Batch],
        table: str,
        *,
        client: Client | None = None,
        ids: Callable[[Batch], Any] = _itself,
        epochs: int = 1,
        epoch: int | None = None,
        steps_per_epoch: int | None = None,
        progress: bool = True,
        horizon: int | None = None,
    ) -> None:
        for what, value, least in (("epochs", epochs, 1), ("epoch", epoch, 0), ("horizon", horizon, 0)):
            if value is not None and operator.index(value) < least:
                raise ValueError(f"{what} is {value}: it must be at least {least}")
        if epochs > 1 and _is_one_shot(iterable):
            kind = type(iterable).__name__
            raise ValueError(
                f"the minibatches are a {kind}, which can be used once, and epochs is {epochs}: give a list, a DataLoader or "
                "another object whose iter() begins again"
            )
        if steps_per_epoch is None and hasattr(iterable, "__len__"):
            steps_per_epoch = len(iterable)
        self._iterable = iterable
        self._table = table
        self._client = default_client() if client is None else client
        self._ids = ids
        self._epochs = epochs
        self._epoch = epoch
        self._steps_per_epoch = steps_per_epoch
        self._progress = progress
        self._horizon = horizon
        self._used = False

    def __len__(self) -> int:
        if self._steps_per_epoch is None:
            raise TypeError("the length is not known: give steps_per_epoch")
        return self._epochs * self._steps_per_epoch

    def _batches(self) -> Iterator[tuple[int, int, Batch]]:
        """Every minibatch of every epoch, with its epoch (0 is the iteration's first) and step."""
        for epoch in range(self._epochs):
            step = -1
            for step, batch in enumerate(self._iterable):
                yield epoch, step, batch
            if step < 0 and epoch > 0:
                raise _UsedUpError(epoch)

    def __iter__(self) -> Iterator[tuple[Batch, Any]]:
        if self._used and _is_one_shot(self._iterable):
            raise RuntimeError(
                f"the minibatches are a {type(self._iterable).__name__}, and an iteration before this one used it: give a "
                "list, a DataLoader or another object whose iter() begins again"
            )
        self._used = True
        return self._iterate()

    def _iterate(self) -> Iterator[tuple[Batch, Any]]:
        course = self._client._course
        if self._progress and self._epoch is not None:
            course.epoch, self._epoch = self._epoch, None
        first_epoch = course.epoch
        ahead = _Ahead(self)
        while True:
            ahead.announce()
            if not ahead.waiting:
                break
            epoch, step, batch, ids = ahead.pop()
            if self._progress and self._steps_per_epoch:
                course.epoch = first_epoch + epoch + 1
                step = min(step, self._steps_per_epoch)
                self._client.progress(first_epoch + epoch, step, self._steps_per_epoch)
            yield batch, self._client.fetch(self._table, ids)
        if ahead.used_up is not None:
            raise RuntimeError(
                f"the iterable gave no minibatch in epoch {ahead.used_up} of {self._epochs}: it can be used once only; give one "
                "whose iter() begins again"
            )


class _UsedUpError(Exception):
    """The iterable gave nothing in an epoch after the first."""


class _Ahead:
    """The minibatches of one iteration that are sampled and not fetched yet. They are announced in their order.

    Parameters
    ----------
    loader : Loader
        Whose minibatches.

    Attributes
    ----------
    waiting : deque
        Epoch, step, minibatch and ids of each.
    used_up : int or None
        The epoch in which the iterable gave nothing, though it did before.
    """

    def __init__(self, loader: Loader[Any]) -> None:
        self.waiting: deque[tuple[int, int, Any, Any]] = deque()
        self.used_up: int | None = None
        self._loader = loader
        self._batches: Iterator[tuple[int, int, Any]] | None = loader._batches()
        self._announced = 0
        self._asked = 1 if loader._horizon is None else loader._horizon

    def announce(self) -> None:
        """Sample and announce until enough wait, there are no more, or the daemon has no room."""
        # The minibatch that is fetched next is not ahead of itself.
        while self._announce_waiting() and len(self.waiting) <= self._asked and self._sample():
            pass

    def pop(self) -> tuple[int, int, Any, Any]:
        """Take the minibatch that is fetched next."""
        self._announced = max(0, self._announced - 1)
        return self.waiting.popleft()

    def _sample(self) -> bool:
        if self._batches is None:
            return False
        try:
            epoch, step, batch = next(self._batches)
        except StopIteration:
            self._batches = None
            return False
        except _UsedUpError as used_up:
            self._batches, self.used_up = None, used_up.args[0]
            return False
        self.waiting.append((epoch, step, batch, self._loader._ids(batch)))
        return True

    def _announce_waiting(self) -> bool:
        """Whether the daemon took all that waits."""
        loader = self._loader
        client, table = loader._client, loader._table
        while self._asked > 0 and self._announced < len(self.waiting):
            ids = self.waiting[self._announced][3]
            try:
                asked = client.announce(table, ids, client._course.next_step(table))
            except LimitError:
                return False
            self._announced += 1
            if loader._horizon is None:
                # A daemon that wants nothing announced may want it later: one minibatch asks it at each step.
                self._asked = max(1, asked)
        return True

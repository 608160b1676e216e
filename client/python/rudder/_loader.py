"""A loader that announces: minibatches come out with their rows, and the daemon knows those that follow."""

from __future__ import annotations

import operator
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from ._arrays import as_ids
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
        While iterating: if ``iterable`` is used up, gives fewer minibatches in a later epoch than before although it has a
        length or ``steps_per_epoch`` is given, or puts new ids where those of a minibatch lie that still waits.

    Warns
    -----
    RuntimeWarning
        If ``iterable`` gives fewer minibatches in a later epoch than in the first, and its length is not known.

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
        first = 0
        for epoch in range(self._epochs):
            step = -1
            for step, batch in enumerate(self._iterable):
                yield epoch, step, batch
            if epoch == 0:
                first = step + 1
            else:
                self._check_epoch(epoch, step + 1, first)

    def _check_epoch(self, epoch: int, steps: int, first: int) -> None:
        """Speak up if an epoch after the first gave fewer minibatches: training would end early without a word."""
        if steps == 0:
            raise _EpochError(
                f"the iterable gave no minibatch in epoch {epoch} of {self._epochs}: it can be used once only; give one whose "
                "iter() begins again"
            )
        if self._steps_per_epoch is None:
            if steps < first:
                warnings.warn(
                    f"the iterable gave {steps} minibatches in epoch {epoch} and {first} in epoch 0; give steps_per_epoch to "
                    "have that refused",
                    RuntimeWarning,
                    stacklevel=2,
                )
        elif steps < min(first, self._steps_per_epoch):
            raise _EpochError(
                f"the iterable gave {steps} minibatches in epoch {epoch} of {self._epochs}, of {self._steps_per_epoch} that "
                f"an epoch has, and {first} in epoch 0: give one whose iter() begins again, or the right steps_per_epoch"
            )

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
            epoch, step, batch, ids, _ = ahead.pop()
            if self._progress and self._steps_per_epoch:
                course.epoch = first_epoch + epoch + 1
                step = min(step, self._steps_per_epoch)
                self._client.progress(first_epoch + epoch, step, self._steps_per_epoch)
            yield batch, self._client.fetch(self._table, ids)
        if ahead.failure is not None:
            raise ahead.failure


class _EpochError(RuntimeError):
    """An epoch after the first gave too few minibatches."""


#: Ids of a minibatch that are looked at one by one.
_LOOKED_AT = 64


class _Digest(NamedTuple):
    """What tells the ids of one minibatch from those of another."""

    count: int
    total: int
    some: tuple[int, ...]

    @classmethod
    def of(cls, ids: Any) -> _Digest | None:
        """The digest of ids, or ``None`` where they lie on a device, or are no ids: whoever uses them will say so."""
        if getattr(ids, "is_cuda", False):
            return None
        try:
            array, _ = as_ids(ids)
        except (TypeError, ValueError):
            return None
        some = array[:: max(1, len(array) // _LOOKED_AT)]
        return cls(len(array), int(np.add.reduce(array, dtype=np.uint64)), tuple(some.tolist()))


class _Waiting(NamedTuple):
    """A minibatch that was sampled and not fetched yet."""

    epoch: int
    step: int
    batch: Any
    ids: Any
    #: Of the ids when they were sampled.
    digest: _Digest | None


def _reused(waiting: _Waiting) -> RuntimeError:
    return RuntimeError(
        f"the ids of minibatch {waiting.step} of epoch {waiting.epoch} of this iteration have changed while it waited to be "
        "fetched: the iterable puts each minibatch where the one before lies. Have it give copies (ids.copy(), ids.clone()), "
        "or give horizon=0 to announce nothing ahead"
    )


class _Ahead:
    """The minibatches of one iteration that are sampled and not fetched yet. They are announced in their order.

    Parameters
    ----------
    loader : Loader
        Whose minibatches.

    Attributes
    ----------
    waiting : deque of _Waiting
        What was sampled and not fetched yet.
    failure : RuntimeError or None
        What was wrong with the iterable; raised when all that it gave before was fetched.
    """

    def __init__(self, loader: Loader[Any]) -> None:
        self.waiting: deque[_Waiting] = deque()
        self.failure: RuntimeError | None = None
        self._loader = loader
        self._batches: Iterator[tuple[int, int, Any]] | None = loader._batches()
        self._announced = 0
        self._asked = 1 if loader._horizon is None else loader._horizon

    def announce(self) -> None:
        """Sample and announce until enough wait, there are no more, or the daemon has no room."""
        # The minibatch that is fetched next is not ahead of itself.
        while self._announce_waiting() and len(self.waiting) <= self._asked and self._sample():
            pass

    def pop(self) -> _Waiting:
        """Take the minibatch that is fetched next."""
        self._announced = max(0, self._announced - 1)
        taken = self.waiting.popleft()
        if taken.digest is not None and taken.digest != _Digest.of(taken.ids):
            raise _reused(taken)
        return taken

    def _sample(self) -> bool:
        if self._batches is None:
            return False
        try:
            epoch, step, batch = next(self._batches)
        except StopIteration:
            self._batches = None
            return False
        except _EpochError as error:
            self._batches, self.failure = None, error
            return False
        ids = self._loader._ids(batch)
        new = _Waiting(epoch, step, batch, ids, _Digest.of(ids) if self._asked > 0 else None)
        # One object for every minibatch: its ids may be new each time, but what is yielded with the rows is the last.
        last = self.waiting[-1] if self.waiting else None
        if last is not None and last.batch is batch and last.digest != new.digest:
            raise _reused(last)
        self.waiting.append(new)
        return True

    def _announce_waiting(self) -> bool:
        """Whether the daemon took all that waits."""
        loader = self._loader
        client, table = loader._client, loader._table
        while self._asked > 0 and self._announced < len(self.waiting):
            ids = self.waiting[self._announced].ids
            try:
                asked = client.announce(table, ids, client._course.next_step((table,)))
            except LimitError:
                return False
            self._announced += 1
            if loader._horizon is None:
                # A daemon that wants nothing announced may want it later: one minibatch asks it at each step.
                self._asked = max(1, asked)
        return True

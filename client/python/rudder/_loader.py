"""A loader over one table that may run on from one epoch into the next: a form of :class:`rudder.Ahead`.

It owns nothing but the checks of several epochs in one iteration. It must never announce, fetch or count by itself.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from ._ahead import Ahead, Batch, is_one_shot
from ._client import Client

__all__ = ["Loader"]


def _itself(batch: Any) -> Any:
    return batch


def _pair(table: str, ids: Callable[[Any], Any], batch: Any) -> tuple[str, Any]:
    return table, ids(batch)


class Loader(Ahead[Batch]):
    """Wraps an iterable of minibatches: announces ahead, reports progress, and yields each with its rows.

    It is an :class:`Ahead` over one table. The epochs that it reports go on where the client's loader before it ended. So each
    of these loops reports epochs 0, 1, 2 and so on: one loader with ``epochs``, one loader that is iterated again for each
    epoch, and a new loader for each epoch. An iteration that is broken off is followed by the next epoch. With ``epochs``, the
    announcements run on from one epoch into the next.

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
    steps_per_epoch, progress
        As :class:`Ahead`.
    horizon : int, optional
        Minibatches to announce ahead; by default the number that the daemon asks for. The loader holds the minibatches that
        are announced. 0 announces nothing.
    overlap : int, optional
        As :class:`Ahead`; by default 1, and 0 where ``horizon`` is 0, so that no minibatch waits.

    Yields
    ------
    batch, rows
        The minibatch as the iterable gave it, and its rows as :meth:`Client.fetch` gives them.

    Raises
    ------
    ValueError
        If a number makes no sense, or ``iterable`` can be used once only (a generator) and ``epochs`` is above 1.
    RuntimeError
        While iterating: as :class:`Ahead`, or if ``iterable`` gives fewer minibatches in a later epoch than before although it
        has a length or ``steps_per_epoch`` is given.

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
        overlap: int | None = None,
    ) -> None:
        for what, value, least in (("epochs", epochs, 1), ("epoch", epoch, 0)):
            if value is not None and operator.index(value) < least:
                raise ValueError(f"{what} is {value}: it must be at least {least}")
        if epochs > 1 and is_one_shot(iterable):
            kind = type(iterable).__name__
            raise ValueError(
                f"the minibatches are a {kind}, which can be used once, and epochs is {epochs}: give a list, a DataLoader or "
                "another object whose iter() begins again"
            )
        if overlap is None:
            overlap = 0 if horizon == 0 else 1
        super().__init__(
            iterable,
            partial(_pair, table, ids),
            client=client,
            horizon=horizon,
            overlap=overlap,
            progress=progress,
            steps_per_epoch=steps_per_epoch,
        )
        self._epochs = epochs
        self._epoch = epoch
        # Of the first epoch of the iteration.
        self._steps_first = 0

    def _iterate(self) -> Iterator[tuple[Batch, Any]]:
        if self._progress and self._epoch is not None:
            self._client._course.epoch, self._epoch = self._epoch, None
        return super()._iterate()

    def _end_of_epoch(self, epoch: int, steps: int) -> None:
        """Speak up if an epoch after the first gave fewer minibatches: training would end early without a word."""
        if epoch == 0:
            self._steps_first = self._steps_seen = steps
            return
        first, known = self._steps_first, self._steps_per_epoch or self._length()
        if steps == 0:
            raise RuntimeError(
                f"the iterable gave no minibatch in epoch {epoch} of {self._epochs}: it can be used once only; give one whose "
                "iter() begins again"
            )
        if known is None:
            if steps < first:
                warnings.warn(
                    f"the iterable gave {steps} minibatches in epoch {epoch} and {first} in epoch 0; give steps_per_epoch to "
                    "have that refused",
                    RuntimeWarning,
                    stacklevel=2,
                )
        elif steps < min(first, known):
            raise RuntimeError(
                f"the iterable gave {steps} minibatches in epoch {epoch} of {self._epochs}, of {known} that "
                f"an epoch has, and {first} in epoch 0: give one whose iter() begins again, or the right steps_per_epoch"
            )
